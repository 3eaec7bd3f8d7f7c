# SPDX-License-Identifier: Apache-2.0
"""What became of a model's workers: how each started, and why the one before it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lmi.serving.timeline import READY, Timeline
from lmi.workers.worker import Worker, WorkerState


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The end of a worker that nobody wanted.

    Args:
        at_s: when, in seconds since 1970.
        stage: what it was doing, ``ready`` where it served.
        reason: how its process ended.
        error: what was wrong, where that is known.
        last_lines: the last that it printed.
    """

    at_s: float
    stage: str
    reason: str
    error: str
    last_lines: tuple[str, ...]


class History:
    """The history of one model's workers, by label."""

    def __init__(self) -> None:
        self.starts: dict[str, Timeline] = {}
        """The last start of each."""
        self.losses: dict[str, Loss] = {}
        """The last of each."""

    def note(self, worker: Worker) -> None:
        """A worker moved on, or died."""
        if worker.state is WorkerState.DEAD:
            self._lose(worker)
            return
        start = self.starts.get(worker.label)
        if start is None or start.began_s != worker.started_at_s:
            start = self.starts[worker.label] = Timeline("start process", worker.started_at_s)
        start.enter(READY if worker.state is WorkerState.READY else worker.stage)

    def _lose(self, worker: Worker) -> None:
        if worker.is_retired:
            self.starts.pop(worker.label, None)
            return
        self.losses[worker.label] = Loss(
            at_s=time.time(),
            stage=worker.stage,
            reason=worker.reason,
            error="" if worker.error is None else str(worker.error),
            last_lines=() if worker.exit is None else worker.exit.last_lines,
        )

    @property
    def slowest(self) -> Timeline | None:
        """The start that was over last."""
        over = [each for each in self.starts.values() if each.is_over]
        return max(over, key=lambda each: each.began_s + each.seconds, default=None)
