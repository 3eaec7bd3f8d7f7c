# SPDX-License-Identifier: Apache-2.0
"""How fast requests end, and so how long the next one would wait."""

from __future__ import annotations

import time
from collections import deque

_N_KEPT = 256
_LONGEST_S = 60.0
_N_ENOUGH = 8
"""Requests of the last minute that say something."""


class Pace:
    """Counts requests that end."""

    def __init__(self) -> None:
        self._ends_s: deque[float] = deque(maxlen=_N_KEPT)

    def note(self) -> None:
        """One has ended."""
        self._ends_s.append(time.monotonic())

    def wait_s(self, n_before: int) -> float | None:
        """How long a request waits that has so many before it; None where too few have ended to say."""
        now_s = time.monotonic()
        while self._ends_s and now_s - self._ends_s[0] > _LONGEST_S:
            self._ends_s.popleft()
        n = len(self._ends_s)
        if n < _N_ENOUGH:
            return None
        return (n_before + 1) * (now_s - self._ends_s[0]) / n
