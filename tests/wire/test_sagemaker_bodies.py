# SPDX-License-Identifier: Apache-2.0
"""What boto3's ``invoke_endpoint`` makes a container see: bytes of JSON, and the headers that the platform hands on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo
from tests.wire.test_openai_chat import CALL, TEMPLATE, TOOL

WHOLE = {
    "Content-Type": "application/json",
    "X-Amzn-SageMaker-Inference-Id": "order-17",
    "X-Amzn-SageMaker-Target-Model": "model.tar.gz",
    "X-Amzn-SageMaker-Custom-Attributes": "trace=c0ffee;tenant=blue",
    "X-Amzn-SageMaker-Forwarded-Api": "InvokeEndpoint",
    "X-Amzn-Trace-Id": "Root=1-67891233-abcdef012345678912345678",
}
"""Of ``invoke_endpoint``."""
STREAMED = {**WHOLE, "X-Amzn-SageMaker-Forwarded-Api": "InvokeEndpointWithResponseStream", "Accept": "*/*"}
"""Of ``invoke_endpoint_with_response_stream``."""

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(TEMPLATE)
    with serve_echo(max_rolling_batch_size=8, chat_template=path, tool_call_parser="hermes") as server:
        yield server


def invoke(server: ServerProcess, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    """The container's answer to ``Body=json.dumps(body)``."""
    return server.post(json.dumps(body).encode("utf-8"), headers=WHOLE if headers is None else headers)


def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"] == "application/jsonlines"
    return [json.loads(line) for line in answer.content.splitlines()]


def test_a_body_of_lmis_schema_is_answered_in_json(server: ServerProcess) -> None:
    body = {"inputs": "héllo", "parameters": {"max_new_tokens": 6, "do_sample": False, "details": True}}
    answer = invoke(server, body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert (answer.json()["generated_text"], answer.json()["details"]["generated_tokens"]) == ("héllo", 6)


def test_a_list_of_inputs_is_answered_in_order(server: ServerProcess) -> None:
    answer = invoke(server, {"inputs": ["abc", "xyz"], "parameters": {"max_new_tokens": 3}})
    assert [each["generated_text"] for each in answer.json()] == ["abc", "xyz"]


def test_a_stream_is_lines_that_each_end_with_a_line_break(server: ServerProcess) -> None:
    body = {"inputs": "abc", "parameters": {"max_new_tokens": 3}, "stream": True}
    answer = invoke(server, body, STREAMED)
    assert answer.content.endswith(b"\n")
    *_, last = found = lines_of(answer)
    assert "".join(each["token"]["text"] for each in found) == last["generated_text"] == "abc"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"messages": MESSAGES, "max_tokens": 5}, "chat.completion"),
        ({"model": "lmi", "messages": MESSAGES, "max_tokens": 5, "temperature": 0, "user": "me"}, "chat.completion"),
        ({"prompt": "hello", "max_tokens": 5}, "text_completion"),
    ],
)
def test_a_chat_and_a_completion_are_told_by_their_keys(server: ServerProcess, body: Any, kind: str) -> None:
    answer = invoke(server, body).json()
    [choice] = answer["choices"]
    said = choice["message"]["content"] if "message" in choice else choice["text"]
    assert (answer["object"], said, answer["usage"]["completion_tokens"]) == (kind, "hello", 5)
    found = lines_of(invoke(server, {**body, "stream": True}, STREAMED))
    pieces = [each["choices"][0] for each in found]
    texts = [piece["delta"].get("content") or "" if "delta" in piece else piece["text"] for piece in pieces]
    assert "".join(texts) == "hello"
    assert pieces[-1]["finish_reason"] == "length"


def test_a_chat_may_call_tools(server: ServerProcess) -> None:
    body = {"messages": [{"role": "user", "content": CALL}], "tools": [TOOL], "max_tokens": len(CALL.encode())}
    [call] = invoke(server, body).json()["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}


def test_a_response_is_told_by_its_keys(server: ServerProcess) -> None:
    body = {"model": "lmi", "input": "hello", "max_output_tokens": 5}
    answer = invoke(server, body).json()
    assert (answer["object"], answer["output"][0]["content"][0]["text"]) == ("response", "hello")
    found = lines_of(invoke(server, {**body, "stream": True}, STREAMED))
    assert [found[0]["type"], found[-1]["type"]] == ["response.created", "response.incomplete"]


def test_events_are_sent_to_whom_accepts_nothing_else(server: ServerProcess) -> None:
    body = {"messages": MESSAGES, "max_tokens": 5, "stream": True}
    answer = invoke(server, body, {**STREAMED, "Accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text.endswith("data: [DONE]\n\n")


def test_bytes_without_a_content_type_are_json(server: ServerProcess) -> None:
    body = {"inputs": "abc", "parameters": {"max_new_tokens": 3}}
    for kind in ("application/octet-stream", ""):
        headers = {**WHOLE, "Content-Type": kind}
        assert invoke(server, body, headers).json()["generated_text"] == "abc"


@pytest.mark.parametrize("body", [{"inputs": "abc"}, {"messages": MESSAGES}, {"prompt": "abc"}])
def test_an_adapter_in_the_platforms_header_is_refused_where_there_are_none(server: ServerProcess, body: Any) -> None:
    answer = invoke(server, body, {**WHOLE, "X-Amzn-SageMaker-Adapter-Identifier": "gone"})
    assert (answer.status_code, answer.json()["error"]) == (400, "request.unsupported")
    assert "gone" in answer.json()["message"]


def test_an_error_says_what_is_wrong_before_the_platform_cuts_it(server: ServerProcess) -> None:
    answer = invoke(server, {"inputs": "abc", "parameters": {"max_new_token": 3}})
    assert (answer.status_code, answer.json()["error"]) == (400, "request.invalid")
    assert answer.content.index(b"max_new_token is not a parameter. Did you mean") < 200


def test_the_inference_id_is_the_requests_id_where_it_has_no_other(server: ServerProcess) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
    assert invoke(server, body).headers["x-request-id"] == "order-17"
    assert invoke(server, body, {**WHOLE, "X-Request-Id": "mine"}).headers["x-request-id"] == "mine"
