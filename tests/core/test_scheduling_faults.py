# SPDX-License-Identifier: Apache-2.0
"""A stepper as an Engine: cancelling, waiting, refusing, failing and closing."""

import asyncio
import math
import subprocess
import sys

import pytest

from lmi.api import (
    Constraint,
    EngineDeadError,
    GenerationRequest,
    LmiError,
    OutOfMemoryError,
    RequestError,
    SamplingParams,
    StepOutput,
    TooLargeError,
    UnsupportedError,
)
from lmi.scheduling.engine import StepperEngine
from tests.limits import limit_s
from tests.steppers import EOS, VOCAB, Gate, ToyStepper, alone, collect, generate, ids_of, new_request, run, toy_limits

# ------------------------------------------------------------------------------------------------- cancelling, waiting


def test_closing_a_generator_frees_its_slot_before_the_next_step_is_planned():
    gate = Gate()
    stepper = ToyStepper(toy_limits(max_slots=1), on_step=gate)

    async def scenario(engine):
        first = engine.generate(new_request("first", max_tokens=100, ignore_eos=True))
        reading = asyncio.ensure_future(first.__anext__())
        await gate.reached()
        second = asyncio.ensure_future(collect(engine, new_request("second", [9, 9], 1)))
        gate.open()
        await reading
        await gate.reached()  # the first decode stands
        await first.aclose()
        gate.open()
        await gate.reached()
        batch = stepper.batches[-1]
        gate.open(10)
        await second
        assert engine.stats().n_running == 0
        return batch

    batch = run(scenario, stepper)
    assert (batch.decodes, [prefill.ids for prefill in batch.prefills]) == ([], [[9, 9]])


def test_a_request_cancelled_while_it_waits_never_runs():
    gate = Gate()
    stepper = ToyStepper(toy_limits(max_slots=1), on_step=gate)

    async def scenario(engine):
        running = asyncio.ensure_future(collect(engine, new_request("running", max_tokens=3, ignore_eos=True)))
        await gate.reached()
        waiting = asyncio.ensure_future(collect(engine, new_request("waiting", [9, 9])))
        await asyncio.sleep(0)  # it is sent
        gate.open()
        await gate.reached()
        assert engine.stats().n_waiting == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        gate.open(20)
        return await running

    assert len(ids_of(run(scenario, stepper))) == 3
    assert all(prefill.ids != [9, 9] for batch in stepper.batches for prefill in batch.prefills)


def test_a_generator_that_is_never_read_takes_no_slot():
    async def scenario(engine):
        unread = engine.generate(new_request())
        await unread.aclose()
        await collect(engine, new_request("other"))

    stepper = ToyStepper()
    run(scenario, stepper)
    assert stepper.most_slots == 1


def test_the_event_loop_goes_on_while_a_step_is_computed():
    gate = Gate()

    async def scenario(engine):
        reading = asyncio.ensure_future(collect(engine, new_request(max_tokens=1)))
        await gate.reached()
        for _ in range(100):
            await asyncio.sleep(0)  # the loop turns, though the step stands
        assert not reading.done()
        assert engine.stats().n_running == 1
        await engine.check_health()
        gate.open()
        return await reading

    assert len(run(scenario, ToyStepper(on_step=gate))) == 1


def test_an_idle_engine_wakes_for_the_next_request():
    async def scenario(engine):
        return [await collect(engine, new_request()) for _ in range(3)]

    first, *others = run(scenario)
    assert others == [first, first]


def test_each_step_makes_one_call_into_the_event_loop():
    calls = []

    async def scenario(engine):
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda callback, *args, **more: calls.append(1) or original(callback, *args, **more)
        await asyncio.gather(*(collect(engine, new_request(f"r{i}")) for i in range(6)))
        loop.call_soon_threadsafe = original
        return engine.stats().n_steps

    n_steps = run(scenario)
    assert len(calls) <= n_steps


def test_a_reader_whose_event_loop_is_gone_frees_its_slot():
    gate = Gate()
    stepper = ToyStepper(toy_limits(max_slots=1), on_step=gate)
    engine = StepperEngine(stepper, [EOS])
    loop = asyncio.new_event_loop()
    abandoned = engine.generate(new_request(max_tokens=200, ignore_eos=True))
    gate.open()
    loop.run_until_complete(abandoned.__anext__())
    loop.close()
    gate.open(1000)

    async def main():
        chunks = await asyncio.wait_for(collect(engine, new_request("next", max_tokens=2)), limit_s(20))
        await engine.close()
        return chunks

    assert len(asyncio.run(main())) == 2
    assert len(stepper.batches) == 4, "one step too many, at most, for the one who left"


