# SPDX-License-Identifier: Apache-2.0
"""``lmi contract``: does a backend keep the contract, on this machine?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

LANES = {"static": "P,C,A", "all": ""}
"""Name -> the rules of it. ``static`` needs neither the engine library nor a device."""


@click.command()
@click.argument("backend")
@click.option(
    "--model", default=None, help="A model folder, or the name of a tiny architecture.  [default: the case's]"
)
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Set an option of the backend.")
@click.option("--lane", type=click.Choice(list(LANES)), default="all", show_default=True, help="Which rules to run.")
@click.option("--rules", default="", metavar="IDS", help="Run these rules and groups alone: P,C,G6,K-seed.")
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
    without one, the backend's defaults are tested. Exit code 0: every rule is kept or a known failure.
    """
    try:
        from lmi.testing.session import run
    except ImportError as error:
        from lmi.api import PluginError

        raise PluginError(
            "contract.no-pytest", f"the contract's tests need {error.name}", "pip install 'lmi-core[testing]'"
        ) from error
    from lmi.config.settings import parse_flags

    sys.exit(
        run(
            backend,
            model=model,
            settings=parse_flags(options),
            is_exact=False if inexact else None,
            rules=rules or LANES[lane],
            reports=reports,
        )
    )
