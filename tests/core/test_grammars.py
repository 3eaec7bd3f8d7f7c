# SPDX-License-Identifier: Apache-2.0
"""Constraints in the words of the library that reads them: what is wrong, and what is written in which dialect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

from lmi.api import Constraint
from lmi.grammars import MOST_REASON_CHARS, STACK_BYTES, grammar_of, is_gbnf, reason_against
from lmi.serving.constraints import any_json, choice
from lmi.threads import in_own_thread

BYTES = LLTokenizer("byte")


def takes(constraint: Constraint, text: str) -> bool:
    """Whether a text keeps to a constraint, to its end."""
    matcher = LLMatcher(BYTES, grammar_of(constraint))
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


GOOD: list[tuple[str, str, list[str], list[str]]] = [
    ("regex", r"[ab]{2}\d", ["ab1"], ["a1", "ab1x", ""]),
    ("regex", r"^x+$", ["xx"], ["", "y"]),
    ("regex", r"(?<name>é|\p{Lu})", ["é", "Ä"], ["e"]),
    ("choice", '["ab", "abc", "q\\"\\n😀"]', ["ab", "abc", 'q"\n😀'], ["a", "abcd"]),
    ("json_schema", '{"type": "object"}', ["{}", '{"a": [1, {"b": null}]}'], ["[]", "{", '{"a"}']),
    ("json_schema", '{"const": 3}', ["3"], ["4"]),
    ("grammar", 'start: "a" B*\nB: /[xy]/', ["a", "axy"], ["x"]),
    ("grammar", '// like root ::= x\nstart: "a"', ["a"], ["x"]),
    ("grammar", 'root ::= "yes" | "no"', ["yes", "no"], ["maybe", "ye"]),
    ("grammar", 'root ::= ("a" | pair)\n  | "z" # not "q"\n\n  | "\\x41\\u00e9" # end\npair ::= [0-9\\x41-F]{2}',
     ["a", "z", "Aé", "7C"], ["q", "7", "é"]),
    ("grammar", 'root ::= "a#b" "\\"" [^"\\]]', ['a#b"x'], ['a#b"]', 'a#b""']),
    ("grammar", 'root ::= "\\u0022" "\\x5c" [\\x5d]', ['"\\]'], ["\\"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "source", "texts", "others"), GOOD)
def test_a_constraint_takes_what_it_says_and_nothing_else(
    kind: str, source: str, texts: list[str], others: list[str]
) -> None:
    constraint = Constraint(kind=kind, source=source)
    assert reason_against(constraint) == ""
    assert [text for text in texts if not takes(constraint, text)] == []
    assert [text for text in others if takes(constraint, text)] == []


def test_the_builders_make_what_their_names_say() -> None:
    assert takes(any_json(), '{"x": 1}')
    assert not takes(any_json(), '"x"')
    assert takes(choice(["yes", "no"]), "no")


BAD: list[tuple[str, str, str, bool]] = [  # and whether it is wrong in itself
    ("json_schema", '{"type": 3}', "type must be a string", True),
    ("json_schema", '{"type": "objekt"}', "Invalid type: objekt", True),
    ("json_schema", '{"$ref": "#/nowhere"}', "'/nowhere' does not exist", True),
    ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 3}', "minimum (5) is greater", True),
    ("json_schema", '{"type": "array", "uniqueItems": true}', 'Unimplemented keys: ["uniqueItems"]', False),
    ("json_schema", '{"type": "string", "pattern": "a(?=b)"}', "look-ahead", False),
    ("json_schema", "{", "EOF", True),
    ("regex", "a(", "unclosed group", False),
    ("regex", r"(a)\1", "backreferences are not supported", False),
    ("grammar", "start: foo", 'unknown name: "foo"', False),
    ("grammar", "root ::= foo", "Rule 'foo' not found", False),
    ("grammar", 'x ::= "a"', "No 'root' rule", False),
    ("grammar", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested too deep", False),
    ("choice", "[]", "at least one", True),
    ("choice", '["a", ""]', "none of them empty", True),
    ("choice", "a", "", True),
    ("regex", "a\ud800", "half a surrogate pair", False),
    ("xml", "<a/>", "the kind 'xml' is not known", True),
]


@pytest.mark.parametrize(("kind", "source", "reason", "is_wrong_in_itself"), BAD)
def test_what_cannot_be_obeyed_has_a_reason_in_one_line(
    kind: str, source: str, reason: str, is_wrong_in_itself: bool
) -> None:
    constraint = Constraint(kind=kind, source=source)
    found = reason_against(constraint)
    assert reason in found
    assert found
    assert "\n" not in found
    assert len(found) <= MOST_REASON_CHARS
    assert bool(reason_against(constraint, is_lenient=True)) is is_wrong_in_itself


def test_a_grammar_is_gbnf_where_it_has_its_sign_outside_of_texts() -> None:
    found = [is_gbnf(text) for text in ('a ::= "b"', 'start: "::="', '# x ::= y\nstart: "a"', "start: /[::=]/")]
    assert found == [True, False, False, False]


def _references(n: int) -> str:
    last = {f"a{n}": {"type": "string"}}
    defs = {f"a{i}": {"items": {"$ref": f"#/$defs/a{i + 1}"}, "type": "array"} for i in range(n)}
    return json.dumps({"$ref": "#/$defs/a0", "$defs": {**defs, **last}})


def _rules(n: int) -> str:
    return "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(n)) + f'a{n}: "x"'


DEEP: list[tuple[str, Callable[[int], str], int]] = [("json_schema", _references, 3000), ("grammar", _rules, 5000)]


@pytest.mark.parametrize(("kind", "write", "n"), DEEP)
def test_chains_as_long_as_a_request_may_be_do_not_end_the_process(
    kind: str, write: Callable[[int], str], n: int
) -> None:
    constraint = Constraint(kind=kind, source=write(n))
    work = lambda: (reason_against(constraint), LLMatcher(BYTES, grammar_of(constraint)))  # noqa: E731
    reason, matcher = asyncio.run(in_own_thread(work, stack_bytes=STACK_BYTES))
    assert reason == ""
    assert np.frombuffer(matcher.compute_bitmask(), np.uint8).any()
