# SPDX-License-Identifier: Apache-2.0
"""A: everything wrong with a model is found at once, in words, without touching a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lmi.api import Problem, ProblemsError
from lmi.testing import isolated
from lmi.testing.kit import Kit
from lmi.testing.plugin_rules import HEAVY, engine_modules
from lmi.testing.rules import rule


class ArtifactRules:
    """Rules A1 to A4."""

    @rule("A1", "a good model has no problems")
    def test_a1_good_model(self, kit: Kit) -> None:
        warnings = kit.plan().warnings
        assert not warnings, f"the model of the case is warned about: {'; '.join(map(str, warnings))}"

    @rule("A2", "three faults are three problems, in one call")
    def test_a2_all_faults_at_once(self, kit: Kit) -> None:
        alone = [problems_of(kit, [fault], f"fault-{number}") for number, fault in enumerate(faults(kit))]
        for number, found in enumerate(alone, start=1):
            assert found, f"fault {number} of {len(alone)} was not found"
        together = {problem.code for problem in problems_of(kit, faults(kit), "faults")}
        for number, found in enumerate(alone, start=1):
            lost = {problem.code for problem in found} - together
            assert not lost, f"fault {number} is found alone ({', '.join(sorted(lost))}) and not beside the others"

    @rule("A3", "every problem has a code and says what to do")
    def test_a3_code_and_hint(self, kit: Kit) -> None:
        for problem in problems_of(kit, faults(kit), "hints"):
            assert "." in problem.code, f"{problem.code!r} is no code of the form area.what: {problem.message}"
            assert problem.hint, f"[{problem.code}] {problem.message}: what is to be done?"

    @rule("A4", "checking a model imports no engine library, so it touches no device")
    def test_a4_no_device(self, kit: Kit) -> None:
        plan = kit.plan()
        modules = isolated.ask(
            isolated.modules_after_validation,
            backend=kit.info.name,
            artifacts=msgspec.to_builtins(plan.artifacts),
            options=plan.config.model_dump(mode="json"),
        )
        heavy = engine_modules(kit).union(HEAVY) & set(modules)
        assert not heavy, f"checking a model imports {', '.join(sorted(heavy))}"


def faults(kit: Kit) -> Sequence[Callable[[Path], Any]]:
    if kit.case.faults:
        assert len(kit.case.faults) >= 3, f"the case has {len(kit.case.faults)} faults; 3 are asked for"
        return kit.case.faults
    return (_lose_tokenizer, _cut_weights, _lose_architecture)


def problems_of(kit: Kit, faults: Sequence[Callable[[Path], Any]], name: str) -> list[Problem]:
    """What is found wrong with a model that was spoilt; of a backend without a model, with its configuration."""
    settings: dict[str, Any] = {}
    folder = None
    if kit.folder is None:
        wrong = {"max_rolling_batch_size": "none at all", "no_such_option": "1", "trust_remote_code": "perhaps"}
        places = range(3) if len(faults) > 1 else [int(name.rpartition("-")[2])]
        settings = {key: wrong[key] for place, key in enumerate(wrong) if place in places}
    else:
        folder = kit.copy_of_model(name)
        for fault in faults:
            fault(folder)
    try:
        kit.plan(folder, **settings)
    except ProblemsError as error:
        return list(error.problems)
    return []


def _lose_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"):
        (folder / name).unlink(missing_ok=True)


def _cut_weights(folder: Path) -> None:
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.truncate(largest.stat().st_size // 2)


def _lose_architecture(folder: Path) -> None:
    (folder / "config.json").write_text("[]", "utf-8")
