# SPDX-License-Identifier: Apache-2.0
"""Several answers to one request: who the candidates are, which are the best, and that all of them end together."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from lmi.api import (
    DeadlineError,
    EngineDeadError,
    OverloadedError,
    RefusedError,
    RequestError,
    SamplingParams,
    StepBatch,
    TextRequest,
)
from lmi.serving.choices import Choices, admit_choices
from tests.core.answering import N_IDS, Rig, play
from tests.limits import limit_s
from tests.steppers import ToyStepper, toy_limits

DRAWN = SamplingParams(max_tokens=6, temperature=1.5, seed=40, n_logprobs=0)


def drawn(**changes: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 6, "temperature": 1.5, "seed": 40, "n_logprobs": 0, **changes})


async def admit(rig: Rig, n_answers: int = 3, n_candidates: int | None = None, **fields: Any) -> Choices:
    request = rig.request(**{"sampling": DRAWN, **fields})
    return await admit_choices(
        rig.model, request, n_answers=n_answers, n_candidates=n_candidates or n_answers, keeps_tokens=True
    )


async def alone(rig: Rig, seed: int) -> list[int]:
    generation = await rig.model.admit(rig.request(sampling=drawn(seed=seed)), keeps_tokens=True)
    return [token.id for token in (await generation.result()).tokens]


def ids_of(choices: Any) -> list[list[int]]:
    return [[token.id for token in choice.result.tokens] for choice in choices]


def test_answers_come_in_the_order_of_their_seeds_each_as_it_comes_alone() -> None:
    async def scenario(rig: Rig) -> None:
        found = await (await admit(rig)).result()
        assert ids_of(found) == [await alone(rig, seed) for seed in (40, 41, 42)]
        assert len(set(map(tuple, ids_of(found)))) == 3

    play(scenario)


def test_candidates_are_requests_of_their_own_that_start_together() -> None:
    async def scenario(rig: Rig) -> None:
        choices = await admit(rig)
        [group] = rig.pool.groups
        assert [flight.request.request_id for flight in group] == ["r/0", "r/1", "r/2"]
        assert [flight.request.sampling.seed for flight in group] == [40, 41, 42]
        await choices.result()

    play(scenario)


def test_the_seed_after_the_largest_is_the_first() -> None:
    async def scenario(rig: Rig) -> None:
        await (await admit(rig, sampling=drawn(seed=2**64 - 1))).result()
        assert [flight.request.sampling.seed for flight in rig.pool.groups[0]] == [2**64 - 1, 0, 1]

    play(scenario)


def test_without_a_seed_one_is_drawn_at_admission_for_all_of_them() -> None:
    async def scenario(rig: Rig) -> None:
        await (await admit(rig, sampling=drawn(seed=None))).result()
        first, *others = [flight.request.sampling.seed or 0 for flight in rig.pool.groups[0]]
        assert others == [first + 1, first + 2]

    play(scenario)


def test_the_best_of_more_candidates_are_those_with_the_highest_cumulative_log_probability() -> None:
    async def scenario(rig: Rig) -> None:
        choices = await admit(rig, n_answers=2, n_candidates=6)
        found = await choices.result()
        totals = []
        for generation in choices.generations:
            logprobs = [token.logprob or 0.0 for token in generation.tokens]
            totals.append(sum(logprobs))
        assert [choice.score for choice in found] == sorted(totals, reverse=True)[:2]
        best = choices.generations[totals.index(max(totals))]
        assert found[0].generation is best
        assert len(set(totals)) == 6

    play(scenario, eos_token_ids=(7, 70, 170))


def test_prompt_log_probabilities_are_asked_for_once_and_are_those_of_every_answer() -> None:
    async def scenario(rig: Rig) -> None:
        found = await (await admit(rig, sampling=drawn(n_prompt_logprobs=0))).result()
        asked = [flight.request.sampling.n_prompt_logprobs for flight in rig.pool.groups[0]]
        assert asked == [0, None, None]
        scores = [choice.generation.prompt_logprobs for choice in found]
        assert scores[0] is not None
        assert len(scores[0]) == len(b"Once")
        assert scores[1] is scores[2] is scores[0]

    play(scenario)


def test_answers_that_would_be_the_same_are_refused() -> None:
    async def scenario(rig: Rig) -> None:
        with pytest.raises(RequestError, match="3 answers were asked for and nothing is drawn") as caught:
            await admit(rig, sampling=SamplingParams(max_tokens=4))
        assert caught.value.code == "request.same-answers"
        assert rig.pool.groups == []

    play(scenario)


def test_where_there_is_no_room_for_all_none_starts() -> None:
    async def scenario(rig: Rig) -> None:
        with pytest.raises(OverloadedError):
            await admit(rig, n_answers=3)
        assert rig.pool.groups == []
        assert len(await (await admit(rig, n_answers=2)).result()) == 2

    play(scenario, n_room=2)


def test_a_candidate_that_fails_fails_the_answer_and_ends_the_others() -> None:
    async def scenario(rig: Rig) -> None:
        choices = await admit(rig, sampling=drawn(max_tokens=200))
        waiting = asyncio.ensure_future(choices.result())
        await asyncio.sleep(0)
        rig.pool.groups[0][1].on_error(EngineDeadError("engine.died", "gone"))
        with pytest.raises(EngineDeadError, match="gone"):
            await waiting
        assert set(rig.pool.cancelled) == {"r/0", "r/1", "r/2"}

    play(scenario)


def test_cancelling_ends_all_and_tells_whoever_waits() -> None:
    async def scenario(rig: Rig) -> None:
        choices = await admit(rig, sampling=drawn(max_tokens=200))
        waiting = asyncio.ensure_future(choices.result())
        await asyncio.sleep(0)
        choices.cancel(RefusedError("client.gone", "the client left"))
        with pytest.raises(RefusedError, match="the client left"):
            await waiting
        await asyncio.sleep(0)
        assert rig.pool.n_running == 0

    play(scenario)


class Blocking:
    """Holds the steps after the first few, until the scenario is over."""

    def __init__(self, n_steps: int) -> None:
        self.n_left = n_steps
        self._open = threading.Event()

    def __call__(self, batch: StepBatch) -> None:
        self.n_left -= 1
        if self.n_left < 0:
            assert self._open.wait(limit_s(30))

    def open(self) -> None:
        self._open.set()


@pytest.mark.parametrize(("n_answers", "is_late"), [(2, False), (3, True)])
def test_candidates_without_a_token_at_the_deadline_are_passed_over_where_enough_others_have_some(
    n_answers: int, is_late: bool
) -> None:
    block = Blocking(n_steps=2)
    stepper = ToyStepper(toy_limits(vocab_size=N_IDS, max_slots=2), block)

    async def scenario(rig: Rig) -> None:
        try:
            choices = await admit(rig, n_answers, 4, sampling=drawn(max_tokens=50))
            if is_late:
                with pytest.raises(DeadlineError, match="before its first token"):
                    await choices.result()
            else:
                found = await choices.result()
                assert [choice.result.finish_reason for choice in found] == ["deadline"] * 2
                assert all(choice.result.n_output_tokens for choice in found)
        finally:
            block.open()

    play(scenario, stepper=stepper, predict_timeout=0.5)


def test_counts_are_those_of_one_request_with_all_its_tokens() -> None:
    async def scenario(rig: Rig) -> None:
        choices = await admit(rig, n_answers=1, n_candidates=4)
        await choices.result()
        assert (choices.n_prompt_tokens, choices.n_output_tokens) == (4, 24)
        assert choices.first_token_s >= choices.started_s
        assert choices.request.request_id == "r"

    play(scenario)


def test_a_text_filter_keeps_what_it_notes_of_each_answer_apart() -> None:
    seen: dict[str, int] = {}

    def count(*, request: TextRequest, text: str, is_last: bool) -> None:
        request.scratch["n"] = request.scratch.get("n", 0) + 1
        if is_last:
            seen[request.request_id] = request.scratch["n"]

    async def scenario(rig: Rig) -> None:
        await (await admit(rig)).result()

    play(scenario, text_filters=(count,))
    assert seen == {"r/0": 6, "r/1": 6, "r/2": 6}


def test_an_answer_that_an_extension_knows_is_all_of_them() -> None:
    def know(*, request: TextRequest) -> TextRequest:
        request.answer = "known"
        return request

    async def scenario(rig: Rig) -> None:
        found = await (await admit(rig, n_answers=2, n_candidates=3)).result()
        assert [choice.result.text for choice in found] == ["known", "known"]
        assert rig.pool.groups == []

    play(scenario, request_filters=(know,))
