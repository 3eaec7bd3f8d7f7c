# SPDX-License-Identifier: Apache-2.0
"""Items of OpenAI's Responses API as messages of a chat, and bodies as the chat that they ask for."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from lmi.api import LmiError
from lmi.serving.bodies import validated
from lmi.serving.openai_responses_bodies import ResponsesBody
from lmi.serving.openai_responses_input import messages_of

CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "now", "arguments": '{"a": 1}', "status": "x"}
CALLED = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": {"a": 1}}}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
THOUGHT = {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}


def said(text: str, role: str = "assistant") -> dict[str, Any]:
    return {"type": "message", "id": "m", "role": role, "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}]}  # fmt: skip


def test_a_text_is_what_a_user_says_and_instructions_come_before_it():
    assert messages_of("hi", None) == [{"role": "user", "content": "hi"}]
    assert messages_of("hi", "be kind")[0] == {"role": "system", "content": "be kind"}


def test_messages_keep_their_roles_and_their_parts():
    given = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        said("d"),
    ]
    assert messages_of(given, None) == [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]


def test_what_a_model_did_in_one_turn_is_one_message():
    given = [THOUGHT, said("wait"), CALL, CALL, OUTPUT, THOUGHT, said("it is noon"), {"role": "user", "content": "thx"}]
    assert messages_of(given, None) == [
        {"role": "assistant", "reasoning_content": "hm", "content": "wait", "tool_calls": [CALLED, CALLED]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        {"role": "assistant", "reasoning_content": "hm", "content": "it is noon"},
        {"role": "user", "content": "thx"},
    ]


def test_text_behind_a_call_belongs_to_the_same_turn():
    assert messages_of([said("a"), CALL, said("b")], None) == [
        {"role": "assistant", "content": "ab", "tool_calls": [CALLED]}
    ]
    assert messages_of([CALL, THOUGHT, said("b")], None)[1] == {
        "role": "assistant", "reasoning_content": "hm", "content": "b",
    }  # fmt: skip


def test_of_reasoning_that_only_its_service_can_read_the_summary_is_left_or_nothing():
    sealed = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "gAAA"}
    assert messages_of([sealed, said("a")], None) == [{"role": "assistant", "content": "a"}]
    summed = {**sealed, "summary": [{"type": "summary_text", "text": "so"}], "content": None}
    assert messages_of([summed], None) == [{"role": "assistant", "reasoning_content": "so"}]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (
            {"type": "web_search_call", "id": "x"},
            "input[0] is an item of type 'web_search_call'; items here are of the",
        ),
        ({"type": "item_reference", "id": "x"}, "nothing is kept here that an item could refer to"),
        ({"type": 3}, "input[0] is an item of type 3"),
        (
            {"role": "tool", "content": "x"},
            "input[0].role is 'tool'; it must be one of system, developer, user, assist",
        ),
        ({"role": "user"}, "input[0].content is missing; it must be a text or a list of parts"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
            "input[0].content[0] is a part of type 'input_image'; chats hold text only",
        ),
        ({**CALL, "arguments": "{"}, "input[0].arguments is '{'; it must be the JSON text of an object"),
        ({**CALL, "name": None}, "input[0].name is missing; it must be a text"),
        ({**OUTPUT, "call_id": 3}, "input[0].call_id is 3; it must be a text"),
        ({**OUTPUT, "output": [{"type": "input_file"}]}, "input[0].output[0] is a part of type 'input_file'"),
        ({**THOUGHT, "content": "hm"}, "input[0].content is 'hm'; it must be a list of parts"),
        ({**THOUGHT, "content": ["hm"]}, "input[0].content[0] is 'hm'; it must be an object with type and text"),
        ({**THOUGHT, "content": [{}]}, "input[0].content[0].text is missing"),
    ],
)
def test_an_item_that_cannot_be_read_is_named_with_its_place(item, text):
    with pytest.raises(LmiError) as caught:
        messages_of([item], None)
    assert caught.value.code in ("request.invalid", "request.unsupported")
    assert text in str(caught.value)


def test_a_body_asks_for_what_a_chat_would_be_asked_for():
    schema = {"type": "object", "properties": {}}
    body = {
        "input": "hi", "max_output_tokens": 5, "temperature": 0.5, "top_k": 3, "user": "me", "adapters": "a",
        "reasoning": {"effort": "low", "summary": "auto"}, "truncation": "disabled", "store": False,
        "text": {"format": {"type": "json_schema", "name": "it", "schema": schema, "strict": True}},
        "tools": [{"type": "function", "name": "f", "parameters": schema}, {"type": "function", "name": "g"}],
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]},
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "top_logprobs": 2,
    }  # fmt: skip
    chat = validated(ResponsesBody, body).chat()
    assert (chat.most_tokens, chat.top_k, chat.adapters, chat.reasoning_effort) == (5, 3, ["a"], "low")
    assert (chat.logprobs, chat.top_logprobs) == (True, 2)
    assert chat.response_format is not None
    assert chat.response_format.constraint is not None
    assert [tool.name for tool in chat.tools or ()] == ["f", "g"]
    assert (chat.tools or [])[0].function.parameters == schema
    parameters = chat.parameters(draws=True, max_new_tokens=chat.most_tokens)
    assert (parameters.temperature, parameters.top_k, parameters.max_new_tokens) == (0.5, 3, 5)


def test_whatever_openais_client_knows_may_be_null():
    nulls = dict.fromkeys(ResponseCreateParamsBase.__annotations__)
    assert len(nulls) > 20
    assert validated(ResponsesBody, {**nulls, "input": "hi"}) == validated(ResponsesBody, {"input": "hi"})


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id='resp_1' was asked, and this server keeps nothing"),
        ({"conversation": {"id": "c"}}, "conversation={'id': 'c'} was asked"),
        ({"background": True}, "background=True was asked"),
        ({"store": True}, "store=True was asked"),
        ({"prompt": {"id": "p"}}, "prompt={'id': 'p'} was asked"),
        ({"tools": [{"type": "web_search"}]}, "tools[0] is of type 'web_search'; a model here can call functions of"),
        ({"tools": [{"type": "function", "name": "f"}] * 2}, "'f' is defined more than once"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice must be 'none', 'auto', 'required', or an object of"),
        ({"truncation": "auto"}, "truncation='auto': input should be 'disabled'"),
        ({"include": ["web_search_call.results"]}, "include.0='web_search_call.results': input should be"),
        ({"top_logprobs": 2}, "top_logprobs=2 needs include=['message.output_text.logprobs']"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format needs schema with type='json_schema'"),
        ({"text": {"verbosity": "huge"}}, "text.verbosity='huge': input should be 'low', 'medium' or 'high'"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary='detailed': input should be 'auto'"),
        ({"input": []}, "input=[]: input should be a text, or a list of at least one item"),
        ({"input": [{"role": "user", "content": "x"}, 3]}, "input[1]=3: an item should be an object"),
        ({"input": {"role": "user"}}, "input should be a text, or a list"),
        ({"max_output_token": 3}, "Did you mean 'max_output_tokens'?"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(more, text):
    with pytest.raises(LmiError) as caught:
        validated(ResponsesBody, {"input": "hi", **more}).chat()
    assert caught.value.code in ("request.invalid", "request.unsupported")
    assert text in str(caught.value)
