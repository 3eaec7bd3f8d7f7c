# SPDX-License-Identifier: Apache-2.0
"""``lmi config``: every option with its value, where it was set, and what it overrode."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from lmi.api import NotFoundError, Severity
from lmi.config.names import did_you_mean
from lmi.config.settings import parse_flags
from lmi.config.tables import options_table
from lmi.effective import Effective, as_properties, as_variables, effective
from lmi.plugins import Plugins

_EXIT_PROBLEMS = 1


@click.command()
@click.argument("model", required=False)
@click.option(
    "-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Set an option; wins over all files."
)
@click.option("--devices", metavar="KIND:N", help="Resolve for another machine: cuda:4, neuron:12, cpu.")
@click.option("--all", "shows_all", is_flag=True, help="Show options at their defaults, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--env", "as_env", is_flag=True, help="Print what is set as OPTION_* variables.")
@click.option("--properties", "as_file", is_flag=True, help="Print what is set as a serving.properties file.")
@click.option("--keys", metavar="BACKEND", help="Print the options of a backend, as its README has them.")
@click.option("--schema", metavar="BACKEND", help="Print the options of a backend as a JSON Schema.")
def config(
    model: str | None,
    options: tuple[str, ...],
    devices: str | None,
    shows_all: bool,
    as_json: bool,
    as_env: bool,
    as_file: bool,
    keys: str | None,
    schema: str | None,
) -> None:
    """Show what a configuration comes to, and everything that is wrong with it.

    MODEL is a folder or ORG/NAME; without it, what option.model_id says, else the container's model folder. Nothing is
    loaded. Exit code 1: there are problems.
    """
    plugins = Plugins.discover(os.environ)
    if keys or schema:
        kind = plugins.config_type(_known(plugins, keys or schema or ""))
        click.echo(options_table(kind) if keys else json.dumps(kind.model_json_schema(), indent=1))
        return
    found = effective(model, flags=parse_flags(options), environ=os.environ, plugins=plugins, devices=devices)
    if as_json:
        click.echo(json.dumps(as_dict(found), indent=1))
    elif as_env or as_file:
        click.echo("\n".join(as_variables(found) if as_env else as_properties(found)))
    else:
        _print_table(found, shows_all=shows_all)
    if not as_json:
        for problem in found.problems:
            click.echo(f"{problem.severity.value}: {problem}", err=True)
    if not found.is_valid:
        raise SystemExit(_EXIT_PROBLEMS)


def as_dict(found: Effective) -> dict[str, Any]:
    """The stable form for programs."""
    texts: dict[Severity, list[str]] = {severity: [] for severity in Severity}
    for problem in found.problems:
        texts[problem.severity].append(str(problem))
    return {
        "backend": None if found.choice is None else found.choice.info.name,
        "reason": None if found.choice is None else found.choice.reason,
        "mode": None if found.choice is None else found.choice.info.launch.value,
        "workers": found.n_workers,
        "devices": f"{found.target.accelerator.value}:{found.target.n_devices}",
        "options": {
            key: {"value": each.value, "source": each.source, "overrode": list(each.overrode)}
            for key, each in found.options.items()
        },
        "warnings": texts[Severity.WARNING],
        "problems": texts[Severity.ERROR],
    }


def _known(plugins: Plugins, backend: str) -> str:
    if backend not in {record.name for record in plugins.records}:
        installed = sorted(plugins.backends)
        hint = did_you_mean(backend, installed, f"Installed: {', '.join(installed) or 'none'}")
        raise NotFoundError("plugin.not-installed", f"there is no backend '{backend}'", hint)
    return backend


def _print_table(found: Effective, *, shows_all: bool) -> None:
    if found.choice is not None:
        click.echo(f"backend  {found.choice.info.name}: {found.choice.reason}")
    click.echo(f"devices  {found.target.accelerator.value}:{found.target.n_devices}")
    click.echo(f"workers  {found.n_workers}")
    rows = [
        (key, each.value, each.source, ", ".join(each.overrode))
        for key, each in found.options.items()
        if shows_all or each.source != "default"
    ]
    if rows:
        rows = [("option", "value", "source", "overrode"), *rows]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        click.echo()
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            click.echo("  ".join([*cells, row[-1]]).rstrip())
