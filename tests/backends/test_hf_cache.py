# SPDX-License-Identifier: Apache-2.0
"""lmi_hf.stepping: the memory of the cache, and how slots are grouped for attention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lmi_hf.stepping.arena import Arena, LayerShape
from lmi_hf.stepping.plan import group_slots

SHAPE = LayerShape(n_heads=2, key_size=256, value_size=256, dtype=torch.float32, device=torch.device("cpu"))


def arena(capacity_tokens: int) -> Arena:
    return Arena([SHAPE, SHAPE], max_slots=3, context_tokens=64, capacity_tokens=capacity_tokens)


def fill(cache: Arena, slot: int, start: int, n_tokens: int) -> None:
    cache.extend(slot, start, n_tokens)
    for layer in cache.layers:
        layer.keys[slot, start : start + n_tokens] = slot + 1
        layer.values[slot, start : start + n_tokens] = -slot - 1


def test_keys_and_values_of_a_row_lie_side_by_side() -> None:
    cache = arena(192)
    layer = cache.layers[0]
    layer.rows[64 + 5] = torch.arange(1024.0)
    assert torch.equal(layer.keys[1, 5].flatten(), torch.arange(512.0))
    assert torch.equal(layer.values[1, 5].flatten(), torch.arange(512.0, 1024.0))


def test_leftovers_of_released_slots_are_given_back_when_the_capacity_is_reached() -> None:
    cache = arena(100)
    fill(cache, 0, 0, 60)
    cache.truncate(0, 0)
    fill(cache, 1, 0, 40)
    assert cache.touched_tokens == 100
    fill(cache, 2, 0, 20)
    assert cache.touched_tokens == 60
    assert cache.layers[1].keys[0, :60].abs().sum() == 0
    assert (cache.layers[1].keys[1, :40] == 2).all()
    assert (cache.layers[1].values[2, :20] == -3).all()


def test_what_is_left_of_a_truncated_slot_survives_giving_back() -> None:
    cache = arena(80)
    fill(cache, 0, 0, 60)
    cache.truncate(0, 25)
    fill(cache, 1, 0, 50)
    assert cache.touched_tokens == 75
    assert (cache.layers[0].keys[0, :25] == 1).all()
    assert cache.layers[0].keys[0, 25:60].abs().sum() == 0


@pytest.mark.parametrize("capacity", [192, 80])
def test_a_slot_that_was_given_back_has_nothing_of_its_last_sequence(capacity: int) -> None:
    cache = arena(capacity)
    fill(cache, 0, 0, 60)
    cache.truncate(0, 25)
    fill(cache, 1, 0, 50)  # with the smaller capacity, what lies behind the 25 is forgotten by this
    cache.truncate(0, 0)
    for layer in cache.layers:
        assert layer.keys[0].count_nonzero() == layer.values[0].count_nonzero() == 0
        assert (layer.keys[1, :50] == 2).all()
    assert cache.touched_tokens >= 110 - 60 * (capacity < 110), "what has memory is counted"


def test_reserving_more_than_the_machines_memory_costs_nothing_until_it_is_written() -> None:
    huge = Arena([SHAPE], max_slots=64, context_tokens=1 << 22, capacity_tokens=1000)  # 1 TiB
    fill(huge, 63, 0, 3)
    assert (huge.layers[0].keys[63, :3] == 64).all()


def test_a_sequence_longer_than_the_context_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="slot 2 would hold 65 tokens; the context is 64"):
        arena(192).extend(2, 0, 65)


def test_neighbours_of_like_length_share_a_run_and_a_long_one_stands_alone() -> None:
    runs = group_slots([(0, 60), (1, 64), (2, 5000), (3, 70), (4, 71)], first_row=10)
    assert [(run.slots, run.row) for run in runs] == [((0, 1), 10), ((2,), 12), ((3, 4), 13)]


def test_a_small_gap_is_bridged_and_a_costly_one_is_not() -> None:
    (bridged,) = group_slots([(0, 50), (3, 50)], first_row=0)
    assert (bridged.first_slot, bridged.last_slot, bridged.has_holes) == (0, 4, True)
    assert len(group_slots([(0, 2000), (3, 2000)], first_row=0)) == 2


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.dictionaries(st.integers(0, 63), st.integers(1, 4000), min_size=1))
def test_every_slot_is_in_exactly_one_run_and_rows_follow_the_slots(lengths: dict[int, int]) -> None:
    pairs = sorted(lengths.items())
    runs = group_slots(pairs, first_row=7)
    assert [pair for run in runs for pair in zip(run.slots, run.lengths, strict=True)] == pairs
    assert [run.row for run in runs] == [7 + sum(r.n for r in runs[:number]) for number in range(len(runs))]
    assert all(run.first_slot == run.slots[0] and run.last_slot == run.slots[-1] + 1 for run in runs)
