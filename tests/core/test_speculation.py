# SPDX-License-Identifier: Apache-2.0
"""Guesses of a draft model: fewer steps, and never another token."""

from __future__ import annotations

import asyncio
import logging

import pytest

from lmi.api import Draft, EngineLoadError
from lmi.scheduling.engine import StepperEngine
from tests.core.test_scheduling import KINDS, mixed_requests
from tests.steppers import (
    VOCAB,
    ToyStepper,
    alone,
    collect,
    generate,
    ids_of,
    new_request,
    run,
    toy_limits,
)


class Guesser(ToyStepper):
    """A draft model that knows what the other one says, but for one history in ``n``."""

    def __init__(self, n: int, **limits: object) -> None:
        super().__init__(toy_limits(**limits))
        self.n = n

    def _read(self, entry):
        rows = super()._read(entry)
        held = self.slots[entry.slot]
        if rows and sum(held) % self.n == 0:
            rows[-1] = -rows[-1]
        return rows


def guessing(
    n: int = 3, n_tokens: int = 4, draft: Guesser | None = None, is_logged: bool = False, **limits
) -> ToyStepper:
    stepper = ToyStepper(toy_limits(**limits))
    stepper.draft = Draft(stepper=draft or Guesser(n), n_tokens=n_tokens, is_logged=is_logged)
    return stepper


def whole(chunks):
    """Chunks as if they had come token by token."""
    last = chunks[-1]
    logprobs = [entry for chunk in chunks for entry in chunk.logprobs or ()]
    return ids_of(chunks), logprobs, chunks[0].prompt_logprobs, last.finish, last.usage


@pytest.mark.parametrize("n", [1, 2, 3, 1000])
@pytest.mark.parametrize("n_tokens", [1, 4])
def test_with_guesses_every_request_gives_what_it_gives_without(n, n_tokens):
    requests = mixed_requests()
    found = generate(requests, guessing(n, n_tokens))
    assert list(map(whole, found)) == [whole(alone(request)) for request in requests]


def test_right_guesses_spare_steps_and_wrong_ones_cost_none():
    request = new_request(prompt_ids=[4, 8, 15], max_tokens=41, ignore_eos=True)
    for n, n_steps in ((10**9, 1 + 8), (1, 1 + 40)):
        stepper = guessing(n, 4)
        assert whole(generate([request], stepper)[0]) == whole(alone(request))
        assert len(stepper.batches) == n_steps


def test_the_caches_hold_what_was_said_and_nothing_else():
    stepper = guessing(2, 3)
    draft = stepper.draft.stepper
    gate_after = 12

    def look(batch):
        for entry in batch.decodes:
            assert stepper.slots[entry.slot] == [1, 2, 3, *said[: len(stepper.slots[entry.slot]) - 3]]
        if len(stepper.batches) == gate_after:
            assert draft.slots[0][:4] == [1, 2, 3, said[0]]

    request = new_request(max_tokens=40, ignore_eos=True)
    said = ids_of(alone(request))
    stepper.on_step = look

    async def scenario(engine):
        first = await collect(engine, request)
        return first, await collect(engine, request)  # a slot that was not forgotten would fail it

    first, second = run(scenario, stepper)
    assert whole(first) == whole(second)
    assert len(stepper.batches) > gate_after
    assert (stepper.n_closed, draft.n_closed) == (1, 1)


def test_an_end_among_the_guesses_ends_the_request_there():
    request = new_request(prompt_ids=[1, 2], max_tokens=60)
    expected = alone(request)
    stepper = guessing(10**9, 6)
    assert whole(generate([request], stepper)[0]) == whole(expected)
    stop = ids_of(expected)[2]
    stopped = new_request(prompt_ids=[1, 2], max_tokens=60, stop_token_ids=(stop,))
    assert whole(generate([stopped], guessing(10**9, 6))[0]) == whole(alone(stopped))


def test_no_guess_goes_beyond_the_last_token_or_the_context():
    # the steppers fail a step that reads beyond either
    request = new_request(prompt_ids=[1] * 250, max_tokens=6, ignore_eos=True)
    assert whole(generate([request], guessing(10**9, 5))[0]) == whole(alone(request))
    short = guessing(draft=Guesser(10**9, max_context_tokens=20))
    long = new_request(prompt_ids=[1] * 12, max_tokens=30, ignore_eos=True)
    assert whole(generate([long], short)[0]) == whole(alone(long))
    assert all(len(entry.ids) + entry.start <= 20 for batch in short.draft.stepper.batches for entry in batch.decodes)


def test_where_the_cache_is_full_there_are_fewer_guesses_and_preemption_works_as_ever():
    requests = [new_request(f"p{i}", [i + 1] * 15, 100, ignore_eos=True, **KINDS[i % 2]) for i in range(5)]
    stepper = guessing(2, 4, kv_capacity_tokens=170)
    assert [whole(each) for each in generate(requests, stepper)] == [whole(alone(request)) for request in requests]
    small = guessing(draft=Guesser(2, kv_capacity_tokens=40))
    assert [whole(each) for each in generate(requests, small)] == [whole(alone(request)) for request in requests]


def test_a_long_prompt_is_read_by_the_draft_in_pieces_of_its_own():
    stepper = guessing(draft=Guesser(3, prefill_chunk_tokens=7, max_prefills_per_step=1))
    request = new_request(prompt_ids=[1 + i % 30 for i in range(60)], max_tokens=20, ignore_eos=True)
    assert whole(generate([request], stepper)[0]) == whole(alone(request))


def test_a_cancelled_request_leaves_no_guess_behind():
    stepper = guessing(10**9, 4)

    async def scenario(engine):
        stream = engine.generate(new_request("a", max_tokens=200, ignore_eos=True))
        await anext(stream)
        await stream.aclose()
        return await collect(engine, new_request("b", [9, 9], 30, ignore_eos=True))

    found = run(scenario, stepper)
    assert whole(found) == whole(alone(new_request("b", [9, 9], 30, ignore_eos=True)))


def test_guesses_and_right_ones_are_counted_and_told(caplog):
    stepper = guessing(2, 4, is_logged=True)
    requests = [new_request(f"r{i}", [i + 1, 5], 240, ignore_eos=True) for i in range(4)]

    async def scenario(engine):
        await asyncio.gather(*(collect(engine, request) for request in requests))
        return engine.stats()

    with caplog.at_level(logging.INFO):
        stats = run(scenario, stepper)
    assert 0 < stats.n_accepted_tokens < stats.n_guessed_tokens
    n_decodes = sum(len(entry.ids) - 1 for batch in stepper.batches for entry in batch.decodes)
    assert stats.n_guessed_tokens == n_decodes
    assert "of the last" in caplog.text
    assert "guesses were right" in caplog.text


def test_models_that_do_not_go_together_are_refused_at_the_load():
    for stepper, said in (
        (guessing(draft=Guesser(2, vocab_size=VOCAB + 1)), "has 41 token ids, the model 40"),
        (guessing(draft=Guesser(2, max_slots=2)), "has 2 slots, the model 4"),
        (guessing(samples_on_device=True), "samples on its device"),
    ):
        with pytest.raises(EngineLoadError, match=said) as caught:
            StepperEngine(stepper)
        assert caught.value.code == "engine.draft-misfit"


def test_a_draft_that_fails_ends_the_engine_as_the_model_does():
    stepper = guessing()

    def fail(batch):
        raise RuntimeError("no memory")

    stepper.draft.stepper.on_step = fail

    async def scenario(engine):
        with pytest.raises(Exception, match="no memory"):
            await collect(engine, new_request())

    run(scenario, stepper)
