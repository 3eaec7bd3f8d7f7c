# SPDX-License-Identifier: Apache-2.0
"""``lmi check``: everything that would stop a model, before a weight is read or a device touched."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from lmi.api import LmiError, Problem, Severity
from lmi.api.errors import counted
from lmi.checking import problems_as_json, problems_of
from lmi.cli.arguments import Asked, of_models
from lmi.cli.machine import AskedMachine, of_machine
from lmi.devices.sharing import shared_devices
from lmi.loading import LoadPlan, plan_of
from lmi.planning.estimates import memory_line
from lmi.plugins import Plugins
from lmi.probing import probe
from lmi.resolution import Resolution, resolve
from lmi.starting import refuse_start
from lmi.toolchain import parse_versions

_EXIT_PROBLEMS = 1


@click.command()
@of_models
@of_machine
@click.option(
    "--target",
    "versions",
    metavar="NAME=VERSION,...",
    default="",
    help="Versions of what the container compiles with.  [default: what the image's file says, or is installed]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    instance: str | None, device_memory: str | None, devices: str | None, versions: str, as_json: bool, **asked: Any
) -> None:
    """Check configuration and files of MODEL, and whether they fit a machine.

    It is this machine, or the one that flags name. On this one the engine is looked at, too: whether the Python of the
    workers has it, in a version that the backend can drive. MODEL is as `lmi serve` takes it. One that is elsewhere is
    not fetched: it is judged by its listing, its small files and the headers of its weights. Exit code 1: there are
    problems.
    """
    machine = AskedMachine(instance=instance, device_memory=device_memory, devices=devices).target()
    plugins = Plugins.discover(os.environ)
    known = parse_versions(versions, plugins.backends.values())
    start = Asked(**asked).read(os.environ)
    found = {
        entry.name: resolve(
            entry, flags=start.flags, environ=start.environ, plugins=plugins, defaults=start.defaults,
            default_folder=start.default_folder, devices=machine, versions=known,
        )
        for entry in start.entries
    }  # fmt: skip
    shared = shared_devices({name: each.copies for name, each in found.items()})
    results = [_checked(each, [*start.warnings, *shared[name]], plugins) for name, each in found.items()]
    if as_json:
        click.echo(json.dumps(results[0] if len(results) == 1 else results, indent=1))
    elif not results:
        click.echo("no model: load_models says so")
    else:
        for result in results:
            _print(result)
    if not all(result["is_valid"] for result in results):
        raise SystemExit(_EXIT_PROBLEMS)


def _checked(found: Resolution, known: Sequence[Problem], plugins: Plugins) -> dict[str, Any]:
    """The stable form for programs: of one model; of several, the command prints a list of them."""
    problems = [*known, *found.problems]
    made = None
    try:
        made = plan_of(found, plugins)
        problems += made.warnings
        refuse_start(made, plugins, is_here=found.is_here)
        is_valid = True
    except LmiError as error:
        errors = problems_of(error)
        told = {problem.code for problem in errors}
        problems = [problem for problem in problems if problem.code not in told or problem.severity is Severity.ERROR]
        problems += errors
        is_valid = False
    unfit = probe(found, plugins)
    problems += unfit
    is_valid = is_valid and all(problem.severity is Severity.WARNING for problem in unfit)
    problems = list(dict.fromkeys(problems))
    return {
        "schema": "lmi.check/1",
        "model": found.entry.name,
        "backend": None if found.choice is None else found.choice.info.name,
        "reason": None if found.choice is None else found.choice.reason,
        "format": None if found.artifacts is None else found.artifacts.format.value,
        "place": (found.artifacts.folder or None) if found.artifacts is not None else None,
        "machine": found.target.instance or f"{found.target.accelerator.value}:{found.target.n_devices}",
        "memory": _memory(made, is_here=found.is_here),
        "is_valid": is_valid,
        "problems": problems_as_json(problems),
    }


def _print(result: dict[str, Any]) -> None:
    found = [Problem(**{**each, "severity": Severity(each["severity"])}) for each in result["problems"]]
    for problem in found:
        click.echo(f"{problem.severity.value}: {problem}")
    if result["memory"]:
        click.echo(f"memory: {result['memory']}")
    errors = [problem for problem in found if problem.severity is Severity.ERROR]
    n_warnings = len(found) - len(errors)
    told = f" ({counted(n_warnings, 'warning')})" if n_warnings else ""
    if errors:
        click.echo(f"{result['model']}: {counted(len(errors), 'problem')}{told}")
    else:
        click.echo(f"{result['model']}: would be served by {result['backend']}: {result['reason']}{told}")


def _memory(made: LoadPlan | None, *, is_here: bool) -> str | None:
    """What the model takes, in one line; None where that is not known."""
    if made is None:
        return None
    return memory_line(made.artifacts, made.config, made.info, made.target, is_here=is_here) or None
