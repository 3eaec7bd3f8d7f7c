# SPDX-License-Identifier: Apache-2.0
"""The worker's loop around an engine: start, cancel, deadline, failures, one frame a turn."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from lmi.api import (
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineStats,
    Finish,
    FinishReason,
    GenerationRequest,
    OutOfMemoryError,
    RequestError,
    SamplingParams,
    TokenChunk,
    Usage,
)
from lmi.workers.drive import Drive
from lmi.workers.generate import lmi_generate_batch
from lmi.workers.wire import Chunks, Commands, ErrorReport
from tests.limits import limit_s


class ScriptedEngine(Engine):
    """Yields a token each time ``step`` is called, to all live requests; prompts say what else happens."""

    limits = EngineLimits(max_context_tokens=100, max_batch_size=100, vocab_size=0)

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.closed: list[str] = []
        self.turn = asyncio.Event()

    async def step(self) -> None:
        turn, self.turn = self.turn, asyncio.Event()
        turn.set()
        for _ in range(6):  # the tokens go through task, outbox and flush
            await asyncio.sleep(0)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        n_tokens = request.sampling.max_tokens
        self.live.add(request.request_id)
        try:
            for position in range(len(request.resumed_ids), n_tokens):
                await self.turn.wait()
                finish = Finish(FinishReason.LENGTH) if position == n_tokens - 1 else None
                usage = Usage(len(request.prompt_ids), position + 1) if finish else None
                yield TokenChunk([position], finish=finish, usage=usage)
        finally:
            self.live.discard(request.request_id)
            self.closed.append(request.request_id)

    def stats(self) -> EngineStats:
        return EngineStats(n_running=len(self.live))

    async def close(self) -> None:
        pass


class Rig:
    """A drive, its engine, and everything that came out."""

    def __init__(self, generate_batch: Callable[..., Any] | None = None) -> None:
        self.engine = ScriptedEngine()
        self.frames: list[Chunks] = []
        self.failures: dict[str, ErrorReport] = {}
        self.deaths: list[BaseException] = []
        self.drive = Drive(
            self.engine,
            generate_batch or lmi_generate_batch,
            send=self.frames.append,
            fail=self.failures.__setitem__,
            on_dead=self.deaths.append,
        )

    async def start(self, *requests: GenerationRequest) -> None:
        self.drive.obey(Commands([list(requests)], []))
        await asyncio.sleep(0)

    async def cancel(self, *request_ids: str) -> None:
        self.drive.obey(Commands([], list(request_ids)))
        for _ in range(4):
            await asyncio.sleep(0)

    def chunks(self, request_id: str) -> list[TokenChunk]:
        return [chunk for frame in self.frames for each, chunk in frame if each == request_id]

    def ids(self, request_id: str) -> list[int]:
        return [token_id for chunk in self.chunks(request_id) for token_id in chunk.ids]


def request(request_id: str, n_tokens: int = 3, **fields: Any) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=n_tokens)
    return GenerationRequest(request_id=request_id, prompt_ids=[7, 8], sampling=sampling, **fields)


def in_rig(scenario: Callable[[Rig], Awaitable[None]], generate_batch: Callable[..., Any] | None = None) -> None:
    """Run a scenario; an exception that nobody caught in a task or callback fails it."""
    unhandled: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        rig = Rig(generate_batch)
        await asyncio.wait_for(scenario(rig), limit_s(10))
        await rig.cancel(*rig.engine.live)
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert unhandled == []


def test_chunks_come_in_order_and_the_last_has_reason_and_usage() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(request("a"))
        for _ in range(3):
            await rig.engine.step()
        assert rig.ids("a") == [0, 1, 2]
        assert rig.chunks("a")[-1].finish == Finish(FinishReason.LENGTH)
        assert rig.chunks("a")[-1].usage == Usage(2, 3)
        assert rig.engine.closed == ["a"]

    in_rig(scenario)


def test_all_chunks_of_a_step_leave_in_one_frame() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(*(request(f"{index}", 2) for index in range(20)))
        await rig.engine.step()
        await rig.engine.step()
        assert [len(frame) for frame in rig.frames] == [20, 20]

    in_rig(scenario)


def test_a_cancelled_request_takes_no_further_step_and_its_neighbour_goes_on() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(request("leaves", 50), request("stays", 3))
        await rig.engine.step()
        await rig.cancel("leaves")
        assert rig.engine.closed == ["leaves"], "the slot is free before the next step"
        await rig.engine.step()
        await rig.engine.step()
        assert rig.ids("leaves") == [0]
        assert rig.ids("stays") == [0, 1, 2]
        assert rig.failures == {}

    in_rig(scenario)


def test_a_cancelled_request_with_a_deadline_frees_its_slot_without_noise() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(request("leaves", 50, deadline_s=limit_s(60)))
        await rig.engine.step()
        await rig.cancel("leaves")
        assert rig.engine.closed == ["leaves"]
        assert rig.ids("leaves") == [0]
        assert rig.chunks("leaves")[-1].finish is None, "nobody waits for a deadline any more"

    in_rig(scenario)


@pytest.mark.parametrize("deadline_s", [None, 3600.0])
def test_a_request_cancelled_before_it_began_never_begins(deadline_s: float | None) -> None:
    async def scenario(rig: Rig) -> None:
        rig.drive.obey(Commands([[request("a", deadline_s=deadline_s)]], []))
        rig.drive.obey(Commands([], ["a"]))
        await asyncio.sleep(0)
        await rig.engine.step()
        assert (rig.frames, rig.engine.live) == ([], set())

    in_rig(scenario)


def test_a_request_that_arrives_with_its_own_cancellation_never_begins() -> None:
    """Both happen in one turn of the server's loop when a request leaves a queue as its client goes."""

    async def scenario(rig: Rig) -> None:
        rig.drive.obey(Commands([[request("a"), request("b")]], ["a"]))
        await asyncio.sleep(0)
        await rig.engine.step()
        assert (rig.ids("a"), rig.ids("b")) == ([], [0])

    in_rig(scenario)


