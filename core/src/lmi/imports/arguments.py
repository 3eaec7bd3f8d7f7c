# SPDX-License-Identifier: Apache-2.0
"""Variables that have a row in their server's table, and those that are arguments of a backend by their name."""

from __future__ import annotations

from lmi.config.writing import holds_secret
from lmi.imports.options import Options
from lmi.imports.tables import Row
from lmi.imports.wishes import Wishes

_OTHERS = "*"


def collect_rows(wishes: Wishes) -> None:
    """Everything that the table has a row for, in the order of the table."""
    for variable, row in wishes.table.variables.items():
        if variable in wishes.variables:
            _collect(wishes, variable, row)


def collect(wishes: Wishes, options: Options) -> None:
    """Variables that are named like arguments of the backend, whichever it has."""
    prefix = wishes.table.prefix
    for variable in wishes.variables if prefix else ():
        if variable.startswith(prefix) and variable != prefix and variable not in wishes.table.variables:
            _collect_argument(wishes, options, variable)


def _collect(wishes: Wishes, variable: str, row: Row) -> None:
    value = wishes.variables[variable].strip()
    if not value and not (wishes.table.prefix and variable.startswith(wishes.table.prefix)):
        wishes.leave_out(variable, "it is empty, which counts as unset")
    elif row.is_kept or (row.keys and holds_secret(variable, value)):
        wishes.keep(variable, row.why or "it holds a secret, which belongs into no file", row.instead)
    elif row.flag:
        _collect_flag(wishes, variable, row, value)
    elif value.lower() in row.harmless:
        wishes.leave_out(variable, "this value is how LMI works")
    elif not row.keys:
        wishes.lose(variable, row.why, row.instead, changes=row.changes_answers)
    else:
        _collect_keys(wishes, variable, row, value)


def _collect_flag(wishes: Wishes, variable: str, row: Row, value: str) -> None:
    given = row.values.get(value.lower(), value)
    # Only what a command line takes without quotes, so that the line can be copied as it is.
    if given and all(char.isalnum() or char in "._-:/" for char in given) and given[0] != "-":
        wishes.pass_as_flag(variable, row.flag, given)
    else:
        wishes.lose(variable, f"its value fits no {row.flag}", f"Give lmi serve its own {row.flag}", changes=False)


def _collect_keys(wishes: Wishes, variable: str, row: Row, value: str) -> None:
    if value.lower() in row.refused:
        why, instead = row.refused[value.lower()]
        wishes.lose(variable, why, instead, changes=True)
        return
    given = row.values.get(value.lower(), row.values.get(_OTHERS, value))
    if given is None:
        wishes.leave_out(variable, row.why or "this value is the default", row.instead)
        return
    for key in row.keys:
        wishes.ask(variable, key, given)


def _collect_argument(wishes: Wishes, options: Options, variable: str) -> None:
    """The image passes ``--<name> <value>``; true and an empty value are a bare flag, false is none."""
    name = variable.removeprefix(wishes.table.prefix).lower().replace("-", "_")
    value = wishes.variables[variable].strip()
    key = options.key_of(wishes.table.backend, name)
    positive = options.key_of(wishes.table.backend, name.removeprefix("no_"))
    if value.lower() == "false":
        instead = (
            f"Set {key}=false to turn it off"
            if options.is_switch(wishes.table.backend, key, is_off_unset=False)
            else ""
        )
        wishes.leave_out(variable, "the image passes no flag for a false value, so its default holds", instead)
    elif name.startswith("no_") and options.is_switch(wishes.table.backend, positive):
        wishes.ask(variable, positive, "false")
    else:
        wishes.ask(variable, key, value or "true")
