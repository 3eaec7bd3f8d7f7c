# SPDX-License-Identifier: Apache-2.0
"""Show how far loading is: a bar on a terminal, a log line a stage elsewhere."""

from __future__ import annotations

import logging
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lmi.workers.worker import Worker

_LOG = logging.getLogger(__name__)
_LOG_EVERY = 0.25


class LoadProgress:
    """Progress of all workers of a start.

    Args:
        stream: where it is shown; a bar only if it is a terminal.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._logged: dict[str, tuple[str, float]] = {}

    def show(self, worker: Worker) -> None:
        if self._stream.isatty():
            self._draw(worker)
            return
        stage, fraction = self._logged.get(worker.label, ("", 0.0))
        now = worker.fraction or 0.0
        if worker.stage != stage or now - fraction >= _LOG_EVERY:
            self._logged[worker.label] = (worker.stage, now)
            percent = "" if worker.fraction is None else f" {worker.fraction:.0%}"
            _LOG.info("[%s] %s%s", worker.label, worker.stage, percent)

    def _draw(self, worker: Worker) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        if self._bars is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._bars.start()
        if worker.label not in self._tasks:
            self._tasks[worker.label] = self._bars.add_task(worker.label, total=None)
        self._bars.update(
            self._tasks[worker.label],
            description=f"{worker.label}: {worker.stage}",
            total=None if worker.fraction is None else 1.0,
            completed=worker.fraction or 0.0,
        )

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks = {}
