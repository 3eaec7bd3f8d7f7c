# SPDX-License-Identifier: Apache-2.0
"""Show how far loading is: a bar on a terminal, a log line a stage elsewhere."""

from __future__ import annotations

import logging
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LOG = logging.getLogger(__name__)
_LOG_EVERY = 0.25


class LoggedProgress:
    """Progress in the log: a line a stage, and one for every quarter of it."""

    def __init__(self) -> None:
        self._logged: dict[str, tuple[str, float]] = {}

    def show(self, label: str, stage: str, fraction: float | None) -> None:
        """Log how far something is, if it moved on; as ``LoadProgress`` has it."""
        before, logged = self._logged.get(label, ("", 0.0))
        now = fraction or 0.0
        if stage != before or now - logged >= _LOG_EVERY:
            self._logged[label] = (stage, now)
            percent = "" if fraction is None else f" {fraction:.0%}"
            _LOG.info("[%s] %s%s", label, stage, percent)


class LoadProgress:
    """Progress of everything a start waits for: files that are fetched, workers that load.

    Args:
        stream: where it is shown; a bar only if it is a terminal.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._log = LoggedProgress()

    def show(self, label: str, stage: str, fraction: float | None) -> None:
        """Show how far one of them is.

        Args:
            label: whose progress it is.
            stage: what it does.
            fraction: how much of the stage is done; None where that is not known.
        """
        if self._stream.isatty():
            self._draw(label, stage, fraction)
        else:
            self._log.show(label, stage, fraction)

    def _draw(self, label: str, stage: str, fraction: float | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        if self._bars is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._bars.start()
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=None)
        self._bars.update(
            self._tasks[label],
            description=f"{label}: {stage}",
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
        )

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks = {}
