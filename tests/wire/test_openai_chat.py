# SPDX-License-Identifier: Apache-2.0
"""``/v1/chat/completions`` by OpenAI's own client: the backend echo writes again what the messages say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.limits import limit_s
from tests.servers import ServerProcess, serve
from tests.wire.conftest import serve_echo

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(TEMPLATE)
    options = {"chat_template": path, "tool_call_parser": "hermes", "reasoning_parser": "think", "max_model_len": 1000}
    with serve_echo(max_rolling_batch_size=8, **options) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=limit_s(30)) as client:
        yield client


def ask(client: openai.OpenAI, text: str = "hello", **more: Any) -> Any:
    """The model writes the text once."""
    given = {"max_completion_tokens": len(text.encode()), **more}
    return client.chat.completions.create(model="any", messages=[{"role": "user", "content": text}], **given)


def test_a_conversation_is_answered(client: openai.OpenAI) -> None:
    answer = ask(client)
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hello", "length")
    assert (answer.object, answer.id[:9], answer.model) == ("chat.completion", "chatcmpl-", "any")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 5, 10)
    assert answer.system_fingerprint == ask(client, "other").system_fingerprint


def test_what_asks_the_service_for_something_is_taken_and_changes_nothing(client: openai.OpenAI) -> None:
    prediction: Any = {"type": "content", "content": "hello"}
    answer = ask(client, store=True, service_tier="flex", verbosity="low", prediction=prediction, metadata={"a": "b"})
    assert answer.choices[0].message.content == "hello"
    with pytest.raises(openai.APIStatusError):  # there is nothing to be had again
        client.chat.completions.retrieve(answer.id)


def test_without_a_limit_the_context_is_one(client: openai.OpenAI) -> None:
    assert ask(client, "x" * 600, max_completion_tokens=None).usage.completion_tokens == 400


def test_a_stream_begins_with_the_role_and_ends_with_the_counts(client: openai.OpenAI) -> None:
    pieces = list(ask(client, "hello you", stream=True, stream_options={"include_usage": True}))
    deltas = [piece.choices[0].delta for piece in pieces[:-1]]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "hello you"
    assert [piece.choices[0].finish_reason for piece in pieces[-3:-1]] == [None, "length"]
    assert (pieces[-1].choices, pieces[-1].usage.completion_tokens) == ([], 9)


def test_a_stop_text_ends_an_answer(client: openai.OpenAI) -> None:
    answer = ask(client, "hello you", stop="lo y")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hel", "stop")


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_call_of_a_tool_is_told_from_content(client: openai.OpenAI, is_stream: bool) -> None:
    text = f"I ask. {CALL}\n{CALL}"
    # The echo begins again behind the second call; what ends it there is a stop text.
    answer = ask(client, text + " ", tools=[TOOL], stream=is_stream, max_completion_tokens=500, stop="> I")
    content, calls, reason = whole_of(answer) if is_stream else parts_of(answer)
    assert content == "I ask. "
    assert [call["function"]["name"] for call in calls] == ["weather", "weather"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"city": "Köln"}] * 2
    assert len({call["id"] for call in calls}) == 2
    assert all(call["id"].startswith("call_") for call in calls)
    assert reason == "tool_calls"


@pytest.mark.parametrize("is_stream", [False, True])
def test_one_call_is_told_where_several_are_not_wanted(client: openai.OpenAI, is_stream: bool) -> None:
    more: dict[str, Any] = {"tools": [TOOL], "parallel_tool_calls": False, "stream": is_stream}
    answer = ask(client, f"{CALL}\n{CALL} so.", stop="so", max_completion_tokens=500, **more)
    content, calls, reason = whole_of(answer) if is_stream else parts_of(answer)
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"city": "Köln"}]
    assert (content or "", reason) == ("", "tool_calls")


def parts_of(answer: Any) -> tuple[str, list[Any], str]:
    [choice] = answer.choices
    return choice.message.content, [call.model_dump() for call in choice.message.tool_calls or ()], choice.finish_reason


def whole_of(stream: Any) -> tuple[str, list[Any], str]:
    """What a client makes of the deltas."""
    content, calls, reason = "", [], ""
    for piece in stream:
        choice = piece.choices[0]
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or ():
            if call.index == len(calls):
                calls.append({"id": call.id, "function": {"name": call.function.name, "arguments": ""}})
            calls[call.index]["function"]["arguments"] += call.function.arguments
    return content, calls, reason


ALLOWED: Any = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}
OTHER: Any = {"type": "function", "function": {"name": "other"}}


def test_of_allowed_tools_the_template_has_no_others(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}" + TEMPLATE)
    choice = {"type": "allowed_tools", "allowed_tools": ALLOWED}
    body = {"messages": [{"role": "user", "content": "hello"}], "tools": [OTHER, TOOL], "tool_choice": choice}
    with serve_echo(max_model_len=1000, chat_template=path) as server:
        answer = server.post({**body, "max_tokens": 13}, "/v1/chat/completions").json()
    assert answer["choices"][0]["message"]["content"] == "weather;hello"


def test_without_tools_what_looks_like_a_call_is_content(client: openai.OpenAI) -> None:
    assert parts_of(ask(client, CALL)) == (CALL, [], "length")
    assert parts_of(ask(client, CALL, tools=[TOOL], tool_choice="none")) == (CALL, [], "length")


@pytest.mark.parametrize("is_stream", [False, True])
def test_reasoning_is_told_from_content(client: openai.OpenAI, is_stream: bool) -> None:
    text = "<think>\nwhy\n</think>\n\nbecause"
    answer = ask(client, text, stream=is_stream)
    messages = [piece.choices[0].delta for piece in answer] if is_stream else [answer.choices[0].message]
    assert "".join(getattr(each, "reasoning_content", None) or "" for each in messages) == "why"
    assert "".join(each.content or "" for each in messages) == "because"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format=json_object was asked, but backend 'echo'"),
        ({"tools": [TOOL], "tool_choice": "required"}, "backend 'echo' does not offer it"),
        ({"tool_choice": "auto"}, "tool_choice needs tools"),
        ({"tools": [TOOL, TOOL]}, "'weather' is defined more than once"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "wether"}}},
            "Did you mean 'weather'",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {**ALLOWED, "mode": "required"}},
            },
            "backend 'echo' does not offer it",
        ),
        ({"tools": [OTHER], "tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}}, "tool_choice names"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs=true"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "has a field of its own"),
    ],
)
def test_what_is_wrong_is_said(client: openai.OpenAI, more: dict[str, Any], said: str) -> None:
    given = {"messages": [{"role": "user", "content": "x"}], **more}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="any", **given)
    assert said in caught.value.message


def test_a_model_without_a_template_says_what_to_set(echo: ServerProcess) -> None:
    answer = echo.post({"messages": [{"role": "user", "content": "x"}]}, "/v1/chat/completions")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request.no-chat-template")
    assert "option.chat_template" in answer.json()["error"]["message"]


def test_messages_go_to_invocations_too(server: ServerProcess) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    assert server.post(body).json()["choices"][0]["message"]["content"] == "hello"
    response = server.post({**body, "stream": True})
    assert response.headers["content-type"] == "application/jsonlines"
    pieces = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces) == "hello"
    assert server.post({"messages": 3}).json()["error"] == "request.invalid"


def test_the_template_of_a_file_is_named_when_it_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{% for message in messages %}\n{% endfo %}")
    with serve("-o", "rolling_batch=echo", "-o", f"chat_template={path}", is_ready=False) as server:
        server.wait_for_line(r"chat\.template-invalid.*line 2")
        assert server.wait_for_end() == 2
