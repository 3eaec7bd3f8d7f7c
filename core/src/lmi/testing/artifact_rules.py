# SPDX-License-Identifier: Apache-2.0
"""A: everything wrong with a model is found at once, in words, without touching a device."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lmi.api import LmiError, Problem, ProblemsError
from lmi.testing import isolated
from lmi.testing.kit import Kit
from lmi.testing.plugin_rules import HEAVY, engine_modules
from lmi.testing.rules import rule


class ArtifactRules:
    """Rules A1 to A4."""

    @rule("A1", "a good model has no problems")
    def test_a1_good_model(self, kit: Kit) -> None:
        # That this one compiles at the start is true of it: a compiled model is not the contract's to make.
        warnings = [each for each in kit.plan().warnings if each.code != "engine.compiles-at-start"]
        assert not warnings, f"the model of the case is warned about: {'; '.join(map(str, warnings))}"

    @rule("A2", "three faults are three problems, in one call")
    def test_a2_all_faults_at_once(self, kit: Kit) -> None:
        spoilt = faults(kit)
        alone = [problems_of(kit, [fault]) for fault in spoilt]
        for fault, found in zip(spoilt, alone, strict=True):
            assert found, f"the fault {fault.name} was not found{_advice(kit)}"
        together = problems_of(kit, spoilt)
        needed = _n_by_code(problem for found in alone for problem in found)
        there = _n_by_code(together)
        lost = [f"{there[code]} of {n} {code}" for code, n in sorted(needed.items()) if there[code] < n]
        names = ", ".join(fault.name for fault in spoilt)
        assert not lost, (
            f"of the problems that {names} are alone, together only these are found: {', '.join(lost)}; a user wants "
            "all of them at once"
        )
        assert there.total() >= len(spoilt), (
            f"{len(spoilt)} faults together ({names}) are {there.total()} problems: {_listed(together)}"
        )

    @rule("A3", "every problem has a code and says what to do")
    def test_a3_code_and_hint(self, kit: Kit) -> None:
        for problem in problems_of(kit, faults(kit)):
            assert "." in problem.code, f"{problem.code!r} is no code of the form area.what: {problem.message}"
            assert problem.hint, f"[{problem.code}] {problem.message}: what is to be done?"

    @rule("A4", "checking a model imports no engine library, so it touches no device")
    def test_a4_no_device(self, kit: Kit) -> None:
        plan = kit.plan()
        modules = isolated.ask(
            isolated.modules_after_validation,
            doing="Checking a model",
            timeout_s=kit.case.load_s,
            backend=kit.info.name,
            artifacts=msgspec.to_builtins(plan.artifacts),
            options=plan.config.model_dump(mode="json"),
        )
        heavy = engine_modules(kit).union(HEAVY) & set(modules)
        assert not heavy, f"checking a model imports {', '.join(sorted(heavy))}"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way to make what is checked wrong.

    Args:
        name: how it is called in messages.
        spoil: spoils a copy of the model folder; None for a fault of the configuration.
        settings: options that are wrong.
    """

    name: str
    spoil: Callable[[Path], Any] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def faults(kit: Kit) -> list[Fault]:
    """At least three faults: the case's own, else those of a pretrained model, else those of a configuration.

    Raises:
        AssertionError: the case's faults cannot be used.
    """
    own = kit.case.faults
    if own:
        assert kit.folder is not None, (
            "BackendCase(faults=...) spoils copies of a model folder, and this case has none: name one (model=...), or "
            "leave faults out, and wrong options are the faults"
        )
        assert len(own) >= 3, f"BackendCase(faults=...) has {len(own)} faults; 3 are asked for"
        return [Fault(name=name, spoil=spoil) for name, spoil in zip(_names(own), own, strict=True)]
    if kit.folder is None:
        return [Fault(name=f"option.{key}={text}", settings={key: text}) for key, text in _WRONG_OPTIONS.items()]
    return [Fault(name=spoil.__name__, spoil=spoil) for spoil in (lose_tokenizer, cut_weights, lose_architecture)]


def problems_of(kit: Kit, spoilt: Sequence[Fault]) -> list[Problem]:
    """What is found wrong with a model, or a configuration, that has these faults.

    Every copy of the model lies at the same place, one at a time, so the same problem has the same words.

    Raises:
        AssertionError: a fault cannot be made, or the check fails instead of telling problems.
    """
    names = ", ".join(fault.name for fault in spoilt)
    settings: dict[str, Any] = {key: text for fault in spoilt for key, text in fault.settings.items()}
    # The kit's own faults replace files and write into none; nobody knows what the case's do.
    folder = kit.copy_of_model("spoilt", links=not kit.case.faults) if kit.folder is not None else None
    try:
        if folder is not None:
            _spoil(folder, spoilt)
        kit.plan(folder, **settings)
    except ProblemsError as error:
        return list(error.problems)
    except LmiError as error:
        raise AssertionError(f"with {names}, the check ended with {error}") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return []


def _spoil(folder: Path, spoilt: Sequence[Fault]) -> None:
    for fault in spoilt:
        assert fault.spoil is not None, f"{fault.name} is no fault of a folder"
        try:
            fault.spoil(folder)
        except Exception as error:
            beside = ", ".join(each.name for each in spoilt if each is not fault) or "no other fault"
            what = f"the fault {fault.name} cannot be made beside {beside}: {type(error).__name__}: {error}"
            raise AssertionError(what) from error


def _names(functions: Sequence[Callable[[Path], Any]]) -> list[str]:
    """How the case's faults are called: by their functions' names, with their places where those do not tell them."""
    names = [str(getattr(each, "__name__", type(each).__name__)) for each in functions]
    is_clear = [name.isidentifier() and names.count(name) == 1 for name in names]
    return [name if is_clear[place] else f"faults[{place}] ({name})" for place, name in enumerate(names)]


def _advice(kit: Kit) -> str:
    if kit.case.faults or kit.folder is None:
        return ""
    return (
        "; it is one for folders as save_pretrained writes them. For another format say what can be wrong with it: "
        "BackendCase(faults=(...)), at least three functions that each spoil the folder they get"
    )


def _n_by_code(problems: Iterable[Problem]) -> Counter[str]:
    """Different problems by code; one that is told twice counts once."""
    return Counter(code for code, *_ in {(each.code, each.message, each.path) for each in problems})


def _listed(problems: Iterable[Problem]) -> str:
    return "; ".join(f"[{each.code}] {each.message}" for each in problems) or "none"


_WRONG_OPTIONS = {"max_rolling_batch_size": "none at all", "no_such_option": "1", "trust_remote_code": "perhaps"}
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
    "spiece.model", "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip
_LONGEST_CUT_BYTES = 1 << 20


def lose_tokenizer(folder: Path) -> None:
    """Take the tokenizer's files away."""
    for name in _TOKENIZER:
        (folder / name).unlink(missing_ok=True)


def cut_weights(folder: Path) -> None:
    """Leave half of the largest file, 1 MiB at most, as a download leaves it that broke off."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in _TOKENIZER]
    largest = max(files, key=lambda path: path.stat().st_size)
    with largest.open("rb") as file:
        _replace(largest, file.read(min(largest.stat().st_size // 2, _LONGEST_CUT_BYTES)))


def lose_architecture(folder: Path) -> None:
    """Leave a configuration that says nothing."""
    _replace(folder / "config.json", b"[]")


def _replace(path: Path, content: bytes) -> None:
    """Put another file in the place of one that may be a link to the model's own."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)
