# SPDX-License-Identifier: Apache-2.0
"""``lmi check``: everything that would stop a model, before a weight is read or a device touched."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from lmi.api import LmiError, Problem, ProblemsError, Severity
from lmi.api.errors import counted
from lmi.cli.arguments import Asked, of_models
from lmi.config.model_entries import ModelEntry
from lmi.loading import LoadPlan, plan
from lmi.plugins import Plugins
from lmi.reading import Start

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
    results = [_checked(entry, start, plugins, devices) for entry in start.entries]
    if as_json:
        click.echo(json.dumps(results[0] if len(results) == 1 else results, indent=1))
    else:
        for problem in start.warnings:
            click.echo(f"{problem.severity.value}: {problem}")
        for result in results:
            _print(result)
    if not all(result["is_valid"] for result in results):
        raise SystemExit(_EXIT_PROBLEMS)


def _checked(entry: ModelEntry, start: Start, plugins: Plugins, devices: str | None) -> dict[str, Any]:
    """The stable form for programs: of one model; of several, the command prints a list of them."""
    made: LoadPlan | None = None
    try:
        made = plan(
            entry, flags=start.flags, environ=start.environ, plugins=plugins, defaults=start.defaults,
            default_folder=start.default_folder, devices=devices, weights=False,
        )  # fmt: skip
        problems = list(made.warnings)
    except ProblemsError as error:
        problems = list(error.problems) or [_of(error)]
    except LmiError as error:
        problems = [_of(error)]
    return {
        "model": entry.name,
        "backend": None if made is None else made.info.name,
        "reason": None if made is None else made.reason,
        "format": None if made is None else made.artifacts.format.value,
        "is_valid": made is not None,
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


def _of(error: LmiError) -> Problem:
    return Problem(code=error.code, message=error.message, hint=error.hint)


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
