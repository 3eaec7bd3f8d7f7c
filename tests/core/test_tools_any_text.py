# SPDX-License-Identifier: Apache-2.0
"""What holds for every parser of tool calls, whatever a model writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from lmi.serving.tools.choice import PARSERS
from lmi.serving.tools.deltas import CallArguments, CallStart, Content, merged
from tests.core.tool_answers import NAMES, parsed, read, shown

SETTINGS = settings(deadline=None, derandomize=True, database=None)

FRAGMENTS = [
    "<tool_call>", "</tool_call>", "<tool_", "<", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[", "]", "<|python_tag|>",
    "```json", "```", ";", ",", ":", "{", "}", '"', "\\", "\n", " ", "x", "é", '"name"', '"arguments"', '"f"', "f",
    '{"name": "f", "arguments": {', '{"name": "f", "arguments": {"a": ', '{"arguments": {}, "name": "f"}', "1", "true",
    '{"name": "f", "arguments": {"a": "}"}}', '{"name": "g", "parameters": {}}', "}}", '{"name": "f"}',
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
FORMATS = st.sampled_from(sorted(PARSERS))


@given(name=FORMATS, text=TEXTS, is_streamed=st.booleans(), data=st.data())
@settings(SETTINGS, max_examples=800)
def test_where_the_text_is_cut_changes_nothing_that_was_given_by_then(name, text, is_streamed, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    in_pieces, by_character = (PARSERS[name](NAMES, is_streamed=is_streamed) for _ in range(2))
    given_so, expected = [], []
    for piece in pieces:
        given_so += in_pieces.push(piece)
        expected += [delta for character in piece for delta in by_character.push(character)]
        assert merged(given_so) == merged(expected)
    assert merged(given_so + in_pieces.finish()) == merged(expected + by_character.finish())


@given(name=FORMATS, text=TEXTS)
@settings(SETTINGS, max_examples=800)
def test_no_text_is_lost_or_given_twice(name, text):
    deltas = parsed(name, [text])
    if not any(isinstance(each, CallStart) for each in deltas):
        assert "".join(each.text for each in deltas if isinstance(each, Content)) == text
    at = 0
    for each in deltas:
        # "{}" also stands for arguments that nobody wrote.
        if isinstance(each, Content) or (isinstance(each, CallArguments) and each.text != "{}" and "\n" not in text):
            at = text.index(each.text, at) + len(each.text)


@given(name=FORMATS, text=TEXTS)
@settings(SETTINGS, max_examples=500)
def test_calls_that_are_given_whole_have_an_object_as_arguments(name, text):
    calls = [each for each in shown(parsed(name, [text], is_streamed=False)) if isinstance(each, tuple)]
    for _, arguments in calls[:-1]:  # the last one may be unfinished
        assert isinstance(json.loads(arguments), dict)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)
WRITTEN = st.builds(
    lambda value, indent, ascii_only: json.dumps(value, indent=indent, ensure_ascii=ascii_only),
    OBJECTS, st.sampled_from([None, 1]), st.booleans(),
)  # fmt: skip
CONTENTS = st.text("ab \n<[é", min_size=1, max_size=8).map(lambda text: f"{text}.")

WRITERS: dict[str, Callable[[str], str]] = {
    "hermes": lambda arguments: f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>',
    "llama3_json": lambda arguments: f'<|python_tag|>{{"name": "f", "parameters": {arguments}}}',
    "mistral": lambda arguments: f"[TOOL_CALLS]f[ARGS]{arguments}",
}


@given(name=st.sampled_from(sorted(WRITERS)), parts=st.lists(CONTENTS | WRITTEN.map(lambda text: (text,)), max_size=5))
@settings(SETTINGS, max_examples=400)
def test_content_and_calls_in_any_order_come_back_as_they_were_written(name, parts):
    text = "".join(part if isinstance(part, str) else WRITERS[name](*part) for part in parts)
    joined: list[Any] = []
    for part in parts:
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part if isinstance(part, str) else ("f", *part))
    assert read(name, text) == joined


# --------------------------------------------------------------------------------------------------- enormous ones


def n_steps(action: Callable[[], object]) -> int:
    """Functions that are called meanwhile, those written in C included."""
    n_called = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal n_called
        n_called += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(before)
    return n_called


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("n_piece_characters", [3, 10**9])
@pytest.mark.parametrize(
    "unit", ["word ", '\\"', "\n", '", "é": [{"b": 1e5}], "', '": [[[[{}, true]]]], "'], ids=[*"abcde"]
)
def test_an_enormous_argument_takes_steps_in_proportion_to_its_length(unit, n_piece_characters, is_streamed):
    def run(n_units: int) -> int:
        arguments = f'{{"a{unit * n_units}": 1}}'
        text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
        pieces = [text[at : at + n_piece_characters] for at in range(0, len(text), n_piece_characters)]
        return n_steps(lambda: parsed("hermes", pieces, is_streamed=is_streamed))

    assert run(2000) < 2.2 * run(1000)
