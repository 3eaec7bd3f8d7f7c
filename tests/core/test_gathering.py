# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for each other: which go together, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lmi.api import GenerationRequest, SamplingParams
from lmi.workers.flight import Flight
from lmi.workers.gathering import Gathering
from tests.limits import limit_s

NEVER_S = 3600.0


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    async def main() -> None:
        await test()

    def run() -> None:
        asyncio.run(main())

    return run


def flight(name: str, adapter: str = "") -> Flight:
    sampling = SamplingParams(max_tokens=1)
    request = GenerationRequest(request_id=name, prompt_ids=[1], sampling=sampling, adapter=adapter)
    return Flight(request, lambda chunk: None, lambda error: None)


class Batches(list[list[str]]):
    """The batches that went, by the names of their requests."""

    def __init__(self) -> None:
        super().__init__()
        self.came = asyncio.Event()

    def add(self, flights: list[Flight]) -> None:
        self.append([each.request.request_id for each in flights])
        self.came.set()


@in_loop
async def test_a_full_batch_goes_at_once_in_the_order_of_its_requests() -> None:
    batches = Batches()
    gathering = Gathering(3, NEVER_S, batches.add)
    for name in "abcd":
        gathering.add([flight(name)])
    assert (batches, [each.request.request_id for each in gathering]) == ([["a", "b", "c"]], ["d"])


@in_loop
async def test_the_first_request_of_a_batch_waits_no_longer_than_the_delay() -> None:
    batches = Batches()
    gathering = Gathering(3, 0.001, batches.add)
    for name in ("first", "second"):
        gathering.add([flight(name)])
        await asyncio.wait_for(batches.came.wait(), limit_s(10))
        batches.came.clear()
    assert (batches, len(gathering)) == ([["first"], ["second"]], 0)


@in_loop
async def test_requests_that_arrived_together_stay_together() -> None:
    batches = Batches()
    gathering = Gathering(3, NEVER_S, batches.add)
    gathering.add([flight("a"), flight("b")])
    gathering.add([flight("c"), flight("d")])
    gathering.add([flight(name) for name in "efghi"])
    assert batches == [["a", "b"], ["c", "d"], ["e", "f", "g", "h", "i"]]


@in_loop
async def test_requests_for_other_adapters_go_at_the_same_time_in_batches_of_their_own() -> None:
    batches = Batches()
    gathering = Gathering(3, NEVER_S, batches.add)
    gathering.add([flight("a"), flight("b", "fr"), flight("c")])
    assert batches == [["a", "c"], ["b"]]


@in_loop
async def test_what_was_taken_out_does_not_go() -> None:
    batches = Batches()
    gathering = Gathering(3, NEVER_S, batches.add)
    gone = flight("gone")
    gathering.add([flight("a"), gone])
    assert gathering.take(lambda each: each is gone) == [gone]
    gathering.add([flight("b")])
    assert batches == []
    gathering.add([flight("c")])
    assert batches == [["a", "b", "c"]]
