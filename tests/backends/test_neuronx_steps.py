# SPDX-License-Identifier: Apache-2.0
"""Steps of neuronx on a stand-in: every sequence gets what follows its own ids, whatever its neighbours do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lmi.api import Decode, Prefill, StepBatch, Stepper
from lmi.testing import BackendCase
from lmi.testing.contract import RULES
from lmi.testing.kit import Kit
from lmi.testing.rules import NotDeclared
from tests.backends.neuron_standin import loaded, planned

pytestmark = pytest.mark.usefixtures("neuron_libraries")

VOCAB = 300
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "continuous batching": ("llama", {}),
    "a padded batch": ("bloom", {}),
    "a batch of one id at a time": ("gpt_neox", {}),
    "optimum-neuron": ("qwen2", {}),
    "optimum-neuron in whole batches": (
        "qwen2",
        {"rolling_batch": "disable", "entryPoint": "djl_python.transformers_neuronx", "batch_size": 4},
    ),
}
"""Way -> a family that is served so, and options."""

SMOKE = ("G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G9", "G11", "G13", "K-seed", "K-temperature", "K-n_logprobs")


@pytest.fixture(params=WAYS)
def stepper(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Iterator[Stepper]:
    family, options = WAYS[request.param]
    found = loaded(planned(tiny(family), **options))
    yield found
    found.close()


def expected(ids: list[int]) -> torch.Tensor:
    from transformers_neuronx._logits import next_logits

    return next_logits(ids, VOCAB)


def step(stepper: Stepper, *, prefills: Mapping[int, list[int]] = {}, decodes: Mapping[int, list[int]] = {}) -> None:
    """Run a step, and check every row. ``decodes`` has all ids of a slot; the last one is read."""
    batch = StepBatch(
        prefills=[Prefill(slot=slot, ids=ids, start=0, n_logits=1) for slot, ids in prefills.items()],
        decodes=[Decode(slot=slot, ids=ids[-1:], start=len(ids) - 1) for slot, ids in decodes.items()],
    )
    logits = stepper.step(batch).logits
    assert logits is not None
    rows = [*prefills.values(), *decodes.values()]
    assert logits.shape == (len(rows), VOCAB)
    for row, ids in zip(logits, rows, strict=True):
        assert torch.equal(row, expected(ids))


def test_sequences_come_and_go_and_each_gets_what_follows_its_own_ids(stepper: Stepper) -> None:
    first, second, third = [3, 4, 5], [7, 8], [11, 12, 13, 14, 15]
    step(stepper, prefills={0: first, 2: second})
    step(stepper, decodes={0: [*first, 20], 2: [*second, 21]})
    step(stepper, prefills={1: third}, decodes={0: [*first, 20, 22], 2: [*second, 21, 23]})
    stepper.release(0)
    step(stepper, decodes={1: [*third, 30], 2: [*second, 21, 23, 24]})
    step(stepper, prefills={0: [40, 41]}, decodes={1: [*third, 30, 31], 2: [*second, 21, 23, 24, 25]})
    step(stepper, decodes={2: [*second, 21, 23, 24, 25, 26], 0: [40, 41, 42], 1: [*third, 30, 31, 32]})


def test_a_prompt_of_one_id_leaves_its_neighbours_alone(stepper: Stepper) -> None:
    step(stepper, prefills={0: [3, 4, 5]})
    step(stepper, prefills={1: [9]})
    step(stepper, prefills={3: [8], 2: [6, 7]}, decodes={1: [9, 10]})
    step(stepper, decodes={0: [3, 4, 5, 6], 1: [9, 10, 11], 2: [6, 7, 8], 3: [8, 1]})


def test_a_sequence_that_waits_keeps_its_ids(stepper: Stepper) -> None:
    step(stepper, prefills={0: [3, 4, 5, 6], 1: [7, 8]})
    for length in range(3, 6):
        step(stepper, decodes={1: [7, 8, 9, 10, 11][:length]})
    step(stepper, decodes={0: [3, 4, 5, 6, 7]})


def test_ids_that_are_dropped_are_forgotten(stepper: Stepper) -> None:
    step(stepper, prefills={0: [3, 4, 5, 6, 7], 1: [8, 9]})
    stepper.truncate(0, 3)
    step(stepper, decodes={0: [3, 4, 5, 60], 1: [8, 9, 10]})
    step(stepper, decodes={0: [3, 4, 5, 60, 61], 1: [8, 9, 10, 11]})


def test_a_step_may_have_every_slot_up_to_the_last_position(stepper: Stepper) -> None:
    limits = stepper.limits
    assert (limits.max_slots, limits.max_context_tokens, limits.kv_capacity_tokens) == (4, 256, 1024)
    long = [(7 * place) % 250 for place in range(limits.max_context_tokens)]
    step(stepper, prefills={slot: long[: 60 * slot + 2] for slot in range(4)})
    step(stepper, prefills={0: long[:-1]}, decodes={slot: long[: 60 * slot + 3] for slot in range(1, 4)})
    step(stepper, decodes={0: long, **{slot: long[: 60 * slot + 4] for slot in range(1, 4)}})
    stepper.release(0)
    step(stepper, decodes={slot: long[: 60 * slot + 5] for slot in range(1, 4)})


@pytest.mark.parametrize("way", [each for each in WAYS if each != "continuous batching"])
def test_the_contract_is_kept_by_each_way_to_batch(way: str, tiny: Callable[[str], Path]) -> None:
    family, options = WAYS[way]
    settings = {"n_positions": 256, **options}
    kit = Kit(BackendCase(backend="neuronx", settings=settings, model=tiny(family), devices="neuron:2"))
    try:
        for rule_id in SMOKE:
            try:
                RULES[rule_id][1](None, kit)
            except NotDeclared as reason:
                raise AssertionError(f"{rule_id}: {reason}") from reason
    finally:
        kit.close()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_ids_that_the_device_samples_are_the_most_likely_ones(family: str, tiny: Callable[[str], Path]) -> None:
    found = loaded(planned(tiny(family), on_device_generation="top_k=1"))
    assert found.limits.samples_on_device
    batch = StepBatch(
        prefills=[Prefill(slot=1, ids=[4, 5], start=0, n_logits=1), Prefill(slot=0, ids=[6], start=0, n_logits=1)]
    )
    assert found.step(batch).ids == [int(expected([4, 5]).argmax()), int(expected([6]).argmax())]
    found.close()
