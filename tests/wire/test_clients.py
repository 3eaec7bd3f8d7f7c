# SPDX-License-Identifier: Apache-2.0
"""Clients that others wrote, against the backend echo: LangChain's chat model and HuggingFace's inference client."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.limits import limit_s
from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo
from tests.wire.test_openai_chat import CALL, TEMPLATE, TOOL

LANGCHAIN = "langchain-openai is not installed"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(TEMPLATE)
    with serve_echo(max_rolling_batch_size=8, chat_template=path, tool_call_parser="hermes") as server:
        yield server


@pytest.fixture
def langchain(server: ServerProcess) -> Any:
    return langchain_of(server)


def langchain_of(server: ServerProcess, **more: Any) -> Any:
    module = pytest.importorskip("langchain_openai", reason=LANGCHAIN)
    given = {"model": "any", "max_completion_tokens": 5, "timeout": limit_s(30), **more}
    return module.ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", **given)


def test_langchain_gets_a_message_its_counts_and_a_stream(langchain: Any) -> None:
    answer = langchain.invoke("hello")
    assert (answer.content, answer.usage_metadata["output_tokens"]) == ("hello", 5)
    assert answer.response_metadata["finish_reason"] == "length"
    assert "".join(piece.content for piece in langchain.stream("hello")) == "hello"


def test_langchain_gets_the_calls_of_its_tools(langchain: Any) -> None:
    bound = langchain.bind_tools([TOOL]).bind(max_completion_tokens=len(CALL.encode()))
    [call] = bound.invoke(CALL).tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Köln"})


def test_langchain_gets_the_same_of_responses(server: ServerProcess) -> None:
    model = langchain_of(server, use_responses_api=True)
    answer = model.invoke("hello")
    assert (answer.text, answer.usage_metadata["output_tokens"]) == ("hello", 5)
    assert "".join(str(piece.text) for piece in model.stream("hello")) == "hello"
    calling = langchain_of(server, use_responses_api=True, max_completion_tokens=len(CALL.encode()))
    [call] = calling.bind_tools([TOOL]).invoke(CALL).tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Köln"})


def test_huggingfaces_client_chats(server: ServerProcess) -> None:
    module = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    client = module.InferenceClient(base_url=f"{server.url}/v1", timeout=limit_s(30))
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    answer = client.chat_completion(**asked)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hello", "length")
    pieces = list(client.chat_completion(**asked, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "hello"


def test_curl_reads_events(server: ServerProcess) -> None:
    body = '{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "stream": true}'
    done = subprocess.run(
        ["curl", "-sN", f"{server.url}/v1/chat/completions", "-H", "content-type: application/json", "-d", body],
        capture_output=True, text=True, timeout=limit_s(30), check=True,
    )  # fmt: skip
    events = done.stdout.split("\n\n")
    assert events[0].startswith('data: {"id":')
    assert events[-2:] == ["data: [DONE]", ""]
