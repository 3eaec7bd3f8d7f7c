# SPDX-License-Identifier: Apache-2.0
"""Room for adapters: how many different ones the running requests may have between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator


class Places:
    """Requests for more different adapters than the library has room for wait here, in their order.

    The library refuses them otherwise, whether or not one of the others is about to end.

    Args:
        n_places: different adapters at a time.
    """

    def __init__(self, n_places: int) -> None:
        self._n_places = n_places
        self._n_using: Counter[int] = Counter()
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self.n_waiting = 0

    @contextlib.asynccontextmanager
    async def held(self, adapter_number: int) -> AsyncIterator[None]:
        """A place for an adapter, waited for, and kept for the length of a block."""
        self.n_waiting += 1
        try:
            async with self._turn:
                while adapter_number not in self._n_using and len(self._n_using) >= self._n_places:
                    self._freed.clear()
                    await self._freed.wait()
                self._n_using[adapter_number] += 1
        finally:
            self.n_waiting -= 1
        try:
            yield
        finally:
            self._n_using[adapter_number] -= 1
            if not self._n_using[adapter_number]:
                del self._n_using[adapter_number]
                self._freed.set()
