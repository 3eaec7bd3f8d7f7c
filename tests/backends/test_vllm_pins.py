# SPDX-License-Identifier: Apache-2.0
"""The room that pinned adapters leave to others on vLLM, whose library need not be there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from lmi.api import RequestError
from lmi_vllm.pins import Pins

A, B, C, D = range(1, 5)


class Requests:
    """Requests that run until they are ended, and which of them have a place."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._ends: dict[str, asyncio.Event] = {}
        self.running: list[str] = []

    def start(self, name: str, number: int) -> asyncio.Task[None]:
        self._ends[name] = asyncio.Event()
        return asyncio.get_running_loop().create_task(self._run(name, number))

    async def _run(self, name: str, number: int) -> None:
        async with self._pins.held(number):
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def play(n_places: int, scenario: Callable[[Pins, Requests], Awaitable[None]]) -> None:
    async def main() -> None:
        pins = Pins(n_places)
        await asyncio.wait_for(scenario(pins, Requests(pins)), 10)

    asyncio.run(main())


def test_while_nothing_is_pinned_nobody_waits() -> None:
    async def scenario(pins: Pins, requests: Requests) -> None:
        for number in (A, B, C):
            requests.start(f"of {number}", number)
        await settled()
        assert (len(requests.running), pins.n_waiting) == (3, 0)

    play(1 + 1, scenario)


def test_requests_for_others_share_what_pinned_adapters_leave() -> None:
    async def scenario(pins: Pins, requests: Requests) -> None:
        await pins.keep(A)
        for name, number in (("b", B), ("a", A), ("c", C), ("b2", B)):
            requests.start(name, number)
        await settled()
        assert (requests.running, pins.n_waiting) == (["b", "a", "b2"], 1)
        await requests.end("b")
        assert "c" not in requests.running, "another one of b runs"
        await requests.end("b2")
        assert (requests.running, pins.n_waiting) == (["a", "c"], 0)

    play(2, scenario)


def test_a_pin_waits_until_requests_leave_it_a_place_and_new_ones_wait_for_the_pin() -> None:
    async def scenario(pins: Pins, requests: Requests) -> None:
        requests.start("b", B)
        requests.start("c", C)
        await settled()
        pin = asyncio.create_task(pins.keep(A))
        await settled()
        requests.start("d", D)
        await settled()
        assert (pin.done(), requests.running) == (False, ["b", "c"])
        await requests.end("b")
        assert (pin.done(), requests.running) == (True, ["c"])
        await requests.end("c")
        assert requests.running == ["d"]

    play(2, scenario)


def test_a_pin_that_is_given_up_and_one_that_is_let_go_free_their_place() -> None:
    async def scenario(pins: Pins, requests: Requests) -> None:
        requests.start("b", B)
        requests.start("c", C)
        await settled()
        pin = asyncio.create_task(pins.keep(A))
        await settled()
        requests.start("d", D)
        pin.cancel()
        await settled()
        assert (requests.running, A in pins) == (["b", "c", "d"], False)
        for name in ("b", "c", "d"):
            await requests.end(name)
        await pins.keep(A)
        requests.start("b", B)
        requests.start("c", C)
        await settled()
        assert requests.running == ["b"]
        pins.let_go(A)
        await settled()
        assert requests.running == ["b", "c"]

    play(2, scenario)


def test_one_place_is_left_to_others() -> None:
    async def scenario(pins: Pins, requests: Requests) -> None:
        await pins.keep(A)
        await pins.keep(A)
        await pins.keep(B)
        with pytest.raises(RequestError, match="2 adapters are pinned, and max_loras is 3: others would have no room"):
            await pins.keep(C)

    play(3, scenario)


def test_a_request_that_leaves_while_it_waits_is_forgotten() -> None:
    async def scenario(pins: Pins, requests: Requests) -> None:
        await pins.keep(A)
        requests.start("b", B)
        waiting = requests.start("c", C)
        await settled()
        waiting.cancel()
        await settled()
        assert (requests.running, pins.n_waiting) == (["b"], 0)

    play(2, scenario)
