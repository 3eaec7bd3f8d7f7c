# SPDX-License-Identifier: Apache-2.0
"""An answerer as an engine: calls one at a time in one thread, callers that leave, and what ends it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lmi.api import (
    Answerer,
    AnswererLimits,
    Classifier,
    Compute,
    EngineDeadError,
    GenerationRequest,
    Inputs,
    OutOfMemoryError,
    PluginError,
    RequestError,
    SamplingParams,
    SupportsClassification,
    SupportsTasks,
    TaskRequest,
    TaskRunner,
    UnsupportedError,
)
from lmi.scheduling.answering import AnswererEngine, engine_of
from tests.limits import limit_s


class Labels(Classifier):
    """Gives the sum of a prompt's ids; the prompt [0] is refused, what ``on_compute`` raises ends the model."""

    limits = AnswererLimits(max_context_tokens=8, vocab_size=100)

    def __init__(self, on_compute: Callable[[Inputs], None] | None = None) -> None:
        self.on_compute = on_compute or (lambda inputs: None)
        self.threads: set[int] = set()
        self.n_closed = 0

    def compute(self, inputs: Inputs) -> Any:
        self.threads.add(threading.get_ident())
        self.on_compute(inputs)
        return [float(sum(row)) for row in inputs["input_ids"]]

    def classify(self, prompts: list[list[int]], compute: Compute) -> list[list[float]]:
        if [0] in prompts:
            raise RequestError("request.invalid", "0 was sent")
        return [compute({"input_ids": [prompt]}) for prompt in prompts]

    def close(self) -> None:
        self.n_closed += 1


class Echo(TaskRunner):
    """Answers with the body."""

    limits = AnswererLimits(max_context_tokens=8)

    def compute(self, inputs: Inputs) -> Any:
        return None

    def run_task(self, request: TaskRequest, compute: Compute) -> bytes:
        compute({})
        return request.body

    def close(self) -> None:
        pass


def run(work: Callable[[AnswererEngine], Any], answerer: Answerer) -> Any:
    """What ``work`` does with an engine, which is closed behind it."""

    async def inside() -> Any:
        engine = engine_of(answerer)
        try:
            return await asyncio.wait_for(work(engine), limit_s(20))
        finally:
            await engine.close()

    return asyncio.run(inside())


def test_an_engine_has_the_ability_of_its_answerer_and_no_other() -> None:
    async def look(engine: AnswererEngine) -> tuple[bool, bool]:
        return isinstance(engine, SupportsClassification), isinstance(engine, SupportsTasks)

    assert run(look, Labels()) == (True, False)
    assert run(look, Echo()) == (False, True)


def test_an_answerer_without_an_ability_is_refused() -> None:
    class Mute(Answerer):
        limits = AnswererLimits(max_context_tokens=8)

        def compute(self, inputs: Inputs) -> Any:
            return None

        def close(self) -> None:
            pass

    with pytest.raises(PluginError, match="neither a Classifier nor a TaskRunner"):
        engine_of(Mute())


def test_calls_are_answered_one_at_a_time_in_one_thread_and_counted() -> None:
    running = []

    def compute(inputs: Inputs) -> None:
        running.append(engines[0].stats().n_running)

    engines: list[AnswererEngine] = []

    async def ask(engine: Any) -> Any:
        engines.append(engine)
        found = await asyncio.gather(*(engine.classify([[number], [1, number]]) for number in range(1, 6)))
        return found, engine.stats()

    labels = Labels(compute)
    found, stats = run(ask, labels)
    assert found == [[[number], [1.0 + number]] for number in range(1, 6)]
    assert (stats.n_steps, stats.n_running, stats.n_waiting) == (10, 0, 0)
    assert running == [1] * 10
    assert len(labels.threads) == 1
    assert labels.n_closed == 1


def test_limits_say_that_one_call_runs_at_a_time() -> None:
    async def look(engine: AnswererEngine) -> Any:
        return engine.limits

    limits = run(look, Labels())
    assert (limits.max_context_tokens, limits.vocab_size, limits.max_batch_size) == (8, 100, 1)


def test_a_request_that_is_refused_leaves_the_others_alone() -> None:
    async def ask(engine: Any) -> Any:
        with pytest.raises(RequestError, match="0 was sent"):
            await engine.classify([[0]])
        await engine.check_health()
        return await engine.classify([[2]])

    assert run(ask, Labels()) == [[2.0]]


