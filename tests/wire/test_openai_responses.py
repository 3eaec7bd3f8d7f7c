# SPDX-License-Identifier: Apache-2.0
"""``/v1/responses`` by OpenAI's own client, and by the types of its answers: the backend echo writes what is said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.limits import limit_s
from tests.servers import ServerProcess
from tests.wire.conftest import ServeWith, serve_echo
from tests.wire.test_openai_chat import CALL, TEMPLATE

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
LOGPROBS: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
THOUGHTFUL = "<think>\nwhy\n</think>\n\nbecause."
PATH = "/v1/responses"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(TEMPLATE)
    return {"chat_template": path, "tool_call_parser": "hermes", "reasoning_parser": "think", "max_model_len": 1000}


@pytest.fixture(scope="module")
def server(options: dict[str, Any]) -> Iterator[ServerProcess]:
    with serve_echo(max_rolling_batch_size=8, **options) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=limit_s(30)) as client:
        yield client


def asked(text: str = "hello", /, **more: Any) -> dict[str, Any]:
    """The model writes the text once, and then it has no more to say."""
    return {"model": "any", "input": text + "\x00", "extra_body": {"stop": "\x00"}, **more}


def body_of(text: str = "hello", /, **more: Any) -> dict[str, Any]:
    """The same for whoever has no client."""
    return {"model": "any", "input": text + "\x00", "stop": "\x00", **more}


def events_of(server: ServerProcess, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, each judged by the client's own types."""
    answer = server.post({**body, "stream": True}, PATH)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    events = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(EVENTS.validate_python(event) and event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds_of(events: list[dict[str, Any]]) -> list[str]:
    """Their types, runs of one made one."""
    kinds = [event["type"].removeprefix("response.") for event in events]
    return [kind for place, kind in enumerate(kinds) if kinds[place - 1 : place] != [kind]]


def test_a_text_is_answered(client: openai.OpenAI) -> None:
    answer = client.responses.create(**asked(metadata={"a": "b"}, user="me", temperature=0, max_output_tokens=50))
    assert (answer.status, answer.output_text, answer.model) == ("completed", "hello", "any")
    assert (answer.object, answer.id[:5], answer.metadata, answer.user) == ("response", "resp_", {"a": "b"}, "me")
    assert (answer.temperature, answer.max_output_tokens, answer.tool_choice) == (0, 50, "auto")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (6, 6, 12)
    [message] = answer.output
    assert (message.type, message.status) == ("message", "completed")


def test_an_answer_is_of_the_clients_type(server: ServerProcess) -> None:
    body = body_of(f"{THOUGHTFUL}{CALL}", tools=[TOOL], text={"format": {"type": "text"}}, reasoning={"effort": "low"})
    answer = Response.model_validate(server.post(body, PATH).json())
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
    assert answer.completed_at is not None


def test_an_answer_that_is_cut_says_so(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="any", input="hello", max_output_tokens=3)
    assert (answer.status, answer.output_text) == ("incomplete", "hel")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"  # type: ignore[union-attr]


def test_a_stream_tells_each_step_of_a_message(server: ServerProcess) -> None:
    events = events_of(server, body_of())
    assert kinds_of(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == "hello"
    ending = {event["type"].removeprefix("response."): event for event in events[-4:]}
    assert ending["output_text.done"]["text"] == ending["content_part.done"]["part"]["text"] == "hello"
    assert ending["completed"]["response"]["output"] == [ending["output_item.done"]["item"]]
    assert ending["completed"]["response"]["usage"]["output_tokens"] == 6
    assert len({event.get("item_id", "") for event in events}) == 2


def test_a_stream_tells_of_reasoning_before_the_message_and_of_calls_behind_it(server: ServerProcess) -> None:
    events = events_of(server, body_of(f"{THOUGHTFUL}{CALL}\n{CALL}", tools=[TOOL]))
    call = [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
    ]  # fmt: skip
    parts = ["output_item.added", "content_part.added"], ["content_part.done", "output_item.done"]
    assert kinds_of(events) == [
        "created", "in_progress",
        *parts[0], "reasoning_text.delta", "reasoning_text.done", *parts[1],
        *parts[0], "output_text.delta", "output_text.done", *parts[1],
        *call, *call, "completed",
    ]  # fmt: skip
    response = events[-1]["response"]
    thought, message, *calls = response["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "why"}]
    assert message["content"][0]["text"] == "because."
    assert [json.loads(each["arguments"]) for each in calls] == [{"city": "Köln"}] * 2
    assert len({each["call_id"] for each in calls}) == 2
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 3
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == response["output"]
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.done"] == [0, 1, 2, 3]


def test_a_stream_that_is_cut_ends_incomplete(server: ServerProcess) -> None:
    *_, item, last = events_of(server, {"model": "any", "input": "<think>hello", "max_output_tokens": 9})
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    assert (item["item"]["type"], item["item"]["status"]) == ("reasoning", "incomplete")
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_answer_without_a_word_is_an_empty_message(server: ServerProcess) -> None:
    body = {"model": "any", "input": "\x00", "stop": "\x00"}
    [message] = server.post(body, PATH).json()["output"]
    assert message["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
    assert kinds_of(events_of(server, body))[-4:-1] == ["output_text.done", "content_part.done", "output_item.done"]


def test_what_fails_in_the_middle_of_a_stream_is_its_last_event(serve_with: ServeWith, options: dict[str, Any]) -> None:
    with serve_with("poison", step_delay_ms=2, **options) as server:
        events = events_of(server, {"model": "any", "input": "take poison "})
        refusal = server.post({"model": "any", "input": "take poison "}, PATH)
    last = events[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert "poison.found: the answer speaks of poison" in last["response"]["error"]["message"]
    assert last["response"]["output"][0]["content"][0]["text"] == "take "
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "poison.found")


def test_the_clients_stream_gathers_the_answer(client: openai.OpenAI) -> None:
    with client.responses.stream(**asked(f"I ask. {CALL}"), tools=[TOOL]) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        answer = stream.get_final_response()
    assert ("".join(texts), answer.output_text) == ("I ask. ", "I ask. ")
    call = answer.output[1]
    assert call.type == "function_call"
    assert (call.name, call.parsed_arguments) == ("weather", {"city": "Köln"})


class weather(BaseModel):
    city: str


def test_the_client_parses_calls(client: openai.OpenAI) -> None:
    definition = openai.pydantic_function_tool(weather)["function"]
    tool: Any = {"type": "function", **definition}
    [call] = client.responses.parse(**asked(CALL), tools=[tool]).output
    assert call.type == "function_call"
    assert call.parsed_arguments == {"city": "Köln"}


def test_the_asynchronous_client_is_answered_too(server: ServerProcess) -> None:
    async def answers() -> tuple[str, str, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=limit_s(30)) as client:
            whole = await client.responses.create(**asked("a"))
            parsed = await client.responses.parse(**asked("b"))
            async with client.responses.stream(**asked("c")) as stream:
                final = await stream.get_final_response()
            return whole.output_text, parsed.output_text, final.output_text

    assert asyncio.run(answers()) == ("a", "b", "c")


@pytest.mark.parametrize("is_stream", [False, True])
def test_log_probabilities_are_those_of_the_messages_tokens(server: ServerProcess, is_stream: bool) -> None:
    body = body_of(f"{THOUGHTFUL}{CALL}", tools=[TOOL], **LOGPROBS)
    events = events_of(server, body) if is_stream else []
    response = events[-1]["response"] if is_stream else server.post(body, PATH).json()
    [entries] = [item["content"][0]["logprobs"] for item in response["output"] if item["type"] == "message"]
    assert "".join(entry["token"] for entry in entries) == "because."
    assert [entry["top_logprobs"][0]["token"] for entry in entries] == [entry["token"] for entry in entries]
    told = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert not is_stream or [each for told_at_once in told for each in told_at_once] == entries


def test_calls_and_their_outputs_go_on_with_a_conversation(client: openai.OpenAI) -> None:
    first = client.responses.create(**asked(f"I ask. {CALL}"), tools=[TOOL])
    call = first.output[1]
    assert call.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain\x00"}
    more = {**asked(), "input": [*first.output, output]}
    assert client.responses.create(**more, tools=[TOOL]).output_text == "I ask. rain"


def test_the_input_becomes_the_prompt_by_the_template(server: ServerProcess) -> None:
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "hel"}]},
        {"role": "user", "content": "lo\x00"},
    ]
    answer = server.post({"input": given, "instructions": "well, ", "stop": "\x00"}, PATH).json()
    assert answer["output"][0]["content"][0]["text"] == "well, hello"
    assert answer["instructions"] == "well, "


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id='resp_1' was asked, and this server keeps nothing"),
        ({"store": True}, "store=True was asked"),
        ({"background": True}, "background=True was asked"),
        ({"conversation": "conv_1"}, "conversation='conv_1' was asked"),
        ({"tools": [{"type": "web_search"}]}, "tools[0] is of type 'web_search'"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format=json_object was asked, but backend 'echo'"),
        ({"tools": [TOOL], "tool_choice": "required"}, "backend 'echo' does not offer it"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "wether"}}, "Did you mean 'weather'"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function",
             "name": "wether"}]}},
            "Did you mean 'weather'",
        ),
        (
            {"tools": [TOOL], "tool_choice": "required", "text": {"format": {"type": "json_object"}}},
            "text.format=json_object and tool_choice='required' exclude each other",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(client: openai.OpenAI, more: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "any", "input": "x", **more})
    assert said in caught.value.message


def test_it_is_answered_at_invocations_too_as_lines(server: ServerProcess) -> None:
    assert server.post(body_of()).json()["output"][0]["content"][0]["text"] == "hello"
    answer = server.post(body_of(stream=True))
    assert answer.headers["content-type"] == "application/jsonlines"
    events = [json.loads(line) for line in answer.text.splitlines()]
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    refused = server.post(body_of(store=True))
    assert (refused.status_code, refused.json()["error"]) == (400, "request.unsupported")


def test_a_model_without_a_template_says_what_to_set(echo: ServerProcess) -> None:
    answer = echo.post({"input": "x"}, PATH)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request.no-chat-template")
