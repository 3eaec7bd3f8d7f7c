# SPDX-License-Identifier: Apache-2.0
"""What becomes of each variable, and of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from lmi.api import Problem, Severity
from lmi.config.names import shown
from lmi.config.settings import Setting

_LONGEST_SHOWN = 80


class Fate(str, Enum):
    """What becomes of a variable.

    TRANSLATED: it is in what is written. KEPT: it stays a variable. NO_EFFECT: it is left out, and the endpoint answers
    as before. CHANGES: it is left out, and the endpoint may answer otherwise.
    """

    TRANSLATED = "translated"
    KEPT = "kept"
    NO_EFFECT = "no effect"
    CHANGES = "changes answers"


@dataclass(frozen=True)
class Outcome:
    """What becomes of one variable.

    Args:
        variable: its name.
        fate: what becomes of it.
        shown: its value as it may be printed.
        why: the reason, where it is not translated.
        instead: what to do, if anything.
    """

    variable: str
    fate: Fate
    shown: str
    why: str = ""
    instead: str = ""


@dataclass
class Translation:
    """An environment, translated.

    Args:
        server: whom the variables were written for, in words.
        settings: what is to be written, one of each key, each with the variable it came from.
        outcomes: every variable's, in the order of the input.
        flags: arguments of ``lmi serve`` that stand for variables.
        problems: what is wrong with the settings as a whole.
        remarks: what is different whatever the variables say.
    """

    server: str
    settings: list[Setting] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    remarks: tuple[str, ...] = ()

    @property
    def changes_answers(self) -> bool:
        """Whether the endpoint may answer otherwise than before."""
        lost = any(each.fate is Fate.CHANGES for each in self.outcomes)
        return lost or any(each.severity is Severity.ERROR for each in self.problems)


def printable(name: str, value: str) -> str:
    """A value on one line, cut where it is long, secrets masked."""
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown(name, value))
    return line if len(line) <= _LONGEST_SHOWN else line[:_LONGEST_SHOWN] + "\N{HORIZONTAL ELLIPSIS}"
