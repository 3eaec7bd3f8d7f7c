# SPDX-License-Identifier: Apache-2.0
"""The echo engine by itself: what it repeats, its limits, slots, resuming and closing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lmi.api import (
    EngineDeadError,
    Finish,
    FinishReason,
    GenerationRequest,
    RequestError,
    SamplingParams,
    TokenChunk,
    Usage,
)
from lmi_echo.config import EchoConfig
from lmi_echo.engine import EchoEngine
from tests.limits import limit_s

PROMPT = [10, 11, 12]


def request(
    max_tokens: int = 7, *, prompt: list[int] = PROMPT, resumed: tuple[int, ...] = (), **sampling: Any
) -> GenerationRequest:
    return GenerationRequest(
        request_id="r",
        prompt_ids=prompt,
        resumed_ids=list(resumed),
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),
    )


async def chunks_of(engine: EchoEngine, one: GenerationRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(one)]


def ids_of(chunks: list[TokenChunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.ids]


def play(scenario: Callable[[EchoEngine], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        await asyncio.wait_for(scenario(EchoEngine(EchoConfig(**options))), limit_s(10))

    asyncio.run(main())


def test_the_prompt_is_repeated_from_its_start_one_id_a_chunk() -> None:
    async def scenario(engine: EchoEngine) -> None:
        chunks = await chunks_of(engine, request(7))
        assert [chunk.ids for chunk in chunks] == [[10], [11], [12], [10], [11], [12], [10]]
        assert [chunk.finish for chunk in chunks[:-1]] == [None] * 6
        assert (chunks[-1].finish, chunks[-1].usage) == (Finish(FinishReason.LENGTH), Usage(3, 7))

    play(scenario)


def test_a_stop_token_is_given_and_ends_the_output() -> None:
    async def scenario(engine: EchoEngine) -> None:
        chunks = await chunks_of(engine, request(50, stop_token_ids=(99, 12)))
        assert ids_of(chunks) == [10, 11, 12]
        assert (chunks[-1].finish, chunks[-1].usage) == (Finish(FinishReason.STOP_TOKEN, 12), Usage(3, 3))

    play(scenario)


@pytest.mark.parametrize("n_done", range(1, 7))
def test_a_resumed_request_goes_on_exactly_where_it_was(n_done: int) -> None:
    async def scenario(engine: EchoEngine) -> None:
        whole = ids_of(await chunks_of(engine, request(7)))
        rest = await chunks_of(engine, request(7, resumed=tuple(whole[:n_done])))
        assert ids_of(rest) == whole[n_done:]
        assert rest[-1].usage == Usage(3, 7), "resumed ids count as output"

    play(scenario)


@pytest.mark.parametrize(
    ("n_resumed", "stop_ids", "finish"),
    [
        (3, (), Finish(FinishReason.LENGTH)),
        (4, (), Finish(FinishReason.LENGTH)),
        (2, (11,), Finish(FinishReason.STOP_TOKEN, 11)),
        (3, (12,), Finish(FinishReason.STOP_TOKEN, 12)),
    ],
)
def test_a_request_that_resumes_with_all_its_ids_only_ends(
    n_resumed: int, stop_ids: tuple[int, ...], finish: Finish
) -> None:
    resumed = tuple(PROMPT * 2)[:n_resumed]

    async def scenario(engine: EchoEngine) -> None:
        [chunk] = await chunks_of(engine, request(3, resumed=resumed, stop_token_ids=stop_ids))
        assert (chunk.ids, chunk.finish, chunk.usage) == ([], finish, Usage(3, n_resumed))

    play(scenario)


def test_a_stop_id_before_the_last_resumed_one_ends_nothing() -> None:
    async def scenario(engine: EchoEngine) -> None:
        assert ids_of(await chunks_of(engine, request(3, resumed=(10, 11), stop_token_ids=(10,)))) == [12]

    play(scenario)


@pytest.mark.parametrize(("n_logprobs", "top"), [(0, 0), (1, 1), (5, 1)])
def test_what_it_repeats_is_certain(n_logprobs: int, top: int) -> None:
    async def scenario(engine: EchoEngine) -> None:
        for chunk in await chunks_of(engine, request(3, n_logprobs=n_logprobs)):
            assert chunk.logprobs is not None
            [entry] = chunk.logprobs
            assert ([entry.id], entry.logprob, entry.rank) == (chunk.ids, 0.0, 1)
            assert entry.top == ((entry.id, 0.0),) * top

    play(scenario)


def test_log_probabilities_come_only_when_asked_for() -> None:
    async def scenario(engine: EchoEngine) -> None:
        assert [chunk.logprobs for chunk in await chunks_of(engine, request(2))] == [None, None]

    play(scenario)


def test_what_is_longer_than_the_context_is_refused_with_both_numbers() -> None:
    async def scenario(engine: EchoEngine) -> None:
        assert engine.limits.max_context_tokens == 10
        assert len(ids_of(await chunks_of(engine, request(7)))) == 7
        with pytest.raises(RequestError, match="prompt 3 tokens \\+ max_tokens 8 = 11; this model takes 10"):
            await chunks_of(engine, request(8))
        assert engine.stats().n_running == 0

    play(scenario, max_model_len=10)


def test_requests_beyond_the_slots_wait_their_turn_and_all_finish() -> None:
    async def scenario(engine: EchoEngine) -> None:
        assert engine.limits.max_batch_size == 2
        tasks = [asyncio.ensure_future(chunks_of(engine, request(20, prompt=[index]))) for index in range(5)]
        await asyncio.sleep(0)
        stats = engine.stats()
        assert (stats.n_running, stats.n_waiting) == (2, 3)
        assert [ids_of(chunks) for chunks in await asyncio.gather(*tasks)] == [[index] * 20 for index in range(5)]
        assert (engine.stats().n_running, engine.stats().n_waiting) == (0, 0)

    play(scenario, max_rolling_batch_size=2)


def test_closing_a_generator_frees_its_slot() -> None:
    async def scenario(engine: EchoEngine) -> None:
        abandoned = engine.generate(request(20))
        await abandoned.__anext__()
        assert engine.stats().n_running == 1
        await abandoned.aclose()
        assert engine.stats().n_running == 0
        assert len(ids_of(await chunks_of(engine, request(3)))) == 3

    play(scenario, max_rolling_batch_size=1)


def test_a_request_that_leaves_while_it_waits_gives_its_place_away() -> None:
    async def scenario(engine: EchoEngine) -> None:
        first = engine.generate(request(20))
        await first.__anext__()
        waiting = asyncio.ensure_future(chunks_of(engine, request(20)))
        await asyncio.sleep(0)
        assert engine.stats().n_waiting == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert engine.stats().n_waiting == 0
        await first.aclose()
        assert len(ids_of(await chunks_of(engine, request(3)))) == 3

    play(scenario, max_rolling_batch_size=1)


def test_requests_that_run_together_share_their_steps() -> None:
    async def scenario(engine: EchoEngine) -> None:
        await asyncio.gather(*(chunks_of(engine, request(20)) for _ in range(10)))
        assert 20 <= engine.stats().n_steps < 2 * 20

    play(scenario)


def test_a_closed_engine_takes_no_request_and_may_be_closed_again() -> None:
    async def scenario(engine: EchoEngine) -> None:
        await engine.close()
        await engine.close()
        with pytest.raises(EngineDeadError, match="closed"):
            await chunks_of(engine, request())

    play(scenario)
