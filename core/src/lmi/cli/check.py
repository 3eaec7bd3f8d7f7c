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
from lmi.checking import problems_of
from lmi.cli.arguments import Asked, of_models
from lmi.config.model_entries import ModelEntry
from lmi.devices.sharing import shared_devices
from lmi.loading import plan_of, refuse_start
from lmi.plugins import Plugins
from lmi.reading import Start
from lmi.resolution import Resolution, resolve

_EXIT_PROBLEMS = 1


@click.command()
@of_models
@click.option("--devices", metavar="KIND:N", help="Check for another machine: cuda:4, neuron:12, cpu.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(devices: str | None, as_json: bool, **asked: Any) -> None:
    """Check configuration and files of MODEL, and whether they fit this machine.

    MODEL is as `lmi serve` takes it. Weights of a model on the hub are not fetched, and not checked. Exit code 1: there
    are problems.
    """
    plugins = Plugins.discover(os.environ)
    start = Asked(**asked).read(os.environ)
    found = {entry.name: _resolved(entry, start, plugins, devices) for entry in start.entries}
    shared = shared_devices({name: each.copies for name, each in found.items()})
    results = [
        _checked(each, [*start.warnings, *shared[name]], plugins, is_here=devices is None)
        for name, each in found.items()
    ]
    if as_json:
        click.echo(json.dumps(results[0] if len(results) == 1 else results, indent=1))
    elif not results:
        click.echo("no model: load_models says so")
    else:
        for result in results:
            _print(result)
    if not all(result["is_valid"] for result in results):
        raise SystemExit(_EXIT_PROBLEMS)


def _resolved(entry: ModelEntry, start: Start, plugins: Plugins, devices: str | None) -> Resolution:
    return resolve(
        entry, flags=start.flags, environ=start.environ, plugins=plugins, defaults=start.defaults,
        default_folder=start.default_folder, devices=devices,
    )  # fmt: skip


def _checked(found: Resolution, known: Sequence[Problem], plugins: Plugins, *, is_here: bool) -> dict[str, Any]:
    """The stable form for programs: of one model; of several, the command prints a list of them."""
    problems = [*known, *found.problems]
    try:
        made = plan_of(found, plugins, weights=False)
        problems += made.warnings
        refuse_start(made, plugins, is_here=is_here)
        is_valid = True
    except LmiError as error:
        errors = problems_of(error)
        told = {problem.code for problem in errors}
        problems = [problem for problem in problems if problem.code not in told or problem.severity is Severity.ERROR]
        problems += errors
        is_valid = False
    problems = list(dict.fromkeys(problems))
    return {
        "model": found.entry.name,
        "backend": None if found.choice is None else found.choice.info.name,
        "reason": None if found.choice is None else found.choice.reason,
        "format": None if found.artifacts is None else found.artifacts.format.value,
        "is_valid": is_valid,
        "problems": [
            {
                "code": problem.code,
                "severity": problem.severity.value,
                "message": problem.message,
                "hint": problem.hint,
                "path": problem.path,
                "source": problem.source,
            }
            for problem in problems
        ],
    }


def _print(result: dict[str, Any]) -> None:
    found = [Problem(**{**each, "severity": Severity(each["severity"])}) for each in result["problems"]]
    for problem in found:
        click.echo(f"{problem.severity.value}: {problem}")
    errors = [problem for problem in found if problem.severity is Severity.ERROR]
    n_warnings = len(found) - len(errors)
    told = f" ({counted(n_warnings, 'warning')})" if n_warnings else ""
    if errors:
        click.echo(f"{result['model']}: {counted(len(errors), 'problem')}{told}")
    else:
        click.echo(f"{result['model']}: would be served by {result['backend']}: {result['reason']}{told}")