def test_an_unknown_id_to_cancel_is_ignored() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(request("a", 1))
        await rig.cancel("nobody")
        await rig.engine.step()
        await rig.cancel("a")  # it has finished
        assert rig.ids("a") == [0]

    in_rig(scenario)


def test_at_its_deadline_a_request_ends_with_what_it_has() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(request("a", 50, deadline_s=0.05, resumed_ids=[0, 1]), request("b", 50))
        await rig.engine.step()
        while not rig.engine.closed:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)
        last = rig.chunks("a")[-1]
        assert (last.ids, last.finish) == ([], Finish(FinishReason.DEADLINE))
        assert last.usage == Usage(2, 3), "resumed ids count as output"
        assert rig.ids("a") == [2]
        assert rig.engine.live == {"b"}

    in_rig(scenario)


def test_a_request_that_ends_before_its_deadline_is_finished_once() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(request("a", 2, deadline_s=0.05))
        await rig.engine.step()
        await rig.engine.step()
        await asyncio.sleep(0.1)
        assert [chunk.finish for chunk in rig.chunks("a")] == [None, Finish(FinishReason.LENGTH)]

    in_rig(scenario)


# ----------------------------------------------------------------------------------------------------------- failures


def raising(error: Exception, at: int = 1) -> Callable[..., Any]:
    """The hook with a generator that raises after ``at`` tokens of request ``bad``."""

    async def failing(generator: AsyncGenerator[TokenChunk, None]) -> AsyncGenerator[TokenChunk, None]:
        async with contextlib.aclosing(generator):
            n_tokens = 0
            async for chunk in generator:
                if n_tokens == at:
                    raise error
                n_tokens += 1
                yield chunk

    def generate_batch(engine: Engine, requests: Sequence[GenerationRequest]) -> Any:
        made = lmi_generate_batch(engine, requests)
        return [failing(g) if r.request_id == "bad" else g for r, g in zip(requests, made, strict=True)]

    return generate_batch


@pytest.mark.parametrize("deadline_s", [None, 3600.0])
def test_a_request_that_fails_is_reported_and_its_neighbour_goes_on(deadline_s: float | None) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(request("bad", deadline_s=deadline_s), request("good"))
        for _ in range(3):
            await rig.engine.step()
        assert rig.ids("bad") == [0]
        assert rig.ids("good") == [0, 1, 2]
        assert rig.failures["bad"].type == "RequestError"
        assert (rig.failures["bad"].code, rig.deaths) == ("request.bad", [])

    in_rig(scenario, raising(RequestError("request.bad", "it is bad")))


