# SPDX-License-Identifier: Apache-2.0
"""``lmi generate``: answer the prompts of a file, without a port."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmi.cli.arguments import Asked, log_to_stderr, of_models, with_drain_timeout, with_log_level
from lmi.cli.main import EXIT_FAILURE

if TYPE_CHECKING:
    from lmi.offline import Work
    from lmi.reading import Start


@click.command()
@click.argument("prompts", type=click.Path(dir_okay=False, path_type=Path))
@of_models
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the answers go, a line each.",
)
@click.option(
    "--at-once",
    "n_at_once",
    type=click.IntRange(1),
    default=None,
    help="Lines asked at the same time.  [default: as many as fit the model's batch]",
)
@click.option("--retry-failed", is_flag=True, help="Ask lines again that an earlier run answered with an error.")
@with_drain_timeout("lines that are being answered may go on after Ctrl-C or SIGTERM")
@with_log_level
def generate(
    prompts: Path,
    output: Path,
    n_at_once: int | None,
    retry_failed: bool,
    drain_timeout: float,
    log_level: str,
    **asked: Any,
) -> None:
    """Answer the lines of PROMPTS with MODEL, without a port.

    The same command goes on where a run was cut. A line is a JSON object: {"inputs": ..., "parameters": {...}},
    {"messages": [...]} or {"prompt": ...}, as the route /invocations takes them, and an "id" if it has one. A line that
    fails is answered with its error.

    Exit code 0: every line has an answer; 1: lines failed, or are missing; 2: model, configuration or files are wrong.
    """
    from lmi.offline import Records, Work, prompts_of

    log_to_stderr(log_level)
    start = Asked(**asked).read(os.environ)
    n_lines = sum(1 for _ in prompts_of(prompts))
    records = Records(output)
    try:
        missing = set(records.missing(prompts_of(prompts), asks_failed=retry_failed))
        if missing:
            logging.getLogger(__name__).info("%d of %d lines are to be answered", len(missing), n_lines)
            wanted = (prompt for prompt in prompts_of(prompts) if prompt.number in missing)
            work = Work(prompts=wanted, n_prompts=len(missing), records=records, n_at_once=n_at_once)
            _run(start, work, drain_timeout)
    finally:
        records.close()
    click.echo(_summary(records.n_records, records.n_failed, n_lines, output))
    sys.exit(0 if records.n_records == n_lines and not records.n_failed else EXIT_FAILURE)


def _run(start: Start, work: Work, drain_s: float) -> None:
    """Load the model and ask; ends the process where the model cannot be loaded."""
    from lmi.offline.server import OfflineServer
    from lmi.plugins import Plugins

    for warning in start.warnings:
        logging.getLogger(__name__).warning("%s", warning)
    server = OfflineServer(start, Plugins.discover(), work, drain_s=drain_s)
    if code := server.run():
        sys.exit(code)
    if server.broken is not None:
        click.echo(f"the model failed for good: {server.broken}", err=True)


def _summary(n_records: int, n_failed: int, n_lines: int, output: Path) -> str:
    parts = [f"{n_records} of {n_lines} lines are in {output}"]
    if n_failed:
        parts.append(f"{n_failed} of them failed; --retry-failed asks those again")
    if n_records < n_lines:
        parts.append("the same command goes on with the rest")
    return "; ".join(parts)
