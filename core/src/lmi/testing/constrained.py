# SPDX-License-Identifier: Apache-2.0
"""What K-constraint asks: one constraint of each kind, where the core obeys them; of an engine's own library, one."""

from __future__ import annotations

import re

from lmi.api import Constraint, FinishReason
from lmi.serving.tokenizer import load_tokenizer
from lmi.testing.kit import Kit

_CONSTRAINTS = (
    (Constraint(kind="regex", source="[ab]{4}"), "[ab]{4}"),
    (Constraint(kind="choice", source='["red", "green"]'), "red|green"),
    (Constraint(kind="json_schema", source='{"enum": ["n", 7, null]}'), '"n"|7|null'),
    (Constraint(kind="grammar", source='root ::= "(" x ")"\nx ::= [0-9]{1,3}'), r"\([0-9]{1,3}\)"),
    (Constraint(kind="grammar", source='start: "(" X ")"\nX: /[0-9]{1,3}/'), r"\([0-9]{1,3}\)"),
)
"""Constraints, and what their outputs look like."""


def obeys_constraints(kit: Kit) -> None:
    """Check that outputs keep to their constraints, and that they end where the core knows them to be complete.

    Raises:
        AssertionError: one does not.
    """
    tokenizer = load_tokenizer(kit.plan().artifacts)
    is_own = kit.info.own_constraints
    for constraint, pattern in _CONSTRAINTS[: 1 if is_own else None]:
        answer = kit.engine.answer(kit.request(kit.prompt(0), 8 if is_own else 40, constraint=constraint))
        text, shown = tokenizer.decode(answer.ids), f"the {constraint.kind} {constraint.source}"
        found = re.match(pattern, text) if is_own else re.fullmatch(pattern, text)
        assert found, f"{shown} gave {text!r}, and ended with {answer.error or answer.finish}"
        is_ended = answer.finish is not None and answer.finish.reason is FinishReason.EOS
        assert is_own or is_ended, f"{shown} was complete, and the request ended with {answer.finish}"
