# SPDX-License-Identifier: Apache-2.0
"""Which of a worker's requests have a place in its batch: the others wait, and how long they do is told."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmi.workers.flight import Flight


class Places:
    """The places in one worker's batch, as far as the server can tell: those who came first have them.

    An engine may let a request wait for longer, for room in its cache, say; nobody tells the server of that.
    """

    def __init__(self) -> None:
        self.n_places = 0
        """How many there are; 0 until it is known."""
        self._waiting: deque[Flight] = deque()

    def take(self, flight: Flight, n_held: int) -> None:
        """Give a request a place, or let it wait for one.

        Args:
            flight: it.
            n_held: requests that the worker has, this one included.
        """
        if 0 < self.n_places < n_held - len(self._waiting):
            self._waiting.append(flight)
        else:
            _begin(flight)

    def leave(self, flight: Flight) -> None:
        """A request has ended: the first that waits gets its place, if it had one."""
        if not self._waiting:
            return
        if flight in self._waiting:
            self._waiting.remove(flight)
        else:
            _begin(self._waiting.popleft())


def _begin(flight: Flight) -> None:
    flight.begun_s = flight.begun_s or time.monotonic()  # one that goes on elsewhere began before
