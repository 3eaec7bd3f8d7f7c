# SPDX-License-Identifier: Apache-2.0
"""What the variables of other servers mean: one JSON file a server, in the folder ``servers``.

A row says one of: the keys a variable becomes, the flag of ``lmi serve``, that it stays, or why it has no counterpart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from lmi.api import ConfigError
from lmi.config import names
from lmi.config.names import did_you_mean

_READ_AS_THEY_ARE = (
    names.FOREIGN_VARIABLES, names.INVERSE_VARIABLES, names.VARIABLES_OF_SEVERAL_KEYS, names.OVERRIDING_VARIABLES,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variable of another server.

    Args:
        keys: LMI's keys for it.
        values: its value -> LMI's; None leaves the key out; "*" stands for every other value.
        refused: values without counterpart -> why, and what to do instead.
        is_optional: the key is written where the backend has it, and is no reason to choose one that does.
        flag: the argument of ``lmi serve`` for it.
        is_kept: it stays a variable.
        why: why it has no counterpart, here or where the backend lacks the keys.
        instead: what to do instead.
        changes_answers: whether the endpoint answers otherwise without it.
        harmless: values with which it changes nothing.
        is_generic: others set a variable of this name, too, so it says nothing of the server.
    """

    keys: tuple[str, ...] = ()
    values: Mapping[str, str | None] = field(default_factory=dict)
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    is_optional: bool = False
    flag: str = ""
    is_kept: bool = False
    why: str = ""
    instead: str = ""
    changes_answers: bool = False
    harmless: tuple[str, ...] = ()
    is_generic: bool = False


@dataclass(frozen=True, kw_only=True)
class ServerTable:
    """Another server.

    Args:
        name: what ``--from`` says.
        title: its name in words.
        is_own: its variables are read by LMI as they are.
        backend: value of ``option.rolling_batch`` that its models need; empty where LMI chooses.
        prefix: variables that begin so are arguments of that backend.
        own_prefixes: variables that begin so are made for this server.
        defaults: keys that hold where no variable sets them.
        remarks: what is different whatever the variables say.
        variables: rows by name; a later one beats an earlier one of the same key.
    """

    name: str
    title: str
    is_own: bool = False
    backend: str = ""
    prefix: str = ""
    own_prefixes: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    variables: Mapping[str, Row] = field(default_factory=dict)

    def recognises(self, variable: str) -> bool:
        """Whether a variable is made for this server, as far as a name tells."""
        row = self.variables.get(variable)
        if row is not None:
            return not row.is_generic
        if self.is_own and any(variable in each for each in _READ_AS_THEY_ARE):
            return True
        return variable.startswith(self.own_prefixes) and variable not in self.own_prefixes


def server_names() -> list[str]:
    """What ``--from`` may say."""
    return list(_tables())


def table_of(name: str) -> ServerTable:
    """The table of a server.

    Raises:
        ConfigError: there is none of this name.
    """
    tables = _tables()
    if name not in tables:
        hint = did_you_mean(name, list(tables), f"There are: {', '.join(tables)}")
        raise ConfigError("config.unknown-environment", f"there is no server '{name}' to import from", [], hint)
    return tables[name]


def recognise(variables: Mapping[str, str]) -> ServerTable:
    """The server that an environment was written for: most variables that only it reads, then most that it reads.

    Raises:
        ConfigError: no variable is one of any server's.
    """
    tables = list(_tables().values())
    readers = {variable: [each.name for each in tables if each.recognises(variable)] for variable in variables}
    scores = {
        table.name: (
            sum(found == [table.name] for found in readers.values()),
            sum(table.name in found for found in readers.values()),
        )
        for table in tables
    }
    best = max(tables, key=lambda table: scores[table.name])
    if scores[best.name] == (0, 0):
        titles = ", ".join(each.title for each in tables)
        raise ConfigError(
            "config.unknown-environment", f"no variable of {len(variables)} is made for one of: {titles}", [],
            "Give the file that has them, or say whom they were written for with --from",
        )  # fmt: skip
    return best


@cache
def _tables() -> dict[str, ServerTable]:
    """Every table by its name; LMI's own first, which wins a tie."""
    folder = resources.files("lmi.imports").joinpath("servers")
    found = [_table(json.loads(each.read_text("utf-8"))) for each in folder.iterdir() if each.name.endswith(".json")]
    return {table.name: table for table in sorted(found, key=lambda table: (not table.is_own, table.name))}


def _table(content: dict[str, Any]) -> ServerTable:
    rows = {name: Row(**_frozen(row)) for name, row in content["variables"].items()}
    return ServerTable(**_frozen({**content, "variables": rows}))


def _frozen(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
