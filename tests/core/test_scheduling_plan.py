# SPDX-License-Identifier: Apache-2.0
"""The scheduler's plans, without threads: limits are kept, everybody gets a turn, tokens are what they are alone."""

import pytest
from hypothesis import given, settings, strategies as st

from lmi.api import GenerationRequest, SamplingParams
from lmi.scheduling.active import ActiveRequest
from lmi.scheduling.scheduler import Scheduler
from tests.steppers import ToyStepper, toy_limits, toy_logits

EOS = 0


def new_active(name, prompt_ids, max_tokens, **changes):
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True, **changes)
    return ActiveRequest(GenerationRequest(request_id=name, prompt_ids=prompt_ids, sampling=sampling), [EOS], None)


def greedy_ids(prompt_ids, max_tokens, vocab_size):
    ids = list(prompt_ids)
    for _ in range(max_tokens):
        ids.append(int(toy_logits(ids, vocab_size).argmax()))
    return ids[len(prompt_ids) :]


def one_step(scheduler, stepper):
    """Plan, compute and commit one step; returns the plan and the requests that finished."""
    plan = scheduler.plan()
    for slot in scheduler.take_released():
        stepper.release(slot)
    if plan is None:
        return None, []
    logits = stepper.step(plan.batch).logits
    assert len(logits) == plan.n_rows
    scheduler.commit(plan)
    assert scheduler.kv_used_tokens == sum(map(len, stepper.slots.values()))
    finished = []
    for row, active in plan.sampled:
        active.ids.append(int(logits[row].argmax()))
        if active.finish_on(active.ids[-1]):
            scheduler.remove(active)
            finished.append(active)
    return plan, finished


def run_to_end(scheduler, stepper):
    while scheduler.has_work:
        plan, _ = one_step(scheduler, stepper)
        assert plan is not None, "nothing planned while requests wait"
    one_step(scheduler, stepper)
    assert stepper.slots == {}


def add_all(scheduler, actives):
    for active in actives:
        scheduler.add(active)


limits_of_any_kind = st.fixed_dictionaries(
    {
        "max_slots": st.integers(1, 5),
        "kv_capacity_tokens": st.integers(40, 120),
        "prefill_chunk_tokens": st.none() | st.integers(1, 30),
        "prefill_tokens_beside_decodes": st.none() | st.integers(1, 30),
        "max_prefills_per_step": st.integers(1, 4),
    }
).filter(lambda changes: changes["prefill_chunk_tokens"] or not changes["prefill_tokens_beside_decodes"])
shapes = st.lists(st.tuples(st.integers(1, 25), st.integers(1, 15)), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(limits_of_any_kind, shapes, st.integers(0, 40), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 7))))
def test_any_load_keeps_every_limit_and_gives_everyone_the_tokens_they_get_alone(changes, sizes, headroom, cancels):
    limits = toy_limits(**changes, vocab_size=11)
    stepper = ToyStepper(limits)  # asserts that capacity, chunk sizes, slots and positions are right at each step
    scheduler = Scheduler(limits, headroom_tokens=headroom)
    actives = [new_active(str(i), [i % 11] * n_prompt, n_out) for i, (n_prompt, n_out) in enumerate(sizes)]
    add_all(scheduler, actives)
    cancelled = set()
    for n_step in range(31):
        for index in (who for when, who in cancels if when == n_step and who < len(actives)):
            cancelled.add(index)
            scheduler.remove(actives[index])
        one_step(scheduler, stepper)
    run_to_end(scheduler, stepper)
    for i, (n_prompt, n_out) in enumerate(sizes):
        produced = actives[i].ids[n_prompt:]
        expected = greedy_ids([i % 11] * n_prompt, n_out, 11)
        assert produced == expected or (i in cancelled and produced == expected[: len(produced)])


