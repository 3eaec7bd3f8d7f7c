# SPDX-License-Identifier: Apache-2.0
"""The rules of the contract that need neither an engine nor a device, for backends that have no engine here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lmi.testing import BackendCase
from lmi.testing.contract import RULES
from lmi.testing.kit import Kit
from lmi.testing.rules import STATIC_GROUPS, NotDeclared, selects

STATIC_RULES = [rule_id for rule_id in RULES if selects(STATIC_GROUPS, rule_id)]


@contextlib.contextmanager
def kit_of(case: BackendCase) -> Iterator[Kit]:
    kit = Kit(case)
    try:
        yield kit
    finally:
        kit.close()


def keep(rule_id: str, kit: Kit) -> None:
    """Check one rule; one that has nothing to say of this backend is kept."""
    with contextlib.suppress(NotDeclared):
        RULES[rule_id][1](None, kit)
