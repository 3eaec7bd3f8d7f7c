# SPDX-License-Identifier: Apache-2.0
"""What is said of a body that is wrong."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from pydantic import BaseModel

from lmi.api import RequestError
from lmi.serving.bodies import decoded, validated
from lmi.serving.invocation import Invocation
from lmi.serving.openai_bodies import ChatBody
from lmi.serving.openai_responses_bodies import ResponsesBody


def refused(**parameters: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        validated(Invocation, {"inputs": "x", "parameters": parameters})
    assert caught.value.code == "request.invalid"
    return caught.value


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1] 2", b'"\xff"', b"\x00", b'"\\ud800"', b"[" * 100_000, b'{"a":' * 100_000]
)
def test_what_is_no_json_is_refused_in_one_way(body: bytes) -> None:
    with pytest.raises(RequestError, match=r"^request\.malformed-json: the body is not JSON: .+ at line 1 column"):
        decoded(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b' {"a": [1, 2.5, null, true, "\\u00e4"]} ', {"a": [1, 2.5, None, True, "ä"]}),
        (b"[Infinity, -Infinity, 1e999]", [math.inf, -math.inf, math.inf]),
        (b"18446744073709551616", 2**64),
    ],
)
def test_what_clients_send_as_json_is_read(body: bytes, value: Any) -> None:
    assert decoded(body) == value


@pytest.mark.parametrize(
    ("parameters", "field", "hint"),
    [
        ({"temprature": 1}, "parameters.temprature", "Did you mean 'temperature'?"),
        ({"stpo": ["x"]}, "parameters.stpo", "Did you mean 'stop'?"),
        ({"logprob": 1}, "parameters.logprob", "Did you mean 'logprobs'?"),
        ({"bad_sequence": ["x"]}, "parameters.bad_sequence", "Did you mean 'bad_sequences'?"),
        ({"grammar": {"type": "regex", "value": "a", "vlaue": "a"}}, "parameters.grammar.vlaue", "mean 'value'?"),
        ({"grammar": {"type": "regex", "value": "a", "top_k": 1}}, "parameters.grammar.top_k", "Known: type, value."),
    ],
)
def test_a_wrong_name_is_answered_with_a_name_that_may_stand_there(
    parameters: dict[str, Any], field: str, hint: str
) -> None:
    error = refused(**parameters)
    assert f"{field} is not a parameter" in error.message
    assert error.hint.endswith(hint)


def test_all_names_include_those_that_other_servers_have() -> None:
    hint = refused(zzzzzz=1).hint
    assert hint.startswith("Known: max_new_tokens, ")
    assert "bad_words, bad_sequences, " in hint


def test_of_very_many_wrong_names_some_are_told_and_the_others_counted() -> None:
    error = refused(**{f"temperature{number}": 1 for number in range(20)})
    assert error.message.count("is not a parameter") == 16
    assert error.message.endswith("; and 4 more")


MANY = {f"field{number}": 1 for number in range(50_000)}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
FUNCTION = {"name": "f"}
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatBody, {**CHAT, "stream": True, "stream_options": MANY}),
        (ChatBody, {**CHAT, "response_format": {"type": "text", **MANY}}),
        (ChatBody, {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": {}, **MANY}}}),
        (ChatBody, {**CHAT, "tools": [{"type": "function", "function": FUNCTION, **MANY}]}),
        (ChatBody, {**CHAT, "tools": [{"type": "function", "function": {**FUNCTION, **MANY}}]}),
        (ChatBody, {**CHAT, "tools": [NAMED], "tool_choice": {**NAMED, **MANY}}),
        (ResponsesBody, {"input": "x", "text": MANY}),
        (ResponsesBody, {"input": "x", "text": {"format": {"type": "text", **MANY}}}),
        (ResponsesBody, {"input": "x", "reasoning": MANY}),
        (ResponsesBody, {"input": "x", "tools": [{"type": "function", **FUNCTION, **MANY}]}),
        (Invocation, {"inputs": "x", "parameters": {"grammar": {"type": "json", "value": {}, **MANY}}}),
    ],
)
def test_an_object_within_a_body_may_not_have_very_many_fields(kind: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        validated(kind, body)
    assert re.search(r"object should have at most 1000 fields, not 5000\d$", caught.value.message)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatBody, {**CHAT, "tools": [7] * 128}),
        (ChatBody, {**CHAT, "bad_words": [7] * 128}),
        (ChatBody, {**CHAT, "guided_choice": [7] * 1024}),
        (
            ChatBody,
            {
                **CHAT,
                "tools": [NAMED],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [7] * 128}},
            },
        ),
        (ResponsesBody, {"input": [7] * 1000}),
        (ResponsesBody, {"input": "x", "tools": [{"type": "function"}] * 128}),
        (ResponsesBody, {"input": "x", "include": [7] * 1000}),
        (ResponsesBody, {"input": "x", "stop_token_ids": ["x"] * 128}),
        (ResponsesBody, {"input": "x", "documents": [7] * 1000}),
    ],
)
def test_of_a_list_the_first_wrong_entry_is_told(kind: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        validated(kind, body)
    assert "more" not in caught.value.message
    assert caught.value.message.count(";") <= 1


def test_a_very_long_name_is_cut_short() -> None:
    assert len(str(refused(**{"zz" * 5000: 1}).message)) < 200
