# SPDX-License-Identifier: Apache-2.0
"""What a start spends its time on: its stages, and how long each took."""

from __future__ import annotations

import time
from collections.abc import Mapping

import psutil

READY = "ready"
"""The stage that is the end of a start."""


class Timeline:
    """The stages of one start.

    Args:
        stage: the first.
        began_s: when it began, in seconds since 1970; None: now.
    """

    def __init__(self, stage: str, began_s: float | None = None) -> None:
        self.began_s = time.time() if began_s is None else began_s
        self._entered: list[tuple[str, float]] = [(stage, self.began_s)]

    def enter(self, stage: str) -> None:
        """Another stage begins, or the same goes on; after ``ready`` there is none."""
        last = self._entered[-1][0]
        if last not in (stage, READY):
            self._entered.append((stage, time.time()))

    @property
    def is_over(self) -> bool:
        return self._entered[-1][0] == READY

    @property
    def seconds(self) -> float:
        """How long it took, or takes so far."""
        return max(0.0, (self._entered[-1][1] if self.is_over else time.time()) - self.began_s)

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of each stage, in the order in which they began; of one that came again, in all."""
        spent: dict[str, float] = {}
        ends = [at_s for _, at_s in self._entered[1:]] + [time.time()]
        for (stage, began_s), end_s in zip(self._entered, ends, strict=True):
            if stage != READY:
                spent[stage] = spent.get(stage, 0.0) + max(0.0, end_s - began_s)
        return spent

    def as_dict(self) -> dict[str, float]:
        """Its stages for a person or a program: rounded."""
        return {stage: round(seconds, 3) for stage, seconds in self.stages.items()}


def of_this_process(stage: str) -> Timeline:
    """One that begins with the process itself: with Python and what it imports."""
    return Timeline(stage, psutil.Process().create_time())


def in_words(stages: Mapping[str, float]) -> str:
    """Stages in a line, those without a tenth of a second left out: ``fetch 12.1, load weights 20.3``."""
    return ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items() if seconds >= 0.05)
