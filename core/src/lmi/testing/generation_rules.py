# SPDX-License-Identifier: Apache-2.0
"""G: what every engine does with every request, whatever it can do besides."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

from lmi.api import Capability, EngineStats, FinishReason, GenerationRequest, RequestError, Resume
from lmi.testing.kit import Kit
from lmi.testing.live import TIME_SCALE, Answer, LiveEngine
from lmi.testing.rules import NotDeclared, rule

LONGEST_HOLD_S = 0.05
"""Nothing may hold the worker's event loop longer: cancellations, heartbeats and other streams wait for it."""

_N_RUNS = 3
_MANY_IDS, _PATIENCE_S = 100, 2.0
_NOTE_S = 0.01
_CALL_S = 120.0
_LONG_PROMPT = 2048
_FREE_WITHIN_STEPS, _FREE_WITHIN_S = 32, 5.0


class GenerationRules:
    """Rules G1 to G12."""

    @rule("G1", "a request gets exactly max_tokens ids, then LENGTH")
    def test_g1_exactly_max_tokens(self, kit: Kit) -> None:
        reached = 0
        for number in range(4):
            for n_tokens in (1, 5):
                answer = kit.engine.answer(kit.request(kit.prompt(number), n_tokens))
                finish = answer.finish
                assert finish is not None
                assert len(answer.ids) <= n_tokens, f"max_tokens={n_tokens}, and {len(answer.ids)} ids came"
                if finish.reason is FinishReason.EOS and not kit.declares(Capability.IGNORE_EOS):
                    continue
                assert len(answer.ids) == n_tokens, f"max_tokens={n_tokens}, and {len(answer.ids)} ids came"
                assert finish.reason is FinishReason.LENGTH, f"it ended with {finish.reason.value}, not with length"
                reached += 1
        assert reached, "every answer ended by itself, so none could show that max_tokens ends it"

    @rule("G2", "the end-of-sequence id ends a request with EOS, and is its last id")
    def test_g2_end_of_sequence(self, kit: Kit) -> None:
        plan, number, expected = kit.plan_that_ends()
        with kit.fresh(plan) as engine:
            answer = engine.answer(kit.request(kit.prompt(number), ignore_eos=False))
        assert answer.ids == expected, f"it should end after {expected}, and gave {answer.ids}"
        assert answer.finish is not None
        assert answer.finish.reason is FinishReason.EOS, f"it ended with {answer.finish.reason.value}"
        assert answer.finish.token_id == expected[-1], f"finish.token_id is {answer.finish.token_id}"

    @rule("G3", "greedy decoding repeats")
    def test_g3_greedy_repeats(self, kit: Kit) -> None:
        for number in range(4):
            kit.check_same(kit.run([number])[0], number, "asked again")

    @rule("G4", "one last chunk, and nothing after it")
    def test_g4_one_last_chunk(self, kit: Kit) -> None:
        for answer in kit.run(range(4)):
            ends = [place for place, chunk in enumerate(answer.chunks) if chunk.finish is not None]
            assert ends == [len(answer.chunks) - 1], f"finish stands on chunks {ends} of {len(answer.chunks)}"
            empty = [place for place, chunk in enumerate(answer.chunks[:-1]) if not chunk.ids]
            assert not empty, f"chunks {empty} carry no ids; only the last one may"

    @rule("G5", "usage counts the ids, on the last chunk alone")
    def test_g5_usage(self, kit: Kit) -> None:
        for number, answer in enumerate(kit.run(range(4))):
            assert all(chunk.usage is None for chunk in answer.chunks[:-1]), "usage stands on a chunk before the last"
            assert answer.usage is not None, "the last chunk has no usage"
            counted = (len(kit.prompt(number)), len(answer.ids))
            told = (answer.usage.n_prompt_tokens, answer.usage.n_output_tokens)
            assert told == counted, f"usage says {told} prompt and output tokens, counted are {counted}"

    @rule("G6", "a cancelled request frees its slot, whatever it was doing, and its neighbours finish")
    def test_g6_cancellation(self, kit: Kit) -> None:
        engine = kit.engine
        n_slots, n_tokens = engine.n_slots, engine.long_tokens

        async def scenario() -> list[Answer]:
            # One is read by a task that is cancelled while it waits, as in a worker; one is closed between two tokens.
            read, closed = ([kit.request(kit.prompt(0), n_tokens) for _ in range(n)] for n in (1, max(0, n_slots - 2)))
            waiting = [kit.request(kit.prompt(0), n_tokens) for _ in range(n_slots)]  # beyond what has a slot
            tasks = [asyncio.ensure_future(engine.gather([request])) for request in [*read, *waiting]]
            generators = engine.start(closed) if closed else []
            for generator in generators:
                await generator.__anext__()
            neighbour = asyncio.ensure_future(engine.gather([kit.request(kit.prompt(1))]))
            until_s = time.monotonic() + _FREE_WITHIN_S
            while not engine.stats().n_running and time.monotonic() < until_s:  # noqa: ASYNC110 - an engine tells nobody
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            for generator in generators:
                await generator.aclose()
            await asyncio.wait(tasks)
            await _until_free(engine)
            after = await engine.gather([kit.request(kit.prompt(number)) for number in range(2, 2 + n_slots)])
            return [*await neighbour, *after]

        for number, answer in enumerate(engine.call(scenario, _CALL_S), start=1):
            kit.check_same(answer.whole(), number, "beside cancelled requests")

    @rule("G7", "twice as many requests as slots all finish, whether they come as one group or one by one")
    def test_g7_more_requests_than_slots(self, kit: Kit) -> None:
        numbers = [number % 8 for number in range(2 * kit.engine.n_slots)]
        for number, answer in zip(numbers, kit.run(numbers), strict=True):
            kit.check_same(answer, number, "in a group of twice as many requests as slots")
        engine = kit.engine

        async def one_by_one() -> list[Answer]:
            groups = [engine.gather([kit.request(kit.prompt(number))]) for number in numbers]
            return [answer for group in await asyncio.gather(*groups) for answer in group]

        for number, answer in zip(numbers, engine.call(one_by_one, _CALL_S), strict=True):
            kit.check_same(answer.whole(), number, "among twice as many requests as slots")

    @rule("G8", "one bad request harms no other")
    def test_g8_a_bad_request(self, kit: Kit) -> None:
        bad = kit.request([5] * (kit.engine.engine.limits.max_context_tokens + 1))
        good = [kit.request(kit.prompt(number)) for number in range(3)]
        answers = kit.engine.answers([good[0], bad, *good[1:]])
        assert answers.pop(1).error is not None, "a prompt longer than the context was served"
        for number, answer in enumerate(answers):
            kit.check_same(answer.whole(), number, "beside a bad request")

    @rule("G9", "a prompt that is too long is refused with both numbers")
    def test_g9_too_long(self, kit: Kit) -> None:
        limit = kit.engine.engine.limits.max_context_tokens
        exact = kit.engine.answers([kit.request([5] * (limit - 2), 2)])[0]
        assert exact.error is None, (
            f"{limit - 2} prompt tokens and max_tokens=2 fill the context, and got {exact.error}"
        )
        for n_prompt, n_tokens in ((limit + 7, 1), (limit - 3, 10)):
            error = kit.engine.answers([kit.request([5] * n_prompt, n_tokens)])[0].error
            asked = f"{n_prompt} prompt tokens and max_tokens={n_tokens}, where {limit} fit,"
            assert isinstance(error, RequestError), f"{asked} gave {error!r} instead of a RequestError"
            named = {int(number) for number in re.findall(r"\d+", str(error))}
            assert limit in named, f"the limit {limit} is not in: {error}"
            assert {n_prompt, n_prompt + n_tokens} & named, f"neither {n_prompt} nor the sum is in: {error}"

    @rule("G10", "the event loop is never held for more than 50 ms")
    def test_g10_event_loop(self, kit: Kit) -> None:
        engine = kit.engine
        requests = [kit.request([*kit.prompt(n), *kit.prompt(n + 1)], 32) for n in range(2 * engine.n_slots)]
        n_long = min(engine.engine.limits.max_context_tokens, _LONG_PROMPT) - 8
        requests.append(kit.request((kit.prompt(7) * n_long)[:n_long], 4))
        # A loaded machine holds a loop now and then; an engine that blocks does it in every run.
        longest_s = min(_longest_hold_s(engine, requests) for _ in range(_N_RUNS))
        assert longest_s <= LONGEST_HOLD_S * TIME_SCALE, (
            f"while it generated, the loop was held for {1000 * longest_s:.0f} ms and more, {_N_RUNS} times out of "
            f"{_N_RUNS}: put what computes or waits into a thread"
        )

    @rule("G11", "a request that resumes goes on as declared, and counts what it had")
    def test_g11_resume(self, kit: Kit) -> None:
        if kit.info.resume is Resume.NEVER:
            raise NotDeclared("resume is NEVER")
        for number, n_before in ((0, 1), (1, 5), (2, 11), (3, len(kit.greedy_ids(3)))):
            before = kit.greedy_ids(number)[:n_before]
            answer = kit.engine.answer(kit.request(kit.prompt(number), len(kit.greedy_ids(number)), resumed_ids=before))
            if kit.info.resume is Resume.EXACT:
                kit.check_same(answer, number, f"resumed after {n_before} ids", n_before)
            assert len(answer.ids) <= len(kit.greedy_ids(number)) - n_before, "resumed ids do not count for max_tokens"
            assert answer.usage is not None
            n_told, n_output = answer.usage.n_output_tokens, n_before + len(answer.ids)
            assert n_told == n_output, f"usage says {n_told} output tokens; with the resumed ones there are {n_output}"
            assert answer.usage.n_prompt_tokens == len(kit.prompt(number)), "resumed ids were counted as prompt"

    @rule("G12", "stats count what runs, and the steps go on while something does")
    def test_g12_stats(self, kit: Kit) -> None:
        engine = kit.engine
        n_streams = min(2, engine.n_slots)

        async def scenario() -> tuple[Any, Any, bool, int]:
            idle = await _counted(engine, 0)
            requests = [kit.request(kit.prompt(number), engine.long_tokens) for number in range(n_streams)]
            generators = engine.start(requests)
            for generator in generators:
                await generator.__anext__()
            early = await _counted(engine, n_streams)

            def has_stepped() -> bool:
                # A request that ended is no step: only what several of them can't explain counts then.
                now = engine.stats()
                return now.n_steps > early.n_steps + (0 if now.n_running == n_streams else n_streams)

            n_ids = 0
            async for chunk in generators[0]:
                n_ids += len(chunk.ids)
                if has_stepped() or n_ids >= _MANY_IDS:
                    break
            # What was read may have been made before, by an engine that now waits for the processor.
            deadline_s = time.monotonic() + _PATIENCE_S
            while not (stepped := has_stepped()) and time.monotonic() < deadline_s:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(_NOTE_S)
            for generator in generators:
                await generator.aclose()
            return idle, early, stepped, n_ids

        idle, early, stepped, n_ids = engine.call(scenario, _CALL_S)
        assert idle.n_running == 0, f"{idle.n_running} requests run while there are none"
        assert early.n_running == n_streams, f"{early.n_running} requests run while there are {n_streams}"
        assert stepped, f"n_steps stood at {early.n_steps} while {n_ids} ids came: the server takes that for a hang"


