# SPDX-License-Identifier: Apache-2.0
"""``lmi config``: every option with its value, where it was set, and what it overrode."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from lmi.api import NotFoundError, Problem, Severity
from lmi.cli.arguments import Asked, of_models
from lmi.cli.config_export import print_form
from lmi.cli.config_import import WithImport
from lmi.config.names import SERVER_KEYS, did_you_mean
from lmi.config.options import ModelOptions
from lmi.config.tables import options_table, unsupported_table
from lmi.config.writing import Form
from lmi.devices.sharing import shared_devices
from lmi.effective import Effective, effective
from lmi.plugins import Plugins
from lmi.reading import Start

_EXIT_PROBLEMS = 1
_ALL = "*"
_UNSET = "unset"


@click.command(cls=WithImport)
@of_models
@click.option("--devices", metavar="KIND:N", help="Resolve for another machine: cuda:4, neuron:12, cpu.")
@click.option("--all", "shows_all", is_flag=True, help="Show options at their defaults, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--env", "as_env", is_flag=True, help="Print what is set as OPTION_* variables.")
@click.option("--properties", "as_file", is_flag=True, help="Print what is set as a serving.properties file.")
@click.option(
    "--keys",
    metavar="[BACKEND]",
    is_flag=False,
    flag_value=_ALL,
    help="Print the options of a backend, as its README has them; those of every model, and of all backends.",
)
@click.option("--schema", metavar="BACKEND", help="Print the options of a backend as a JSON Schema.")
def config(
    devices: str | None,
    shows_all: bool,
    as_json: bool,
    as_env: bool,
    as_file: bool,
    keys: str | None,
    schema: str | None,
    **asked: Any,
) -> None:
    """Show what a configuration comes to, and everything that is wrong with it.

    MODEL is a folder, an s3:// prefix, or ORG/NAME; without it, what SERVING_LOAD_MODELS or option.model_id says, else
    what the container's model folder holds. Nothing is loaded. Exit code 1: there are problems, or --env
    or --properties has no words for a value.

    lmi config import [FILE] rewrites the variables of an endpoint, of another server too, as a configuration.
    """
    plugins = Plugins.discover(os.environ)
    if keys or schema:
        click.echo(options_of(plugins, keys) if keys else _schema_of(plugins, schema or ""))
        return
    if as_env + as_file + as_json > 1:
        raise click.UsageError("--json, --env and --properties exclude each other")
    start = Asked(**asked).read(os.environ)
    found = _effective(start, plugins, devices)
    is_whole = True
    if as_json:
        dicts = [as_dict(each, start.warnings) for each in found]
        click.echo(json.dumps(dicts[0] if len(dicts) == 1 else dicts, indent=1))
    elif as_env or as_file:
        is_whole = print_form(found, start, Form.VARIABLES if as_env else Form.FILE)
    else:
        _print_tables(found, start, shows_all=shows_all)
    if not as_json:
        _tell(found, start)
    if not is_whole or not all(each.is_valid for each in found):
        raise SystemExit(_EXIT_PROBLEMS)


def _effective(start: Start, plugins: Plugins, devices: str | None) -> list[Effective]:
    found = [
        effective(
            entry, flags=start.flags, environ=start.environ, plugins=plugins, devices=devices, defaults=start.defaults
        )
        for entry in start.entries
    ]
    shared = shared_devices({each.name: each.copies for each in found})
    for each in found:
        each.problems += shared[each.name]
    return found


def options_of(plugins: Plugins, backend: str) -> str:
    """The table of a backend's options; of everything where the backend is ``*``.

    Raises:
        NotFoundError: there is no such backend.
    """
    if backend != _ALL:
        return options_table(plugins.config_type(_known(plugins, backend)))
    parts = ["# every model", options_table(ModelOptions)]
    for name, kind in sorted(plugins.config_types().items()):
        parts += [f"# {name}", options_table(kind)]
    return "\n\n".join([*parts, "# keys that are none", unsupported_table()])


def _schema_of(plugins: Plugins, backend: str) -> str:
    return json.dumps(plugins.config_type(_known(plugins, backend)).model_json_schema(), indent=1)


def _tell(found: Sequence[Effective], start: Start) -> None:
    """Every problem on standard error; of several models, with the model's name."""
    for problem in start.warnings:
        click.echo(f"{problem.severity.value}: {problem}", err=True)
    for each in found:
        model = f"model '{each.name}': " if len(found) > 1 else ""
        for problem in each.problems:
            click.echo(f"{problem.severity.value}: {model}{problem}", err=True)


def _print_tables(found: Sequence[Effective], start: Start, *, shows_all: bool) -> None:
    _print_server(start)
    for each in found:
        _print_heading(each, found)
        _print_table(each, shows_all=shows_all)


def _print_heading(one: Effective, found: Sequence[Effective]) -> None:
    if len(found) > 1:
        click.echo(f"\nmodel    {one.name}")


def _print_server(start: Start) -> None:
    """What is set for the whole server, and the models it would load."""
    if not start.entries:
        click.echo("models   none, as load_models says")
    for setting in start.server_settings.values():
        if setting.key in SERVER_KEYS:
            beaten = "".join(f"  {each.shown} ({each.source})" for each in setting.overrode)
            click.echo(f"server   {setting.key}={setting.shown}  {setting.source}{beaten}")


def as_dict(found: Effective, of_server: Sequence[Problem] = ()) -> dict[str, Any]:
    """The stable form for programs: of one model; of several, the command prints a list of them.

    ``slices`` are the devices of each copy, ``[["0", "1"], ["2", "3"]]``, by the names that the variables of their kind
    give them. The first ``workers`` of them start at once, the rest is for further copies. None on CPU.
    """
    texts: dict[Severity, list[str]] = {severity: [] for severity in Severity}
    for problem in (*of_server, *found.problems):
        texts[problem.severity].append(str(problem))
    return {
        "model": found.name,
        "backend": None if found.choice is None else found.choice.info.name,
        "reason": None if found.choice is None else found.choice.reason,
        "mode": None if found.choice is None else found.choice.info.launch.value,
        "workers": found.n_workers,
        "devices": f"{found.target.accelerator.value}:{found.target.n_devices}",
        "slices": [list(each) for each in found.slices],
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
    for number, devices in enumerate(found.slices[: found.n_workers]):
        click.echo(f"{number:>9}  {found.target.accelerator.value}:{','.join(devices)}")
    rows = [
        (key, _UNSET if each.value is None else each.value, each.source, ", ".join(each.overrode))
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
