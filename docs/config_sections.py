# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/config.md that are made from the tables of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lmi.config import names, server


def foreign_variables() -> str:
    """One row a variable of another server: the key it means."""
    rows = [(f"`{variable}`", f"`{key}`") for variable, key in names.FOREIGN_VARIABLES.items()]
    for variable, keys in names.VARIABLES_OF_SEVERAL_KEYS.items():
        rows.append((f"`{variable}`", " or ".join(f"`{key}`" for key in keys) + ", whichever the backend has"))
    rows += [(f"`{variable}`", f"the opposite of `{key}`") for variable, key in names.INVERSE_VARIABLES.items()]
    return table(("variable", "means"), sorted(rows))


def overriding_variables() -> str:
    """One row a variable that beats the model's own file."""
    rows = names.OVERRIDING_VARIABLES.items()
    return table(
        ("variable", "means"), [(f"`{name}`", " and ".join(f"`{key}`" for key in keys)) for name, keys in rows]
    )


def server_keys() -> str:
    """One row a key of the server that is no option here."""
    rows = [(f"`{key}`", "not supported", hint) for key, hint in server.NOT_SUPPORTED.items()]
    rows += [(f"`{key}`", f"of no use: {reason}", "Take it out") for key, reason in server.OF_NO_USE.items()]
    return table(("key", "what becomes of it", "instead"), rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in [heads, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])
