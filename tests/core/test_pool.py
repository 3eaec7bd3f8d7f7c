# SPDX-License-Identifier: Apache-2.0
"""The copies of a model, with real worker processes: who gets a request, who waits, and what closing does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from lmi.api import (
    EngineDeadError,
    FinishReason,
    GenerationRequest,
    LmiError,
    NotReadyError,
    OverloadedError,
    SamplingParams,
    TokenChunk,
)
from lmi.config.model_entries import ModelEntry
from lmi.loading import plan
from lmi.plugins import Plugins
from lmi.workers.flight import Flight
from lmi.workers.pool import WorkerPool
from lmi.workers.worker import Worker, WorkerState
from tests.core.distributions import Distributions
from tests.limits import limit_s


@pytest.fixture(scope="module")
def faulty_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    code = (Path(__file__).parents[1] / "faults" / "faulty_backend.py").read_text()
    Distributions(folder).install("lmi-faulty", "lmi.backends", "faulty", code)
    return folder


class Answer:
    """One request and what became of it."""

    def __init__(self, prompt: str, n_tokens: int = 5) -> None:
        request = GenerationRequest(
            request_id=f"{prompt}-{id(self)}",
            prompt_ids=list(prompt.encode()),
            sampling=SamplingParams(max_tokens=n_tokens),
        )
        self.flight = Flight(request, self._on_chunk, self._on_error)
        self.text = ""
        self.reason: FinishReason | None = None
        self.error: LmiError | None = None
        self._ended = asyncio.get_running_loop().create_future()

    def _on_chunk(self, chunk: TokenChunk) -> None:
        self.text += bytes(chunk.ids).decode()
        if chunk.finish is not None:
            self.reason = chunk.finish.reason
            self._ended.set_result(None)

    def _on_error(self, error: LmiError) -> None:
        self.error = error
        self._ended.set_result(None)

    async def end(self) -> Answer:
        await asyncio.wait_for(self._ended, limit_s(20))
        return self


class Rig:
    """A pool and the words it said."""

    def __init__(self, pool: WorkerPool, states: asyncio.Queue[Worker], failures: list[LmiError]) -> None:
        self.pool = pool
        self.states = states
        self.failures = failures

    def submit(self, prompt: str, n_tokens: int = 5) -> Answer:
        answer = Answer(prompt, n_tokens)
        self.pool.submit([answer.flight])
        return answer

    async def ready(self, n_workers: int = 1) -> list[Worker]:
        while sum(worker.state is WorkerState.READY for worker in self.pool.workers) < n_workers:
            await asyncio.wait_for(self.states.get(), limit_s(20))
        return self.pool.workers

    async def gone(self) -> None:
        """Return when the only worker was ready, was killed and is gone; the next one is not here yet."""
        [worker] = list(await self.ready())
        worker.kill()
        while worker.state is not WorkerState.DEAD:
            await asyncio.wait_for(self.states.get(), limit_s(20))


Scenario = Callable[[Rig], Awaitable[None]]


@pytest.fixture
def play(faulty_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a scenario with a pool whose options are given; the pool is closed and leaves nothing."""
    monkeypatch.syspath_prepend(faulty_path)
    monkeypatch.setenv("PYTHONPATH", str(faulty_path))

    def run(scenario: Scenario, **options: object) -> None:
        flags = {"rolling_batch": "faulty", **{key: str(value) for key, value in options.items()}}
        found = Plugins.discover({})
        made = plan(ModelEntry(), flags=flags, environ={}, plugins=found, default_folder=Path("/no/such"))

        async def main() -> None:
            states: asyncio.Queue[Worker] = asyncio.Queue()
            failures: list[LmiError] = []
            pool = WorkerPool(made, on_state=states.put_nowait, on_failed=lambda error, worker: failures.append(error))
            pool.fill()
            try:
                await asyncio.wait_for(scenario(Rig(pool, states, failures)), limit_s(40))
            finally:
                pids = [worker.pid for worker in pool.workers]
                await pool.close()
            assert pool.workers == []
            assert not any(pid and psutil.pid_exists(pid) for pid in pids)

        asyncio.run(main())

    return run