async def _counted(engine: LiveEngine, n_running: int) -> EngineStats:
    """The engine's counts as soon as they tell of so many requests, or what they tell of in the end.

    An engine in processes of its own counts there, and says so a moment later.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    while (found := engine.stats()).n_running != n_running and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(_NOTE_S)
    return found


def _longest_hold_s(engine: LiveEngine, requests: Sequence[GenerationRequest]) -> float:
    """Run requests; the longest time that something held the loop meanwhile."""
    holds_s: list[float] = []

    async def scenario() -> list[Answer]:
        watcher = asyncio.ensure_future(engine.watch_loop(holds_s))
        await asyncio.sleep(0)
        try:
            answers = await engine.gather(requests)
            await asyncio.sleep(_NOTE_S)  # the watcher notes a hold when it is over
            return answers
        finally:
            watcher.cancel()

    for answer in engine.call(scenario, _CALL_S):
        answer.whole()
    assert holds_s, "the event loop was never free"
    return max(holds_s)


async def _until_free(engine: LiveEngine) -> None:
    """Wait until at most one request runs; the engine may make a few steps before it notices."""
    closed_at = engine.stats().n_steps
    until_s = time.monotonic() + _FREE_WITHIN_S * TIME_SCALE
    while (stats := engine.stats()).n_running > 1:
        n_steps = stats.n_steps - closed_at
        assert n_steps <= _FREE_WITHIN_STEPS, f"{n_steps} steps after they were cancelled, {stats.n_running} still run"
        assert time.monotonic() < until_s, (
            f"{_FREE_WITHIN_S:g} s after they were cancelled, {stats.n_running} still run"
        )
        await asyncio.sleep(0)
