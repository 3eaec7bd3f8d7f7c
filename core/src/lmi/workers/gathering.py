# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for each other while continuous batching is off, so that they go to the engine together.

Source: the dynamic batching of DJL Serving: ``batch_size`` and ``max_batch_delay``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from lmi.workers.flight import Flight


class Gathering:
    """Collects requests until a batch is full, or the first of them has waited long enough.

    Args:
        size: requests of a full batch.
        delay_s: longest that one waits.
        submit: given each batch; requests of one batch have the same adapter.
    """

    def __init__(self, size: int, delay_s: float, submit: Callable[[list[Flight]], None]) -> None:
        self._size = size
        self._delay_s = delay_s
        self._submit = submit
        self._flights: list[Flight] = []
        self._timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights)

    def __len__(self) -> int:
        return len(self._flights)

    def add(self, flights: list[Flight]) -> None:
        """Let requests that arrived together wait for others; they stay together."""
        if self._flights and len(self._flights) + len(flights) > self._size:
            self._send()
        self._flights += flights
        if len(self._flights) >= self._size:
            self._send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._send)

    def take(self, which: Callable[[Flight], bool]) -> list[Flight]:
        """Forget those for which this is true, and return them."""
        taken = [flight for flight in self._flights if which(flight)]
        self._flights = [flight for flight in self._flights if flight not in taken]
        return taken

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        flights, self._flights = self._flights, []
        batches: dict[str, list[Flight]] = {}
        for flight in flights:  # no worker may have the adapters of all
            batches.setdefault(flight.request.adapter, []).append(flight)
        for batch in batches.values():
            self._submit(batch)
