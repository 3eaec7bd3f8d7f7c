# SPDX-License-Identifier: Apache-2.0
"""Bodies as OpenAI's clients send them, and what is said of wrong ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams

from lmi.api import RequestError
from lmi.serving.bodies import validated
from lmi.serving.invocation import Invocation, ListInvocation
from lmi.serving.openai_bodies import ChatBody, CompletionBody, TextBody
from lmi.serving.tokenizing import DetokenizeBody, TokenizeBody

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
COMPLETION: dict[str, Any] = {"prompt": "x"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
MANY = 100_000


def read(given: dict[str, Any]) -> Any:
    kind: type[TextBody] = ChatBody if "messages" in given else CompletionBody
    return validated(kind, given)


def refused(kind: Any, given: dict[str, Any]) -> str:
    with pytest.raises(RequestError) as caught:
        validated(kind, given)
    return caught.value.message


@pytest.mark.parametrize(("body", "fields"), [(CHAT, ChatParams), (COMPLETION, CompletionParams)])
def test_whatever_openais_client_knows_may_be_null(body: dict[str, Any], fields: Any) -> None:
    nulls = dict.fromkeys(fields.__annotations__)
    assert len(nulls) > 10
    assert read({**nulls, **body}) == read(body)


@pytest.mark.parametrize(
    "given",
    [
        {"prompt_cache_key": "a", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "implicit"}},
        {"logprobs": False, "top_logprobs": 0},
        {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": None}},
    ],
)
def test_what_asks_for_nothing_changes_nothing(given: dict[str, Any]) -> None:
    body = read({**CHAT, **given})
    assert not body.wants_usage
    assert body.parameters(draws=True) == read(CHAT).parameters(draws=True)


def test_a_schema_is_taken_where_clients_of_text_generation_inference_have_it() -> None:
    body = read({**CHAT, "response_format": {"type": "json_object", "value": SCHEMA}})
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    assert body.response_format.constraint == read({**CHAT, "response_format": named}).response_format.constraint
    assert json.loads(body.response_format.constraint.source) == SCHEMA
    wrong = {**CHAT, "response_format": {"type": "text", "value": SCHEMA}}
    assert "response_format takes value with type='json_object'" in refused(ChatBody, wrong)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([1, -1], "prompt.ids.1=-1"),
        ([2**70], "prompt.ids.0=1180591620717411303424"),
        ([[1], [2, 2.5]], "prompt.lists of ids.1.1=2.5"),
        (["a", 1], "prompt.texts.1=1"),
        ({"a": 1}, "prompt.text={'a': 1}"),
        ([[]] * 129, "prompt has 129 texts; there must be 1 to 128"),
    ],
)
def test_a_wrong_prompt_is_told_by_its_first_fault(prompt: Any, said: str) -> None:
    message = refused(CompletionBody, {"prompt": prompt})
    assert message.startswith(said)
    assert "; prompt" not in message


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CompletionBody, {"prompt": [0.5] * MANY}),
        (CompletionBody, {"prompt": [[0.5] * MANY]}),
        (ChatBody, {"messages": [0.5] * MANY}),
        (ChatBody, {**CHAT, "stop": [0.5] * MANY}),
        (ChatBody, {**CHAT, "documents": [0.5] * MANY}),
        (ChatBody, {**CHAT, "modalities": [0.5] * MANY}),
        (ChatBody, {**CHAT, "adapters": [0.5] * MANY}),
        (ChatBody, {**CHAT, "logit_bias": dict.fromkeys(map(str, range(MANY)), "x")}),
        (ChatBody, {**CHAT, "metadata": dict.fromkeys(map(str, range(MANY)), 1)}),
        (ChatBody, {**CHAT, **dict.fromkeys(map(str, range(MANY)), 1)}),
        (Invocation, {"inputs": "x", "adapters": [0.5] * MANY}),
        (Invocation, {"inputs": "x", "parameters": dict.fromkeys(map(str, range(MANY)), 1)}),
        (ListInvocation, {"inputs": [0.5] * MANY}),
        (TokenizeBody, {"messages": [0.5] * MANY}),
        (DetokenizeBody, {"tokens": [0.5] * MANY}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) and len(value) < 9 else "",
)
def test_of_very_many_faults_one_is_told(kind: Any, body: dict[str, Any]) -> None:
    message = refused(kind, body)
    assert ";" not in message.replace("fields; at most", "")
    assert len(message) < 300


# ---------------------------------------------------------------------------------------- what other servers have, too


@pytest.mark.parametrize("body", [CHAT, COMPLETION])
@pytest.mark.parametrize(
    ("given", "guide"),
    [
        ({"json": SCHEMA}, {"guided_json": SCHEMA}),
        ({"json": json.dumps(SCHEMA)}, {"guided_json": SCHEMA}),
        ({"json_object": True}, {"guided_json": {"type": "object"}}),
        ({"regex": "a+"}, {"guided_regex": "a+"}),
        ({"choice": ["a", "b"]}, {"guided_choice": ["a", "b"]}),
        ({"grammar": "start: /a/"}, {"guided_grammar": "start: /a/"}),
    ],
)
def test_structured_outputs_are_the_guided_parameters(
    body: dict[str, Any], given: dict[str, Any], guide: dict[str, Any]
) -> None:
    found = read({**body, "structured_outputs": given})
    expected = read({**body, **guide}).parameters(draws=True).constraint
    assert expected is not None
    assert found.parameters(draws=True).constraint == expected
    assert found.asked_as("constraint", expected).startswith("structured_outputs=")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"structured_outputs": {}}, "structured_outputs takes one of json, regex, choice, grammar and json_object"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "not regex and choice"),
        ({"structured_outputs": {"json_object": False}}, "not none"),
        ({"structured_outputs": {"json": 7}}, "structured_outputs.json=7: input should be a JSON schema"),
        ({"structured_outputs": {"regex": "a"}, "guided_json": {}}, "structured_outputs and guided_json exclude"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs.structural_tag is not a parameter"),
    ],
)
def test_wrong_structured_outputs_are_refused(given: dict[str, Any], said: str) -> None:
    assert said in refused(ChatBody, {**CHAT, **given})


def test_names_that_may_stand_there_are_those_that_may() -> None:
    with pytest.raises(RequestError) as caught:
        validated(ChatBody, {**CHAT, "structured_outputs": {"regx": "a"}})
    assert caught.value.hint == "Did you mean 'regex'?"
    with pytest.raises(RequestError) as caught:
        validated(ChatBody, {**CHAT, "structured_outputs": {"zzzzzzzz": "a"}})
    assert caught.value.hint == "Known: json, regex, choice, grammar, json_object."


@pytest.mark.parametrize("body", [CHAT, COMPLETION])
@pytest.mark.parametrize("given", [{"store": True}, {"service_tier": "flex"}, {"service_tier": "priority"}])
def test_what_is_said_to_the_service_changes_no_answer(body: dict[str, Any], given: dict[str, Any]) -> None:
    assert read({**body, **given}).parameters(draws=True) == read(body).parameters(draws=True)


def test_a_prediction_changes_no_answer() -> None:
    found = read({**CHAT, "prediction": {"type": "content", "content": "Once"}})
    assert found.parameters(draws=True) == read(CHAT).parameters(draws=True)


def test_a_completion_follows_its_response_format() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    found = read({**COMPLETION, "response_format": form})
    assert (
        found.parameters(draws=True).constraint
        == read({**COMPLETION, "guided_json": SCHEMA}).parameters(draws=True).constraint
    )
    assert found.asked_as("constraint", None) == "response_format=json_schema"
    assert read({**COMPLETION, "response_format": {"type": "text"}}).parameters(draws=True).constraint is None
    twice = {**COMPLETION, "response_format": form, "guided_regex": "a"}
    assert "response_format and guided_regex exclude each other" in refused(CompletionBody, twice)


def test_no_tokens_are_asked_for_where_the_prompt_is_repeated_only() -> None:
    assert "max_tokens=0 asks for the prompt alone" in refused(CompletionBody, {**COMPLETION, "max_tokens": 0})
    assert read({**COMPLETION, "max_tokens": 0, "echo": True}).max_tokens == 0
    assert "max_tokens=0" in refused(ChatBody, {**CHAT, "max_tokens": 0})