# ----------------------------------------------------------------------------------------------------- what goes wrong

BAD_REQUESTS = [
    ({"prompt_ids": []}, RequestError, "request.empty-prompt", ["no tokens"]),
    ({"prompt_ids": [1] * 250}, TooLargeError, "request.too-long", ["250", "12", "262", "256", "by 6 tokens"]),
    ({"prompt_ids": [1] * 190}, TooLargeError, "request.too-long", ["190", "12", "202", "its cache holds 200"]),
    ({"prompt_ids": [1, 40]}, RequestError, "request.unknown-token", ["40", "prompt_ids", "0 to 39"]),
    ({"prompt_ids": [-1]}, RequestError, "request.unknown-token", ["-1", "prompt_ids"]),
    ({"resumed_ids": [99]}, RequestError, "request.unknown-token", ["99", "resumed_ids"]),
    ({"logit_bias": {77: 1.0}}, RequestError, "request.unknown-token", ["77", "logit_bias"]),
    ({"stop_token_ids": (41,)}, RequestError, "request.unknown-token", ["41", "stop_token_ids"]),
    ({"bad_token_ids": tuple(range(40))}, RequestError, "request.out-of-range", ["all 40 ids"]),
    ({"max_tokens": 0}, RequestError, "request.out-of-range", ["max_tokens is 0", "1"]),
    ({"temperature": math.nan, "seed": 1}, RequestError, "request.out-of-range", ["temperature is nan", ">= 0"]),
    ({"temperature": 0.5, "seed": None}, RequestError, "request.no-seed", ["0.5"]),
    ({"top_p": 0.0}, RequestError, "request.out-of-range", ["top_p is 0.0", "(0, 1]"]),
    ({"repetition_penalty": 0.0}, RequestError, "request.out-of-range", ["repetition_penalty is 0.0"]),
    ({"n_logprobs": 41}, RequestError, "request.out-of-range", ["n_logprobs is 41", "[0, 40]"]),
    ({"constraint": Constraint(kind="regex", source="a")}, UnsupportedError, "request.unsupported", ["regex"]),
]


@pytest.mark.parametrize(("changes", "kind", "code", "words"), BAD_REQUESTS)
def test_a_bad_request_is_refused_in_words_and_harms_no_other(changes, kind, code, words):
    async def scenario(engine):
        good = asyncio.ensure_future(collect(engine, new_request("good")))
        with pytest.raises(kind) as caught:
            await collect(engine, new_request("bad", **changes))
        return caught.value, await good

    error, good = run(scenario, ToyStepper(toy_limits(kv_capacity_tokens=200)))
    assert error.code == code
    assert [word for word in words if word not in str(error)] == []
    assert good == alone(new_request("good"))


def test_an_adapter_is_refused():
    request = GenerationRequest(request_id="a", prompt_ids=[1], sampling=SamplingParams(max_tokens=1), adapter="german")
    with pytest.raises(UnsupportedError, match=r"request\.unsupported.*'german'"):
        generate([request])


def test_several_faults_of_a_request_are_reported_together():
    with pytest.raises(RequestError, match=r"request\.invalid: 2 faults.*empty-prompt.*top_k is -1"):
        generate([new_request(prompt_ids=[], top_k=-1)])


@pytest.mark.parametrize("changes", [{"temperature": 1.0}, {"n_logprobs": 0}, {"min_tokens": 2}, {"top_k": 3}])
def test_a_stepper_that_samples_refuses_what_it_would_not_honour(changes):
    with pytest.raises(UnsupportedError, match=rf"{next(iter(changes))}=.* on the device"):
        generate([new_request(**changes)], ToyStepper(toy_limits(samples_on_device=True)))


def test_prompt_scores_beyond_an_uncut_prompts_logits_are_refused():
    limits = toy_limits(prefill_chunk_tokens=None, prefill_tokens_beside_decodes=None, n_logits_per_slot=1)
    with pytest.raises(UnsupportedError, match="3 tokens were asked for; this model gives 1"):
        generate([new_request(n_prompt_logprobs=0)], ToyStepper(limits))


