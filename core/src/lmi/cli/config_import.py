# SPDX-License-Identifier: Apache-2.0
"""``lmi config import``: the environment of an endpoint, rewritten as a configuration of LMI."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from lmi.api import ConfigError
from lmi.api.errors import sentences
from lmi.imports import (
    Fate,
    Translation,
    as_properties,
    as_variables,
    read_environment,
    recognise,
    server_names,
    table_of,
    translate,
)
from lmi.imports.write import unwritable
from lmi.plugins import Plugins
from lmi.target import parse_devices

_EXIT_CHANGES = 1
_TOLD = {Fate.CHANGES: "changes answers", Fate.NO_EFFECT: "left out", Fate.KEPT: "keep as a variable"}
"""Fates of which standard error tells, the weightiest first."""


class WithImport(click.Command):
    """A command whose first argument may be ``import``, which is a command of its own."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == ["import"]:
            return config_import.make_context(f"{info_name} import", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command("import")
@click.argument("files", nargs=-1, metavar="[FILE ...|-]")
@click.option(
    "--from", "server", type=click.Choice(["auto", *server_names()]), default="auto", show_default=True,
    help="Whom the variables were written for.",
)  # fmt: skip
@click.option("--to", "backend", metavar="BACKEND", help="The backend that is to serve, instead of what they say.")
@click.option("--devices", metavar="KIND:N", help="Judge for a machine: cuda:4, neuron:12, cpu.")
@click.option("--env", "as_env", is_flag=True, help="Print OPTION_* variables.")
@click.option("--properties", "as_file", is_flag=True, help="Print a serving.properties file.  [default]")
def config_import(
    files: tuple[str, ...], server: str, backend: str | None, devices: str | None, as_env: bool, as_file: bool
) -> None:
    """Rewrite an endpoint's variables, written for LMI or for another server, as a configuration of LMI.

    FILE holds KEY=VALUE lines, JSON as describe-model or docker inspect print it, or a notebook's Python with a dict,
    which is read and not run; - is standard input; without FILE, this process's variables are read. What has no
    counterpart is told on standard error. Exit code 1: something that has none changes what the endpoint answers, or
    cannot be written.
    """
    if as_env and as_file:
        raise click.UsageError("--env and --properties exclude each other")
    variables: dict[str, str] = {} if files else dict(os.environ)
    for name in files:
        variables |= read_environment(_text(name), "standard input" if name == "-" else name, os.environ)
    table = recognise(variables) if server == "auto" else table_of(server)
    target = parse_devices(devices) if devices else None
    found = translate(variables, table, Plugins.discover(os.environ), backend, target)
    click.echo("\n".join(as_variables(found) if as_env else as_properties(found)))
    _tell(found, tells_strangers=bool(files), as_file=not as_env)
    if found.changes_answers or unwritable(found, as_file=not as_env):
        raise SystemExit(_EXIT_CHANGES)


def _text(name: str) -> str:
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            "config.unreadable", f"{name} cannot be read: {reason}", [], "Name a text file, or - for standard input"
        ) from error


def _tell(found: Translation, *, tells_strangers: bool, as_file: bool) -> None:
    """What a reader of the file should know, on standard error."""
    click.echo(f"read as variables of {found.server}", err=True)
    for fate, words in _TOLD.items():
        for (why, instead), variables in _by_reason(found, fate).items():
            click.echo(f"{words}: {sentences(f'{variables}: {why}', instead)}", err=True)
    strangers = [each.variable for each in found.outcomes if each.fate is Fate.KEPT and not each.why]
    if strangers and tells_strangers:
        click.echo(f"keep as variables, which are no one's in particular: {', '.join(strangers)}", err=True)
    for line in unwritable(found, as_file=as_file):
        click.echo(str(line), err=True)
    for flag in found.flags:
        click.echo(f"start with: lmi serve {flag}", err=True)
    for remark in found.remarks:
        click.echo(f"note: {remark}", err=True)
    for problem in found.problems:
        click.echo(f"{problem.severity.value}: {problem}", err=True)


def _by_reason(found: Translation, fate: Fate) -> dict[tuple[str, str], str]:
    """Variables of one fate, those with the same reason together, so that it is told once."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for each in found.outcomes:
        if each.fate is fate and each.why:
            grouped.setdefault((each.why, each.instead), []).append(f"{each.variable}={each.shown}")
    return {reason: ", ".join(variables) for reason, variables in grouped.items()}
