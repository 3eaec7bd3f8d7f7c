# SPDX-License-Identifier: Apache-2.0
"""``lmi contract``: does a backend keep the contract, on this machine?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from lmi.testing.rules import STATIC_GROUPS

LANES = {"static": ",".join(STATIC_GROUPS), "all": ""}
"""Name -> the rules of it. ``static`` needs neither the engine library nor a device."""


@click.command()
@click.argument("backend")
@click.option(
    "--model", default=None, help="A model folder, or the name of a tiny architecture.  [default: the case's]"
)
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Set an option of the backend.")
@click.option(
    "--lane",
    type=click.Choice(list(LANES)),
    default="all",
    show_default=True,
    help="Which rules to run; static: those that need neither the engine library nor a device.",
)
@click.option(
    "--rules",
    default="",
    metavar="IDS",
    help="Run these rules and groups alone: P,C,G6,K-seed. With a --lane, what is in both is run.",
)
@click.option(
    "--inexact", is_flag=True, help="Compare ids by their log probabilities: for number types that round, as bf16."
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report: JSON, or Markdown to a path that ends with .md.",
)
def contract(
    backend: str,
    model: str | None,
    options: tuple[str, ...],
    lane: str,
    rules: str,
    inexact: bool,
    reports: tuple[Path, ...],
) -> None:
    """Check which rules of the contract BACKEND keeps.

    The case (settings, model, known failures) is what the plugin publishes under the entry-point group lmi.contract;
    without one, the backend's defaults are tested. Of pytest's environment and plugins nothing is used.

    Exit code 0: every rule is kept, about something the backend does not declare, or a known failure; 1: a rule is
    broken; 2: backend, model, rules or options are not there.
    """
    try:
        from lmi.testing.session import run
    except ImportError as error:
        from lmi.api import PluginError

        raise PluginError(
            "contract.no-pytest", f"the contract's tests need {error.name}", "pip install 'lmi-core[testing]'"
        ) from error
    from lmi.config.sources import parse_flags

    code = run(
        backend,
        model=model,
        settings=parse_flags(options),
        is_exact=False if inexact else None,
        rules=rules,
        lane=LANES[lane],
        reports=reports,
    )
    _end(code)


def _end(code: int) -> NoReturn:
    """End without waiting: Python joins the threads of executors, and those of an engine may never return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
