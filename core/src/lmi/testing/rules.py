# SPDX-License-Identifier: Apache-2.0
"""A rule: one promise of a backend with an id that never changes its meaning."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

_Test = TypeVar("_Test", bound=Callable[..., Any])

GROUPS = {
    "P": "plugin",
    "C": "configuration",
    "A": "artifacts",
    "G": "generation",
    "K": "capabilities",
    "L": "life",
}
"""First letter of a rule's id -> what its group is about."""

STATIC_GROUPS = ("P", "C", "A")
"""Groups that need neither the engine library nor a device."""


@dataclass(frozen=True)
class Rule:
    """Id (``G6``, ``K-seed``) and the promise in one line. K rules of capabilities are called as Capability has it."""

    id: str
    title: str

    @property
    def group(self) -> str:
        return self.id[0]


class ContractError(Exception):
    """A contract test that does not hold its own rules: one is overridden, missing, or excused without a reason."""


class StalledError(AssertionError):
    """Nothing came for longer than anything should take."""


class NotDeclared(Exception):
    """Raised by a rule about something that this backend does not have, and does not say that it has."""


def rule(rule_id: str, title: str) -> Callable[[_Test], _Test]:
    """Mark a test method as a rule of the contract. An engine that a rule failed on is not used again."""
    if rule_id[0] not in GROUPS or not re.fullmatch(r"[A-Z](\d+|-[a-z_]+)", rule_id):
        raise ContractError(f"{rule_id!r} is no rule id")

    def mark(test: _Test) -> _Test:
        @functools.wraps(test)
        def run(self: Any, kit: Any) -> None:
            try:
                test(self, kit)
            except NotDeclared:
                raise
            except BaseException as error:
                if isinstance(error, StalledError):
                    kit.note_stall()
                kit.discard()
                raise

        run.rule = Rule(rule_id, title)  # type: ignore[attr-defined]
        return cast(_Test, run)

    return mark


def rules_of(classes: Iterable[type]) -> dict[str, tuple[str, Callable[..., Any]]]:
    """Rule id -> name of its test method and the method, in the order they are written."""
    found: dict[str, tuple[str, Callable[..., Any]]] = {}
    for each in classes:
        for name, value in vars(each).items():
            own = getattr(value, "rule", None)
            if isinstance(own, Rule):
                if own.id in found:
                    raise ContractError(f"two rules have the id {own.id}")
                found[own.id] = (name, value)
    return found


def selects(wanted: Iterable[str], rule_id: str) -> bool:
    """Whether a list of ids (``G6``) and groups (``G``) names a rule."""
    return any(rule_id == each or rule_id[0] == each for each in wanted)
