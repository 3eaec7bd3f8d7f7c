# SPDX-License-Identifier: Apache-2.0
"""What the server knows of one worker's adapters, against an engine that may do what it was told too late to stop."""

from __future__ import annotations

import asyncio
from typing import Any

from lmi.workers.adapters import HeldAdapters, WantedAdapter


class Engine:
    """Keeps what it is told; its answer comes when it may."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.pinned: set[str] = set()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def call(self, ability: str, method: str, *args: Any) -> Any:
        match method, args:
            case "load_adapter", (name, path):
                self.loaded[name] = path
            case "unload_adapter", (name,):
                del self.loaded[name]
                self.pinned.discard(name)
            case "pin_adapter", (name, is_pinned):
                (self.pinned.add if is_pinned else self.pinned.discard)(name)
        await self.may_answer.wait()
        return sorted(self.loaded)


def test_a_pin_that_was_broken_off_when_it_was_done_can_be_taken_back() -> None:
    async def main() -> None:
        engine = Engine()
        held = HeldAdapters(engine.call)
        await held.load("fr", WantedAdapter("/fr"))
        engine.may_answer.clear()
        pinning = asyncio.ensure_future(held.pin("fr", is_pinned=True))
        await asyncio.sleep(0)
        pinning.cancel()
        await asyncio.gather(pinning, return_exceptions=True)
        engine.may_answer.set()
        assert (engine.pinned, held.pinned) == ({"fr"}, set()), "nobody knows of it"
        await held.pin("fr", is_pinned=False)
        assert engine.pinned == set()

    asyncio.run(main())


def test_a_load_that_was_broken_off_when_it_was_done_is_unloaded() -> None:
    async def main() -> None:
        engine = Engine()
        held = HeldAdapters(engine.call)
        engine.may_answer.clear()
        loading = asyncio.ensure_future(held.load("fr", WantedAdapter("/fr")))
        await asyncio.sleep(0)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        engine.may_answer.set()
        await held.unload("fr")
        assert engine.loaded == {}

    asyncio.run(main())
