# SPDX-License-Identifier: Apache-2.0
"""Each rule of the contract holds for a backend that keeps it, and fails for one that is broken in just that way."""

import contextlib
from dataclasses import replace

import pytest

from lmi.api import Capability
from lmi.serving import capabilities
from lmi.testing import BackendCase, capability_rules
from lmi.testing.contract import RULES
from lmi.testing.kit import Kit
from lmi.testing.live import LiveEngine
from lmi.testing.rules import NotDeclared
from tests.contract.conftest import Toy

SAID = {
    "P1": "imports torch", "P2": "lmi_describe_backends", "P3": "differ", "P4": "nothing tells how to install",
    "C1": "takes any key", "C2": "without a unit", "C3": "as a variable|on the command line", "C4": "stale",
    "A1": "is warned about", "A2": "ValueError: no tokenizer", "A3": "what is to be done", "A4": "imports torch",
    "G1": "max_tokens=1, and 2 ids", "G2": "ended with length", "G3": "asked again", "G4": "finish stands on chunks",
    "G5": "usage says", "G6": "still run", "G7": "no slot is free", "G8": "the toy died", "G9": "is not in",
    "G10": "the loop was held", "G11": "resume", "G12": "requests run while there are 2|n_steps stood",
    "G13": "the first row of a batch",
    "K-temperature": "one and the same answer", "K-top_k": "top_k=1", "K-top_p": "top_p", "K-min_p": "min_p",
    "K-typical_p": "leaves one id", "K-seed": "the same seed drew other ids", "K-repetition_penalty": "a second time",
    "K-presence_penalty": "behind|changed none", "K-frequency_penalty": "behind|changed none",
    "K-logit_bias": "with a bias of 100", "K-bad_token_ids": "were produced", "K-bad_word_ids": "the word",
    "K-stop_token_ids": "stop id",
    "K-min_tokens": "min_tokens=4", "K-ignore_eos": "at the end-of-sequence id", "K-n_logprobs": "with log prob",
    "K-n_prompt_logprobs": "entries", "K-constraint": "the regex", "K-batch_invariant": "in a batch",
    "K-adapters": "changes none",
    "K-tensor_parallel": "tensor_parallel_degree=2: prompt",
    "K-embedding": "differ in length", "K-classification": "a probability",
    "K-compile": "nothing was written",
    "L1": "closed already", "L2": "raised ValueError", "L3": "finds nothing wrong", "L4": "never called progress",
    "L5": "did not end|no token from any",
}  # fmt: skip
"""Rule id -> what it says of a backend that breaks it."""

OF_THE_PLUGIN = ("P1", "P2", "P3", "P4", "C1", "C2", "C3", "C4", "A1", "A2", "A3", "A4", "K-compile")
"""Rules that are broken before there is an engine."""


def case(toy: Toy, fault: str = "") -> BackendCase:
    return BackendCase(
        backend="toy",
        model=toy.model,
        settings={"fault": fault} if fault else {},
        kill_engine=lambda engine: engine.die(),
        tensor_parallel_degree=2,
        load_s=20,
        silence_s=2,
    )


def keep(rule_id: str, kit: Kit) -> None:
    with contextlib.suppress(NotDeclared):
        RULES[rule_id][1](None, kit)


@pytest.fixture(scope="module")
def whole_kit(installed_toy):
    kit = Kit(case(installed_toy))
    yield kit
    kit.close()


def test_every_rule_has_a_backend_that_breaks_it():
    assert list(SAID) == list(RULES)


@pytest.mark.parametrize("rule_id", RULES)
def test_a_backend_that_keeps_the_contract_passes(rule_id, whole_kit):
    keep(rule_id, whole_kit)


@pytest.mark.parametrize("rule_id", RULES)
def test_a_rule_fails_for_a_backend_that_breaks_it(rule_id, toy):
    if rule_id in OF_THE_PLUGIN:
        toy.break_plugin(rule_id)
    kit = Kit(case(toy, "" if rule_id in OF_THE_PLUGIN else rule_id))
    try:
        with pytest.raises(Exception, match=SAID[rule_id]):
            keep(rule_id, kit)
    finally:
        kit.close()


