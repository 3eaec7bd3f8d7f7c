# SPDX-License-Identifier: Apache-2.0
"""Room for pinned adapters beside those that come and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from lmi.api import RequestError


class Pins:
    """Which adapters keep their place, and which requests wait because of that.

    vLLM puts requests for as many adapters into a batch as it has places, pinned ones or not: where none of a batch is
    for a pinned adapter, one of its adapters has no place, and the engine ends. So while any are pinned, requests for
    others wait here until those that run are for few enough.

    Args:
        n_places: adapters that vLLM has on the device at a time.
    """

    def __init__(self, n_places: int) -> None:
        self._n_places = n_places
        self._pinned: set[int] = set()
        self._n_using: Counter[int] = Counter()
        self._changed = asyncio.Event()
        self.n_waiting = 0

    def __contains__(self, number: int) -> bool:
        return number in self._pinned

    @contextlib.asynccontextmanager
    async def held(self, number: int) -> AsyncIterator[None]:
        """A place for a request's adapter, waited for, and kept for the length of a block."""
        self.n_waiting += 1
        try:
            while not self._has_room(number):
                await self._change()
            self._n_using[number] += 1
        finally:
            self.n_waiting -= 1
        try:
            yield
        finally:
            self._n_using[number] -= 1
            if not self._n_using[number]:
                del self._n_using[number]
                self._changed.set()

    async def keep(self, number: int) -> None:
        """Reserve a place for an adapter, and wait until requests for others leave it free.

        Raises:
            RequestError: no place would be left for others.
        """
        if number in self._pinned:
            return
        most = self._n_places - 1
        if len(self._pinned) >= most:
            n = len(self._pinned)
            what = f"{n} {'adapter is' if n == 1 else 'adapters are'} pinned"
            message = f"{what}, and max_loras is {self._n_places}: others would have no room"
            raise RequestError(
                "adapter.too-many-pinned", message, "Raise option.max_loras, or let another one go (pin=false)"
            )
        self._pinned.add(number)
        try:
            while len(self._others()) > self._n_places - len(self._pinned):
                await self._change()
        except BaseException:
            self.let_go(number)
            raise

    def let_go(self, number: int) -> None:
        """Give a place back; nothing happens for an adapter that has none of its own."""
        self._pinned.discard(number)
        self._changed.set()

    def _has_room(self, number: int) -> bool:
        if not self._pinned or number in self._pinned:
            return True
        return len(self._others() | {number}) <= self._n_places - len(self._pinned)

    def _others(self) -> set[int]:
        """Adapters of running requests that have no place of their own."""
        return self._n_using.keys() - self._pinned

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
