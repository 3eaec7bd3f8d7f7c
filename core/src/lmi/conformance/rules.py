# SPDX-License-Identifier: Apache-2.0
"""A rule: one promise of a container, with an id that never changes its meaning."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmi.conformance.subject import Subject

GROUPS = {
    "process": "how the container starts and stops",
    "ping": "health checks",
    "invocations": "requests",
    "streaming": "answers that come piece by piece",
    "adapters": "LoRA adapters",
    "sessions": "stateful sessions",
    "batch": "batch transform",
    "multi-model": "multi-model endpoints",
}
"""First part of a rule's id -> what its group is about."""


class Level(str, Enum):
    """How much a rule matters."""

    MUST = "must"  # the platform asks for it, or answers are wrong without it
    SHOULD = "should"  # it works without, until something goes wrong
    MAY = "may"


class Basis(str, Enum):
    """Who says so."""

    DOCUMENTED = "documented"
    CONVENTION = "convention"
    OURS = "our recommendation"


@dataclass(frozen=True)
class Source:
    """Where a rule comes from.

    Args:
        basis: who says so.
        text: which document, which servers, or why.
        url: of the document.
    """

    basis: Basis
    text: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.basis.value}: {self.text}"


@dataclass(frozen=True)
class Rule:
    """One promise.

    Args:
        id: ``group.what``.
        title: the promise.
        level: how much it matters.
        source: who says so.
        check: judges it: returns if it is kept, and raises Broken, NotApplicable or Skipped otherwise.
    """

    id: str
    title: str
    level: Level
    source: Source
    check: Callable[[Subject], None]

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]

    @property
    def judged(self) -> str:
        """How it is judged, in words."""
        return " ".join((inspect.getdoc(self.check) or "").split())


class RuleError(Exception):
    """Two rules have one id, or an id is none."""


class Broken(Exception):
    """The rule is broken; the text says by what."""


class NotApplicable(Exception):
    """The server does not have, and does not say that it has, what the rule is about."""


class Skipped(Exception):
    """The rule could not be judged; the text says what it lacks."""


def rule(rule_id: str, title: str, level: Level, source: Source) -> Callable[[Callable[[Subject], None]], Rule]:
    """Make a rule of the function that judges it; the function's docstring says how."""
    group, _, name = rule_id.partition(".")
    if group not in GROUPS or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise RuleError(f"{rule_id!r} is no id of a rule")

    def made(check: Callable[[Subject], None]) -> Rule:
        if not inspect.getdoc(check):
            raise RuleError(f"{rule_id}: its function says nothing about how it is judged")
        return Rule(rule_id, title, level, source, check)

    return made


def rules_of(modules: Iterable[ModuleType]) -> list[Rule]:
    """The rules of some modules, in the order they are written."""
    found: dict[str, Rule] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Rule):
                if value.id in found:
                    raise RuleError(f"two rules have the id {value.id}")
                found[value.id] = value
    return list(found.values())


def selected(rules: Sequence[Rule], wanted: Iterable[str]) -> list[Rule]:
    """The rules that a list of ids and groups names; all, where it is empty."""
    names = set(wanted)
    return [each for each in rules if not names or each.id in names or each.group in names]


def expect(condition: object, reason: str) -> None:
    """Raise Broken unless something is so."""
    if not condition:
        raise Broken(reason)
