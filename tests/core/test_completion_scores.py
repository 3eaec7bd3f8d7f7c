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


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_alone_is_answered_with_its_probabilities_and_no_token(stream: bool) -> None:
    body: dict[str, Any] = {"prompt": ["xyz", "ab"], "max_tokens": 0, "echo": True, "logprobs": 1}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = face("bytes").ask(Script(IDS), "/v1/completions", body)
    if stream:
        *pieces, last = events_of(answer)
        choices, usage = (
            sorted((piece["choices"][0] for piece in pieces), key=lambda each: each["index"]),
            last["usage"],
        )
    else:
        choices, usage = answer.json()["choices"], answer.json()["usage"]
    assert [choice["text"] for choice in choices] == ["xyz", "ab"]
    assert [choice["finish_reason"] for choice in choices] == ["length", "length"]
    assert choices[0]["logprobs"]["tokens"] == ["x", "y", "z"]
    assert choices[0]["logprobs"]["token_logprobs"] == [None, -(ord("y") % 8) / 8, -(ord("z") % 8) / 8]
    assert choices[0]["logprobs"]["text_offset"] == [0, 1, 2]
    assert usage == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


def test_a_prompt_alone_may_be_repeated_without_probabilities() -> None:
    body = {"prompt": "xyz", "max_tokens": 0, "echo": True}
    [choice] = face("bytes").ask(Script(IDS), "/v1/completions", body).json()["choices"]
    assert (choice["text"], choice["logprobs"], choice["finish_reason"]) == ("xyz", None, "length")
