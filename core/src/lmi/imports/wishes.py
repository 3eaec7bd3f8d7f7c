# SPDX-License-Identifier: Apache-2.0
"""What the variables ask for, before it is known what can be had."""

from __future__ import annotations

from collections.abc import Mapping

from lmi.config import Setting
from lmi.imports.outcome import Fate, Outcome, printable
from lmi.imports.tables import ServerTable


class Wishes:
    """Settings that variables ask for, lowest first, and outcomes that are certain already.

    Args:
        variables: the environment.
        table: whom it was written for.
    """

    def __init__(self, variables: Mapping[str, str], table: ServerTable) -> None:
        self.variables = variables
        self.table = table
        self.settings: list[Setting] = []
        self.outcomes: dict[str, Outcome] = {}
        self.flags: dict[str, str] = {}

    def add_defaults(self, defaults: Mapping[str, str]) -> None:
        """What the other server does where no variable says otherwise."""
        for key, value in defaults.items():
            self.settings.append(Setting(key, value, f"{self.table.title}, where nothing else is said"))

    def ask(self, variable: str, key: str, value: str) -> None:
        """A variable asks for a setting."""
        self.settings.append(Setting(key, value, variable, written=variable))

    def keep(self, variable: str, why: str, instead: str = "") -> None:
        """It stays a variable."""
        self._note(variable, Fate.KEPT, why, instead)

    def leave_out(self, variable: str, why: str, instead: str = "") -> None:
        """It is not needed."""
        self._note(variable, Fate.NO_EFFECT, why, instead)

    def lose(self, variable: str, why: str, instead: str = "", *, changes: bool) -> None:
        """It has no counterpart."""
        self._note(variable, Fate.CHANGES if changes else Fate.NO_EFFECT, why, instead)

    def pass_as_flag(self, variable: str, flag: str, value: str) -> None:
        """It becomes an argument of ``lmi serve``."""
        self.flags[flag] = f"{flag} {value}"
        self._note(variable, Fate.TRANSLATED, f"start with lmi serve {flag} {printable(variable, value)}", "")

    def _note(self, variable: str, fate: Fate, why: str, instead: str) -> None:
        if variable in self.variables:
            shown = printable(variable, self.variables[variable])
            self.outcomes[variable] = Outcome(variable, fate, shown, why, instead)