def test_requests_wait_for_the_first_worker_and_are_answered(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        answers = [rig.submit(f"{index}ab", 6) for index in range(3)]
        assert [answer.flight.worker for answer in answers] == [None] * 3
        for index, answer in enumerate(answers):
            assert (await answer.end()).text == f"{index}ab" * 2
            assert answer.reason is FinishReason.LENGTH

    play(scenario)


def test_requests_that_come_while_no_worker_lives_wait_for_the_next(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.gone()
        answers = [rig.submit(f"{index}ab", 6) for index in range(3)]
        assert [answer.flight.worker for answer in answers] == [None] * 3
        assert [(await answer.end()).text for answer in answers] == ["0ab0ab", "1ab1ab", "2ab2ab"]

    play(scenario)


def test_the_limits_are_known_when_a_worker_is_ready(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        assert rig.pool.limits is None
        await rig.ready()
        assert rig.pool.limits is not None
        assert rig.pool.limits.max_batch_size == 3

    play(scenario, max_rolling_batch_size=3)


def test_a_request_goes_to_the_copy_with_the_fewest_reserved_tokens(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready(2)
        large = rig.submit("large", 500)
        small = [rig.submit("small", 20) for _ in range(4)]
        assert large.flight.worker is not None
        assert large.flight.worker.n_reserved_tokens == 505
        [other] = {answer.flight.worker for answer in small}
        assert other is not None
        assert other is not large.flight.worker
        assert other.n_reserved_tokens == 4 * 25
        for answer in small:
            await answer.end()
        assert other.n_reserved_tokens == 0

    play(scenario, minWorkers=2, step_s=0.001)


def test_beyond_slots_and_queue_a_request_is_refused_with_both_numbers(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        answers = [rig.submit("abc") for _ in range(4)]  # two slots, two in the queue
        with pytest.raises(OverloadedError, match="2 requests wait for model 'model', job_queue_size is 2"):
            rig.submit("one too many")
        assert [(await answer.end()).text for answer in answers] == ["abcab"] * 4
        assert (await rig.submit("abc").end()).text == "abcab"

    play(scenario, max_rolling_batch_size=2, job_queue_size=2)


def test_requests_that_wait_for_a_worker_count_too(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        waiting = [rig.submit("abc") for _ in range(2)]
        with pytest.raises(OverloadedError, match="2 requests wait"):
            rig.submit("one too many")
        assert [(await answer.end()).text for answer in waiting] == ["abcab"] * 2

    play(scenario, job_queue_size=2)


def test_what_goes_on_with_an_admitted_request_is_refused_by_no_queue_and_is_the_first_in_it(
    play: Callable[..., None],
) -> None:
    async def scenario(rig: Rig) -> None:
        ended: list[str] = []

        async def follow(name: str, answer: Answer) -> None:
            await answer.end()
            ended.append(name)

        await rig.ready()
        running = [rig.submit("abc", 40) for _ in range(9)]  # a slot, and the eight that a worker gets beyond it
        waiting = rig.submit("later", 5)
        going_on = Answer("first", 5)
        with pytest.raises(OverloadedError):
            rig.pool.submit([going_on.flight])
        rig.pool.submit([going_on.flight], is_admitted=True)
        await asyncio.gather(follow("later", waiting), follow("first", going_on), *(each.end() for each in running))
        assert ended == ["first", "later"]

    play(scenario, max_rolling_batch_size=1, job_queue_size=9)


def test_a_request_cancelled_while_it_waits_is_never_answered(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        leaves, stays = rig.submit("leaves"), rig.submit("stays")
        rig.pool.cancel(leaves.flight)
        assert (await stays.end()).text == "stays"
        assert (leaves.text, leaves.reason, leaves.error) == ("", None, None)

    play(scenario, job_queue_size=2)


def test_a_request_cancelled_in_the_turn_it_is_handed_out_frees_its_slot(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        leaves = rig.submit("leaves", 4000)
        rig.pool.cancel(leaves.flight)
        assert (worker.flights, worker.n_reserved_tokens) == ({}, 0)
        assert (await rig.submit("next", 4).end()).text == "next"
        while worker.stats.n_steps < 4:
            await asyncio.sleep(0.01)
        assert worker.stats.n_running == 0
        assert leaves.text == ""

    play(scenario, heartbeat_interval=0.02)


def test_cancelling_twice_or_after_the_end_is_fine(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        done = await rig.submit("abc").end()
        running = rig.submit("abc", 4000)
        for flight in (done.flight, running.flight, running.flight):
            rig.pool.cancel(flight)
        assert (await rig.submit("abc").end()).text == "abcab"

    play(scenario)


def test_requests_of_a_killed_worker_go_on_where_they_were(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        [worker] = await rig.ready()
        answers = [rig.submit(f"{index}ab", 30) for index in range(3)]
        while len(answers[0].text) < 5:
            await asyncio.sleep(0.01)
        worker.kill()
        assert [(await answer.end()).text for answer in answers] == [f"{index}ab" * 10 for index in range(3)]
        assert rig.pool.n_deaths == 1

    play(scenario)


def test_a_first_load_that_fails_is_reported_once_and_waiting_requests_fail(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        early = rig.submit("abc")
        await early.end()
        assert isinstance(early.error, EngineDeadError)
        assert [error.code for error in rig.failures] == ["engine.no-device"]
        assert "there is no device" in str(early.error)
        with pytest.raises(NotReadyError, match="there is no device"):
            rig.submit("abc")

    play(scenario, load="refuse")


def test_a_closing_pool_fails_what_runs_and_takes_no_request(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ready()
        running = rig.submit("abc", 4000)
        await rig.pool.close()
        await running.end()
        assert isinstance(running.error, NotReadyError)
        with pytest.raises(NotReadyError, match=r"model\.draining"):
            rig.submit("abc")

    play(scenario)
