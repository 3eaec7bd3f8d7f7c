# SPDX-License-Identifier: Apache-2.0
"""The table of the contract's rules, from the rules themselves."""

from __future__ import annotations

from lmi.testing.contract import RULES
from lmi.testing.rules import GROUPS, Rule


def rules_section() -> str:
    """One row a rule: its id, its group and its promise."""
    rules: list[Rule] = [test.rule for _, test in RULES.values()]  # type: ignore[attr-defined]
    rows = [f"| {each.id} | {GROUPS[each.group]} | {each.title} |" for each in rules]
    return "\n".join(["| rule | about | promise |", "|---|---|---|", *rows])
