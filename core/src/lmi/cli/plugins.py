# SPDX-License-Identifier: Apache-2.0
"""``lmi plugins``: what is installed, in which state, and why."""

from __future__ import annotations

import json
import os

import click

from lmi.api import EngineLibrary, NotFoundError
from lmi.api.errors import sentences
from lmi.config.names import did_you_mean
from lmi.plugins import PluginRecord, Plugins, State
from lmi.plugins.libraries import installed

_COLUMNS = ("name", "kind", "distribution", "version", "state", "reason")


@click.command()
@click.option(
    "--check", "checked", metavar="NAME", help="Show one plugin with its whole traceback; exit 1 if unusable."
)
@click.option("--options", "described", metavar="NAME", help="Print a backend's options as its README has them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(checked: str | None, described: str | None, as_json: bool) -> None:
    """List backends and extensions, and what is wrong with them."""
    if described is not None:
        _print_options(described)
        return
    records = list(Plugins.discover(os.environ).records)
    if checked is not None:
        records = _named(records, checked)
    if as_json:
        click.echo(json.dumps([_details(record) for record in records], indent=2))
    elif not records:
        click.echo("No plugins are installed. Backends are packages called lmi-<name>.")
    else:
        _print_table(records)
        if checked is not None:
            _print_details(records)
    if checked is not None and any(record.state is not State.READY for record in records):
        raise SystemExit(1)


def _print_options(backend: str) -> None:
    from lmi.cli.config import options_of

    click.echo(options_of(Plugins.discover(os.environ), backend))


def _named(records: list[PluginRecord], name: str) -> list[PluginRecord]:
    found = [record for record in records if record.name == name]
    if not found:
        installed = sorted({record.name for record in records})
        hint = did_you_mean(name, installed, f"Installed: {', '.join(installed) or 'none'}")
        raise NotFoundError("plugin.not-installed", f"there is no plugin '{name}'", hint)
    return found


def _details(record: PluginRecord) -> dict[str, str]:
    return _row(record) | {"code": record.code, "traceback": record.traceback}


def _row(record: PluginRecord) -> dict[str, str]:
    said = sentences(record.reason, record.hint) if record.hint else record.reason
    return {
        "name": record.name,
        "kind": record.kind.value,
        "distribution": record.distribution,
        "version": record.version,
        "state": record.state.value,
        "reason": said or (record.info.summary if record.info else ""),
    }


def _print_table(records: list[PluginRecord]) -> None:
    rows = [_COLUMNS, *(tuple(_row(record).values()) for record in records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]).rstrip())


def _print_details(records: list[PluginRecord]) -> None:
    for record in records:
        if record.traceback:
            click.echo(f"\n{record.traceback.rstrip()}")
        if record.info is not None:
            click.echo(f"\nrolling_batch: {', '.join((record.info.name, *record.info.rolling_batch))}")
            click.echo(f"accelerators:  {', '.join(each.value for each in record.info.accelerators)}")
            click.echo(f"engine:        {', '.join(map(_engine, record.info.engine_libraries)) or 'needs none'}")
            click.echo(f"capabilities:  {', '.join(sorted(each.value for each in record.info.capabilities))}")


def _engine(library: EngineLibrary) -> str:
    found = [f"{name} {version}" for choice in library.choices for name, version in installed(choice).items()]
    names = [name for choice in library.choices for name in choice.names]
    return " and ".join(found) or f"{' or '.join(names)} (not installed)"
