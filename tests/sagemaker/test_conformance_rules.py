# SPDX-License-Identifier: Apache-2.0
"""Each rule of the container contract: a container that keeps it passes, one that breaks it alone does not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lmi.client import target_of
from lmi.conformance.all_rules import RULES
from lmi.conformance.rules import selected
from lmi.conformance.run import FAIL, PASS, Outcome, judge
from lmi.conformance.subject import Subject, Wishes
from tests.limits import SCALE
from tests.sagemaker.faulty_container import running

PROGRAM = [sys.executable, str(Path(__file__).with_name("faulty_process.py"))]
STAYS_HEALTHY = "invocations.stays-healthy"
"""Is about what the rules before it did, and has a test of its own."""
IN_PROCESS = [each.id for each in RULES if each.group != "process" and each.id != STAYS_HEALTHY]
OF_PROCESSES = [each.id for each in RULES if each.group == "process"]

SHORT = {
    "ping.answers-within-2s": 0.2,
    "ping.connects-under-load": 0.1,
    "streaming.stops-for-nobody": 0.1,
    "process.binds-early": 0.2,
    "process.ends-on-sigterm": 0.1,
    "process.ends-while-loading": 0.1,
    "process.finishes-requests": 0.4,
    "process.refuses-new-requests": 0.4,
    "process.exits-with-0": 0.4,
    "process.leaves-nothing-behind": 0.4,
    "process.broken-model-ends": 0.02,
}
"""Rules whose breach is a wait: how long theirs is, against what they say. A machine that is slow breaks them, too."""


def judged(rule: str, wishes: Wishes) -> Outcome:
    with Subject(wishes) as subject:
        [outcome] = judge(subject, selected(RULES, [rule]), lambda _: None)
    return outcome


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    """An adapter, two models and the model's folder."""
    for name in ("adapter", "first", "second", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return {
        "adapter": ("poems", str(tmp_path / "adapter")),
        "models": (str(tmp_path / "first"), str(tmp_path / "second")),
        "model_folder": tmp_path / "model",
    }


@pytest.mark.parametrize("rule", IN_PROCESS)
def test_a_running_server_that_breaks_a_rule_fails_it(rule: str, folders: dict[str, Any]) -> None:
    with running(rule) as url:
        outcome = judged(rule, Wishes(target=target_of(url), time_scale=SHORT.get(rule, SCALE), **folders))
    assert outcome.outcome == FAIL, outcome.reason
    assert outcome.reason


def test_a_server_that_is_ill_after_a_wrong_request_fails_the_rule_about_that() -> None:
    rules = selected(RULES, ["invocations.refuses-arrays", STAYS_HEALTHY])
    with running(STAYS_HEALTHY) as url, Subject(Wishes(target=target_of(url), time_scale=SCALE)) as subject:
        outcomes = judge(subject, rules, lambda _: None)
    assert [each.outcome for each in outcomes] == [PASS, FAIL]


@pytest.mark.parametrize("rule", OF_PROCESSES)
def test_a_command_that_breaks_a_rule_fails_it(rule: str, folders: dict[str, Any]) -> None:
    folder = str(folders["model_folder"])
    command = [*PROGRAM, "--fault", rule, "--model-folder", folder]
    wishes = Wishes(
        command=command,
        broken_command=[*command, "--broken"],
        start_s=20 * SCALE,
        time_scale=SHORT.get(rule, SCALE),
        **folders,
    )
    outcome = judged(rule, wishes)
    assert outcome.outcome == FAIL, outcome.reason
    assert outcome.reason


def test_a_running_server_that_keeps_the_rules_passes_them(folders: dict[str, Any]) -> None:
    slow = "streaming.stops-for-nobody"
    with running() as url, Subject(Wishes(target=target_of(url), time_scale=SCALE, **folders)) as subject:
        rules = [each for each in RULES if each.group != "process" and each.id != slow]
        outcomes = judge(subject, rules, lambda _: None)
    assert {each.rule.id: each.reason for each in outcomes if each.outcome != PASS} == {}
    assert [each.rule.id for each in outcomes if not each.evidence] == []


@pytest.mark.long
def test_a_container_that_keeps_every_rule_passes_them_all(folders: dict[str, Any]) -> None:
    command = [*PROGRAM, "--model-folder", str(folders["model_folder"])]
    wishes = Wishes(
        command=command, broken_command=[*command, "--broken"], broken_cause="model.safetensors is missing",
        start_s=20 * SCALE, time_scale=SCALE, **folders,
    )  # fmt: skip
    with Subject(wishes) as subject:
        outcomes = judge(subject, RULES, lambda _: None)
    assert {each.rule.id: each.reason for each in outcomes if each.outcome != PASS} == {}
