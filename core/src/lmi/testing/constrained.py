# SPDX-License-Identifier: Apache-2.0
"""What K-constraint asks: one constraint of each kind, where the core obeys them; of an engine's own library, one."""

from __future__ import annotations

import re

import msgspec

from lmi.api import Constraint, FinishReason, ReasoningMarks
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
    if not is_own and kit.engine.engine.limits.reasons_first:
        _lets_reasoning_come_first(kit)


def _lets_reasoning_come_first(kit: Kit) -> None:
    """Check that marks of reasoning are obeyed; any two ids that the constraint forbids are marks here."""
    constraint, pattern = _CONSTRAINTS[0]
    tokenizer = load_tokenizer(kit.plan().artifacts)
    [start_id], [end_id] = (tokenizer.encode(each, adds_special=False) for each in "<>")
    for is_open, likes, said in ((False, start_id, "may open"), (True, end_id, "closes")):
        marks = ReasoningMarks(start_id=start_id, end_id=end_id, is_open=is_open)
        behind = msgspec.structs.replace(constraint, reasoning=marks)
        answer = kit.engine.answer(kit.request(kit.prompt(0), 8, constraint=behind, logit_bias={likes: 100.0}))
        shown = f"{behind}, with a bias of 100 for the mark that {said} the reasoning, gave {answer.ids}"
        assert answer.ids[:1] == [likes], f"{shown}, and ended with {answer.error or answer.finish}"
        text = tokenizer.decode(answer.ids[1:])
        assert not is_open or re.fullmatch(pattern, text), f"{shown}, and {text!r} behind it"