def test_an_unforeseen_exception_is_reported_with_its_type_and_text() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(request("bad"))
        await rig.engine.step()
        await rig.engine.step()
        assert "KeyError: 'no such tensor'" in rig.failures["bad"].message
        assert rig.deaths == [], "the engine itself goes on"

    in_rig(scenario, raising(KeyError("no such tensor")))


@pytest.mark.parametrize("kind", [EngineDeadError, OutOfMemoryError])
def test_a_dead_engine_is_reported_as_such_and_no_request_is_blamed(kind: type[EngineDeadError]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.start(request("bad"))
        await rig.engine.step()
        await rig.engine.step()
        assert [type(death) for death in rig.deaths] == [kind]
        assert rig.failures == {}

    in_rig(scenario, raising(kind("engine.died", "it is gone")))


def test_a_generator_that_ends_without_saying_why_fails_its_request() -> None:
    async def short(generator: AsyncGenerator[TokenChunk, None]) -> AsyncGenerator[TokenChunk, None]:
        async for chunk in generator:
            if chunk.finish is None:
                yield chunk

    async def scenario(rig: Rig) -> None:
        await rig.start(request("a", 2))
        await rig.engine.step()
        await rig.engine.step()
        assert rig.ids("a") == [0]
        assert rig.failures.keys() == {"a"}, "whoever waits for it would wait for ever"
        assert rig.deaths == []

    in_rig(scenario, lambda engine, requests: [short(g) for g in lmi_generate_batch(engine, requests)])


@pytest.mark.parametrize("n_generators", [1, 3])
def test_a_hook_that_gives_the_wrong_number_of_generators_fails_these_requests_alone(n_generators: int) -> None:
    def generate_batch(engine: Engine, requests: Sequence[GenerationRequest]) -> Any:
        made = lmi_generate_batch(engine, requests)
        if requests[0].request_id == "ok":
            return made
        return (made * 2)[:n_generators]

    async def scenario(rig: Rig) -> None:
        await rig.start(request("a"), request("b"))
        assert rig.failures.keys() == {"a", "b"}
        await rig.start(request("ok", 1))
        await rig.engine.step()
        assert rig.ids("ok") == [0]
        assert (rig.ids("a"), rig.ids("b")) == ([], [])

    in_rig(scenario, generate_batch)


def test_a_hook_that_raises_fails_the_whole_group_and_nothing_else() -> None:
    def generate_batch(engine: Engine, requests: Sequence[GenerationRequest]) -> Any:
        if requests[0].request_id == "bad":
            raise RequestError("request.bad", "this group is bad")
        return lmi_generate_batch(engine, requests)

    async def scenario(rig: Rig) -> None:
        rig.drive.obey(Commands([[request("bad"), request("with bad")], [request("good", 1)]], []))
        await asyncio.sleep(0)
        await rig.engine.step()
        assert rig.failures.keys() == {"bad", "with bad"}
        assert rig.ids("good") == [0]

    in_rig(scenario, generate_batch)


def test_requests_that_arrive_together_reach_the_hook_together() -> None:
    groups: list[list[str]] = []

    def generate_batch(engine: Engine, requests: Sequence[GenerationRequest]) -> Any:
        groups.append([each.request_id for each in requests])
        return lmi_generate_batch(engine, requests)

    async def scenario(rig: Rig) -> None:
        rig.drive.obey(Commands([[request("a"), request("b")], [request("c")]], []))
        assert groups == [["a", "b"], ["c"]]
        await rig.cancel("a", "b", "c")

    in_rig(scenario, generate_batch)


def test_a_request_that_has_ended_does_not_end_again_while_its_generator_cleans_up() -> None:
    async def slow_to_close(generator: AsyncGenerator[TokenChunk, None]) -> AsyncGenerator[TokenChunk, None]:
        async for chunk in generator:
            yield chunk
        await asyncio.Event().wait()

    async def scenario(rig: Rig) -> None:
        await rig.start(request("a", 1, deadline_s=0.05))
        await rig.engine.step()
        await asyncio.sleep(0.1)
        assert [chunk.finish for chunk in rig.chunks("a")] == [Finish(FinishReason.LENGTH)]

    in_rig(scenario, lambda engine, requests: [slow_to_close(g) for g in lmi_generate_batch(engine, requests)])