def test_an_overfull_cache_sends_the_newest_back_to_the_head_of_the_queue():
    limits = toy_limits(kv_capacity_tokens=40, max_slots=3)
    scheduler, stepper = Scheduler(limits, headroom_tokens=0), ToyStepper(limits)
    actives = [new_active(str(i), [i] * 10, 20) for i in range(4)]
    add_all(scheduler, actives)
    while scheduler.kv_used_tokens + 3 <= 40:
        one_step(scheduler, stepper)
        assert scheduler.running == actives[:3]
    one_step(scheduler, stepper)
    assert scheduler.running == actives[:2]
    assert list(scheduler.waiting) == actives[2:]
    run_to_end(scheduler, stepper)
    assert [active.ids[10:] for active in actives] == [greedy_ids([i] * 10, 20, 40) for i in range(4)]


def test_requests_start_in_order_of_arrival_even_if_a_later_one_would_fit():
    limits = toy_limits(kv_capacity_tokens=60)
    scheduler, stepper = Scheduler(limits, headroom_tokens=5), ToyStepper(limits)
    actives = [new_active("running", [1] * 30, 10), new_active("large", [2] * 40, 10), new_active("small", [3], 1)]
    add_all(scheduler, actives)
    one_step(scheduler, stepper)
    assert scheduler.running == actives[:1]
    assert list(scheduler.waiting) == actives[1:]


def test_max_batch_size_bounds_the_slots_in_use():
    scheduler, stepper = Scheduler(toy_limits(), max_batch_size=2), ToyStepper()
    add_all(scheduler, [new_active(str(i), [i], 5) for i in range(5)])
    run_to_end(scheduler, stepper)
    assert stepper.most_slots == 2


def test_a_long_prompt_stops_neither_decodes_nor_short_prompts_behind_it():
    scheduler, stepper = Scheduler(toy_limits()), ToyStepper()
    decoding, long = new_active("decoding", [1], 40), new_active("long", [2] * 200, 2)
    scheduler.add(decoding)
    one_step(scheduler, stepper)
    short = new_active("short", [3] * 6, 3)
    add_all(scheduler, [long, short])
    plan, _ = one_step(scheduler, stepper)
    assert plan.chunks == [(long, 26), (short, 6)]  # 32 a step: the short one whole, the rest to the long one
    while not long.is_decoding:
        plan, _ = one_step(scheduler, stepper)
        assert decoding in plan.decodes
    assert short.n_output == 3, "the short request was done before the long prompt was read"


@pytest.mark.parametrize(
    ("n_streams", "n_prompts", "n_tokens"), [(8, 1, 20), (16, 1, 20), (4, 1, 40), (1, 1, 160), (4, 8, 300)]
)
def test_the_fewer_streams_run_for_each_prompt_the_more_of_the_prompts_is_read(n_streams, n_prompts, n_tokens):
    limits = toy_limits(
        max_slots=32, kv_capacity_tokens=9999, max_prefills_per_step=32,
        prefill_chunk_tokens=300, prefill_tokens_beside_decodes=10,
    )  # fmt: skip
    scheduler, stepper = Scheduler(limits), ToyStepper(limits)
    add_all(scheduler, [new_active(f"stream {i}", [i], 40) for i in range(n_streams)])
    one_step(scheduler, stepper)
    add_all(scheduler, [new_active(f"prompt {i}", [i] * 200, 1) for i in range(n_prompts)])
    plans = [one_step(scheduler, stepper)[0] for _ in range(2)]
    assert sum(n for plan in plans for _, n in plan.chunks) == n_tokens
    assert all(len(plan.decodes) >= n_streams for plan in plans)