def test_a_whole_request_is_one_part_of_json() -> None:
    async def ask(engine: Any) -> Any:
        return [part async for part in engine.run_task(TaskRequest(request_id="a", body=b"[1]"))]

    (part,) = run(ask, Echo())
    assert (part.body, part.status, part.is_stream, part.headers) == (
        b"[1]", 200, False, {"content-type": "application/json"}
    )  # fmt: skip


def test_a_caller_that_leaves_ends_its_call_at_the_next_computation() -> None:
    begun, goes_on = threading.Event(), threading.Event()
    computed = []

    def compute(inputs: Inputs) -> None:
        computed.append(inputs["input_ids"][0])
        begun.set()
        goes_on.wait(limit_s(20))

    async def ask(engine: Any) -> Any:
        leaving = asyncio.create_task(engine.classify([[1], [2], [3]]))
        waiting = asyncio.create_task(engine.classify([[4]]))
        await asyncio.to_thread(begun.wait, limit_s(20))
        leaving.cancel()
        await asyncio.wait([leaving])
        goes_on.set()
        return await waiting

    assert run(ask, Labels(compute)) == [[4.0]]
    assert computed == [[1], [4]]


def test_a_call_that_nobody_waits_for_any_more_is_never_begun() -> None:
    begun, goes_on = threading.Event(), threading.Event()
    computed = []

    def compute(inputs: Inputs) -> None:
        computed.append(inputs["input_ids"][0])
        begun.set()
        goes_on.wait(limit_s(20))

    async def ask(engine: Any) -> Any:
        first = asyncio.create_task(engine.classify([[1]]))
        await asyncio.to_thread(begun.wait, limit_s(20))
        second = asyncio.create_task(engine.classify([[2]]))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        goes_on.set()
        return await first

    assert run(ask, Labels(compute)) == [[1.0]]
    assert computed == [[1]]


def fail(inputs: Inputs) -> None:
    raise ValueError("the device is on fire")


def fill(inputs: Inputs) -> None:
    raise OutOfMemoryError("engine.out-of-memory", "the device is full")


@pytest.mark.parametrize(
    ("on_compute", "kind", "said"), [(fail, EngineDeadError, "on fire"), (fill, OutOfMemoryError, "is full")]
)
def test_a_model_that_fails_ends_the_engine_for_all(on_compute: Any, kind: type[Exception], said: str) -> None:
    async def ask(engine: Any) -> None:
        found = await asyncio.gather(*(engine.classify([[number]]) for number in (1, 2)), return_exceptions=True)
        assert [type(each) for each in found] == [kind, kind]
        assert all(said in str(each) for each in found)
        with pytest.raises(kind, match=said):
            await engine.check_health()
        with pytest.raises(kind, match=said):
            await engine.classify([[3]])

    labels = Labels(on_compute)
    run(ask, labels)
    assert labels.n_closed == 1


def test_a_fault_beside_the_model_fails_the_request_alone() -> None:
    class Faulty(Labels):
        def classify(self, prompts: list[list[int]], compute: Compute) -> list[list[float]]:
            if prompts == [[9]]:
                raise KeyError("a fault")
            return super().classify(prompts, compute)

    async def ask(engine: Any) -> Any:
        with pytest.raises(KeyError, match="a fault"):
            await engine.classify([[9]])
        return await engine.classify([[1]])

    assert run(ask, Faulty()) == [[1.0]]


def test_what_waits_when_it_is_closed_hears_of_it_and_closing_twice_is_fine() -> None:
    async def ask(engine: Any) -> None:
        await engine.close()
        await engine.close()
        with pytest.raises(EngineDeadError, match=r"engine\.closed"):
            await engine.classify([[1]])

    labels = Labels()
    run(ask, labels)
    assert labels.n_closed == 1


def test_it_continues_no_text() -> None:
    request = GenerationRequest(request_id="a", prompt_ids=[1], sampling=SamplingParams(max_tokens=1))

    async def ask(engine: AnswererEngine) -> None:
        with pytest.raises(UnsupportedError, match="continues no text"):
            engine.generate(request)

    run(ask, Labels())


def test_another_compute_and_another_end_take_the_place_of_the_answerers_own() -> None:
    closed = []
    labels = Labels()

    async def inside() -> Any:
        engine: Any = engine_of(labels, lambda inputs: [7.0], lambda: closed.append(True))
        try:
            return await engine.classify([[1]])
        finally:
            await engine.close()

    assert asyncio.run(inside()) == [[7.0]]
    assert (closed, labels.n_closed, labels.threads) == ([True], 0, set())
