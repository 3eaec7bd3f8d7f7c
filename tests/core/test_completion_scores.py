# SPDX-License-Identifier: Apache-2.0
"""Log probabilities of completions: the likeliest tokens of a place, and always the one that stands there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.scripted import Script, events_of
from tests.core.written_texts import face

IDS = tuple(b"adg")


def asked(script: Script, **more: Any) -> list[dict[str, float] | None]:
    """``top_logprobs`` of the answer."""
    body = {"prompt": "xy", "max_tokens": len(IDS), "logprobs": 2, "temperature": 1, **more}
    answer = face("bytes").ask(script, "/v1/completions", body)
    if not more.get("stream"):
        found: list[dict[str, float] | None] = answer.json()["choices"][0]["logprobs"]["top_logprobs"]
        return found
    return [each for piece in events_of(answer) for each in piece["choices"][0]["logprobs"]["top_logprobs"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_that_is_none_of_the_likeliest_is_told_beside_them(stream: bool) -> None:
    found = asked(Script(IDS, frozenset({1}), is_likely=False), stream=stream)
    assert [list(each or ()) for each in found] == [["b", "c", "a"], ["e", "f", "d"], ["h", "i", "g"]]
    assert (found[0] or {})["a"] == -(97 % 8) / 8


def test_a_token_that_is_among_the_likeliest_is_told_once() -> None:
    assert [list(each or ()) for each in asked(Script(IDS))] == [["a", "b"], ["d", "e"], ["g", "h"]]


def test_without_likely_tokens_the_one_that_stands_there_is_told() -> None:
    assert [list(each or ()) for each in asked(Script(IDS), logprobs=0)] == [["a"], ["d"], ["g"]]


def test_so_it_is_with_the_tokens_of_the_prompt() -> None:
    found = asked(Script(IDS), logprobs=0, echo=True)
    assert [each and list(each) for each in found] == [None, ["y"], ["a"], ["d"], ["g"]]