OF_REQUESTS = [f"K-{each.value}" for each in capabilities.SAMPLING_CAPABILITIES]
"""Rules of what a request asks for in its sampling parameters."""


@pytest.mark.parametrize(
    ("fault", "rule_id", "said"),
    [
        ("sync", "G10", "the loop was held"),
        ("leak on cancel", "G6", "still run"),
        ("one step a request", "G12", "n_steps stood"),
        ("tempered", "K-n_logprobs", "when greedy"),
        ("made up", "K-n_logprobs", "when greedy"),
        ("adapters from nowhere", "K-adapters", "loaded from a folder that is not there"),
        ("pins from nowhere", "K-adapters", "an adapter was pinned that is not loaded"),
        ("forgets what it lets go", "K-adapters", "adapter.not-found"),
        ("any length", "K-embedding", "normalize gave a vector of length"),
        ("all dimensions", "K-embedding", "vectors of 1 numbers were asked for"),
        ("no finish", "G1", "the tokens ended after 1 without a finish reason"),
    ],
)
def test_subtler_faults_are_found_too(toy, fault, rule_id, said):
    kit = Kit(case(toy, fault))
    try:
        with pytest.raises(Exception, match=said):
            keep(rule_id, kit)
    finally:
        kit.close()


def test_a_stepper_that_keeps_the_contract_passes_its_rule(toy):
    kit = Kit(case(toy, "stepper"))
    try:
        RULES["G13"][1](None, kit)
    finally:
        kit.close()


def test_there_is_one_engine_at_a_time(toy, monkeypatch):
    alive, most = [], []
    begin, end = LiveEngine.__init__, LiveEngine.close

    def load(self, *arguments, **options):
        alive.append(self)
        most.append(len(alive))
        begin(self, *arguments, **options)

    def close(self):
        alive.remove(self)
        end(self)

    monkeypatch.setattr(LiveEngine, "__init__", load)
    monkeypatch.setattr(LiveEngine, "close", close)
    kit = Kit(case(toy))
    for rule_id in ("G1", "G2", "K-min_tokens", "K-compile", "K-tensor_parallel", "L1", "L3", "L5", "G3"):
        keep(rule_id, kit)
    kit.close()
    assert (max(most), alive) == (1, [])
    assert len(most) > 8


def test_a_load_that_failed_is_not_tried_again(toy, monkeypatch):
    kit = Kit(case(toy))
    loads = []
    monkeypatch.setattr(LiveEngine, "__init__", lambda self, *a, **b: loads.append(1) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keep("G1", kit)
    with pytest.raises(AssertionError, match=r"not tried: the engine could not be loaded before \(ZeroDivisionError"):
        keep("G3", kit)
    kit.close()
    assert loads == [1]


def test_after_three_silences_the_rest_is_not_tried(toy):
    kit = Kit(replace(case(toy, "silent"), silence_s=0.3))
    for rule_id in ("G1", "G3", "G4"):
        with pytest.raises(AssertionError, match=r"no token from any of \d requests for 0.\d s, and no finish"):
            keep(rule_id, kit)
    with pytest.raises(AssertionError, match="not tried: 3 rules before this one waited in vain"):
        keep("G5", kit)
    kit.close()


def test_what_is_not_declared_must_be_refused(toy, monkeypatch):
    toy.break_plugin("undeclared")
    kit = Kit(case(toy))
    try:
        for rule_id in OF_REQUESTS:
            keep(rule_id, kit)
        monkeypatch.setattr(capability_rules, "refuse_undeclared", lambda *arguments: None)
        for rule_id in OF_REQUESTS:
            with pytest.raises(AssertionError, match="is not declared, and a request that asks for it is not refused"):
                keep(rule_id, kit)
    finally:
        kit.close()


def test_an_ability_that_is_there_and_not_declared_fails(toy):
    toy.break_plugin("undeclared")
    kit = Kit(case(toy))
    try:
        with pytest.raises(AssertionError, match="the engine has adapters: declare the capability"):
            keep("K-adapters", kit)
    finally:
        kit.close()


def test_every_capability_has_a_rule():
    assert [each.value for each in Capability if f"K-{each.value}" not in RULES] == []
