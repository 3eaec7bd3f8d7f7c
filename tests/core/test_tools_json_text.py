# SPDX-License-Identifier: Apache-2.0
"""JSON that comes in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from lmi.serving.tools.json_text import read_value
from lmi.serving.tools.reader import Ended, Malformed, Reader, captured

SETTINGS = settings(deadline=None, derandomize=True, database=None)


def outcome(text: str, pieces: list[str]) -> tuple[str, str]:
    """How reading one value ends, and what has been read by then, as JSON wants it."""
    reader, parts = Reader(), list[str]()
    reading = captured(reader, read_value(reader), parts)
    try:
        for piece in pieces:
            reader.feed(piece)
            next(reading)
        reader.is_ended = True
        next(reading)
    except StopIteration as stop:
        return "whole", stop.value
    except Malformed:
        return "malformed", "".join(parts)
    except Ended:
        return "ended", "".join(parts)
    raise AssertionError(f"still waiting after {text!r}")


def refused(name: str) -> Any:
    raise ValueError(name)


def value_of(text: str, *, is_strict: bool) -> Any:
    try:
        return [json.loads(text, strict=is_strict, parse_constant=refused)]
    except ValueError:
        return None


# Values that are nearly right, in an array so that the end of a number shows.
NEARLY = st.lists(
    st.sampled_from([*'{}[]",:0129.eE+- \n\\u', "true", "null", "fals", '"a"', '{"a":', "-1", "\\n", "\\u00e9", "é"]),
    max_size=12,
).map(lambda parts: f"[{''.join(parts)}]")


@given(text=NEARLY, data=st.data())
@settings(SETTINGS, max_examples=3000)
def test_what_is_json_is_what_pythons_own_parser_takes(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    end, shown = outcome(text, [text[:cut], text[cut:]])
    assert (end, shown) == outcome(text, list(text))
    lenient = value_of(text, is_strict=False)
    if lenient is not None:
        assert end == "whole"
        assert value_of(shown, is_strict=True) == lenient
    elif end == "whole":  # one value, and something behind it
        assert value_of(shown, is_strict=True) is not None
        assert len(shown) < len(text) or "\n" in text


@pytest.mark.parametrize("n_levels", [1000, 100_000])
def test_depth_costs_no_stack(n_levels: int) -> None:
    text = "[" * n_levels + "]" * n_levels
    assert outcome(text, [text]) == ("whole", text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('"a\nb\tc\rd\x00e\x1f"', '"a\\nb\\tc\\rd\\u0000e\\u001f"'),
        ('{"a\n":\n["\n"]}', '{"a\\n":\n["\\n"]}'),
        ('"\x7f\u2028"', '"\x7f\u2028"'),
    ],
)
def test_control_characters_in_strings_become_escapes_and_others_stay(text: str, shown: str) -> None:
    assert outcome(text, list(text)) == ("whole", shown)
    assert json.loads(shown) == json.loads(text, strict=False)