class BrokenRow(ToyStepper):
    """Its logits are not a number for any history that starts with 13."""

    def _read(self, entry):
        rows = super()._read(entry)
        return [row * math.nan for row in rows] if self.slots[entry.slot][0] == 13 else rows


def test_logits_that_are_not_finite_end_their_request_alone():
    async def scenario(engine):
        good = asyncio.ensure_future(collect(engine, new_request("good")))
        with pytest.raises(LmiError, match=r"engine\.no-finite-logits: .* token 0 of request bad"):
            await collect(engine, new_request("bad", [13]))
        return await good

    assert run(scenario, BrokenRow()) == alone(new_request("good"))


class Failing:
    """Fails the n-th step."""

    def __init__(self, failure, n_steps):
        self._failure, self._left = failure, n_steps

    def __call__(self, batch):
        self._left -= 1
        if self._left <= 0:
            raise self._failure


def failures_of(scenario_stepper):
    """What five open streams (one more than slots), health and a new request get when a step fails."""

    async def scenario(engine):
        requests = [new_request(f"r{i}", max_tokens=50, ignore_eos=True) for i in range(5)]
        found = await asyncio.gather(*(collect(engine, r) for r in requests), return_exceptions=True)
        later = await asyncio.gather(
            engine.check_health(), collect(engine, new_request("late")), return_exceptions=True
        )
        return found + later

    return run(scenario, scenario_stepper)


@pytest.mark.parametrize("cause", [OutOfMemoryError("memory.full", "the device is full"), ValueError("oops")])
def test_a_step_that_fails_ends_every_stream_with_its_cause(cause):
    stepper = ToyStepper(on_step=Failing(cause, n_steps=4))
    errors = failures_of(stepper)
    assert [type(error) for error in errors] == [EngineDeadError] * 7
    assert all(error.code == "engine.died" and error.__cause__ is cause for error in errors)
    assert f"{type(cause).__name__}: " in str(errors[0])
    assert len(set(map(id, errors))) == 7, "streams share one exception, and so its traceback"
    assert stepper.n_closed == 1


def test_what_came_before_the_failure_is_still_read():
    stepper = ToyStepper(on_step=Failing(ValueError("oops"), n_steps=4))

    async def scenario(engine):
        ids = []
        with pytest.raises(EngineDeadError):
            async for chunk in engine.generate(new_request(ignore_eos=True)):
                ids += chunk.ids
        return ids

    assert run(scenario, stepper) == ids_of(alone(new_request(ignore_eos=True)))[:3]


class ShortOutput(ToyStepper):
    def step(self, batch):
        output = super().step(batch)
        return StepOutput(logits=output.logits[:, :-1])


def test_an_output_of_the_wrong_shape_is_named_with_both_shapes():
    errors = failures_of(ShortOutput())
    assert "engine.wrong-output" in str(errors[0])
    assert ", 39)" in str(errors[0])
    assert ", 40)" in str(errors[0])


def test_closing_twice_is_fine_and_closes_the_stepper_once():
    stepper = ToyStepper()

    async def scenario(engine):
        await collect(engine, new_request())
        await engine.close()
        await engine.close()
        with pytest.raises(EngineDeadError, match=r"engine\.closed"):
            await collect(engine, new_request())
        with pytest.raises(EngineDeadError, match=r"engine\.closed"):
            await engine.check_health()

    run(scenario, stepper)
    assert stepper.n_closed == 1


def test_closing_ends_open_streams():
    gate = Gate()

    async def scenario(engine):
        requests = [new_request(f"r{i}", max_tokens=50) for i in range(6)]
        reading = [asyncio.ensure_future(collect(engine, request)) for request in requests]
        await gate.reached()
        closing = asyncio.ensure_future(engine.close())
        await asyncio.sleep(0)
        gate.open()
        await closing
        return await asyncio.gather(*reading, return_exceptions=True)

    errors = run(scenario, ToyStepper(on_step=gate))
    assert [type(error) for error in errors] == [EngineDeadError] * 6
    assert {error.code for error in errors} == {"engine.closed"}


def test_limits_say_what_the_stepper_and_the_batch_size_allow():
    async def scenario(engine):
        return engine.limits

    limits = run(scenario, max_batch_size=3)
    assert (limits.max_context_tokens, limits.max_batch_size, limits.vocab_size) == (256, 3, VOCAB)


def test_planning_needs_no_torch():
    code = "import sys, lmi.scheduling.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