def test_a_chunk_read_ahead_is_paid_for_by_the_steps_right_after_it():
    limits = toy_limits(max_slots=8, max_prefills_per_step=8, prefill_chunk_tokens=64, prefill_tokens_beside_decodes=8)
    scheduler, stepper = Scheduler(limits), ToyStepper(limits)
    scheduler.add(new_active("decoding", [1], 200))
    one_step(scheduler, stepper)
    add_all(scheduler, [new_active(str(i), [i] * 30, 1) for i in range(6)])
    while any(not active.is_decoding for active in scheduler.running) or len(scheduler.running) > 1:
        one_step(scheduler, stepper)
    for _ in range(3):
        one_step(scheduler, stepper)
    scheduler.add(new_active("late", [9] * 8, 1))
    plan, _ = one_step(scheduler, stepper)
    assert [n for _, n in plan.chunks] == [8], "an old burst holds up a new prompt"


def test_prompts_that_are_never_cut_cannot_be_cut_beside_decodes():
    with pytest.raises(ValueError, match="prefill_tokens_beside_decodes=8 cuts prompts, and prefill_chunk_tokens=None"):
        toy_limits(prefill_chunk_tokens=None, prefill_tokens_beside_decodes=8)


def test_short_prompts_that_keep_coming_do_not_starve_a_long_one():
    scheduler, stepper = Scheduler(toy_limits(prefill_chunk_tokens=20, max_prefills_per_step=4)), ToyStepper()
    long = new_active("long", [2] * 100, 1)
    scheduler.add(long)
    for i in range(10):
        add_all(scheduler, [new_active(f"{i}/{j}", [i] * 20, 1) for j in range(3)])
        one_step(scheduler, stepper)
    assert long.n_output == 1


def test_of_equally_long_prompts_the_older_is_read_first():
    scheduler, stepper = Scheduler(toy_limits()), ToyStepper()
    older, newer = new_active("older", [1] * 64, 1), new_active("newer", [2] * 64, 1)
    add_all(scheduler, [older, newer])
    plan, _ = one_step(scheduler, stepper)
    assert plan.chunks == [(older, 32)]


@pytest.mark.parametrize("n_long", [90, 120])
def test_with_one_prefill_a_step_the_oldest_and_the_shortest_take_turns(n_long):
    limits = toy_limits(max_prefills_per_step=1)
    scheduler, stepper = Scheduler(limits), ToyStepper(limits)
    long, short = new_active("long", [2] * n_long, 1), new_active("short", [3] * 6, 1)
    add_all(scheduler, [long, short])
    served = [one_step(scheduler, stepper)[0].chunks[0][0] for _ in range(2)]
    assert served == [long, short]


def test_without_a_chunk_size_prompts_are_never_cut():
    limits = toy_limits(prefill_chunk_tokens=None, prefill_tokens_beside_decodes=None, kv_capacity_tokens=220)
    scheduler, stepper = Scheduler(limits), ToyStepper(limits)
    actives = [new_active(str(i), [i] * 60, 20) for i in range(5)]
    add_all(scheduler, actives)
    run_to_end(scheduler, stepper)
    prefills = [prefill for batch in stepper.batches for prefill in batch.prefills]
    assert all(prefill.start == 0 and len(prefill.ids) >= 60 and prefill.n_logits == 1 for prefill in prefills)


def test_the_lowest_free_slot_is_taken():
    scheduler, stepper = Scheduler(toy_limits()), ToyStepper()
    actives = [new_active(str(i), [i], 9) for i in range(3)]
    add_all(scheduler, actives)
    one_step(scheduler, stepper)
    scheduler.remove(actives[0])
    late = new_active("late", [7], 9)
    scheduler.add(late)
    one_step(scheduler, stepper)
    assert [active.slot for active in (*actives, late)] == [-1, 1, 2, 0]


def test_stats_count_what_runs_waits_and_is_cached():
    scheduler, stepper = Scheduler(toy_limits(max_slots=2)), ToyStepper()
    add_all(scheduler, [new_active(str(i), [i] * 5, 9) for i in range(3)])
    one_step(scheduler, stepper)
    stats = scheduler.stats()
    assert (stats.n_running, stats.n_waiting, stats.kv_used_tokens, stats.kv_total_tokens) == (2, 1, 10, 1024)
    assert stats.n_steps == 1
