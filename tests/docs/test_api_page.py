# SPDX-License-Identifier: Apache-2.0
"""docs/api.md: its commands and programs run on the demo model, and it names every parameter."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.serving.openai_bodies import ChatBody, CompletionBody
from lmi.serving.openai_responses_bodies import ResponsesBody
from tests.docs.pages import Page
from tests.servers import ServerProcess, serve

PAGE = Page("api.md")


@pytest.fixture(scope="module")
def server(demo_model: Path) -> Iterator[ServerProcess]:
    pytest.importorskip("torch")
    with serve(str(demo_model), "-o", "rolling_batch=hf") as server:
        yield server


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()]


@pytest.mark.parametrize("command", commands())
def test_a_command_is_answered(server: ServerProcess, command: str) -> None:
    words = shlex.split(command)
    path = words[1].removeprefix("http://localhost:8080")
    answer = server.post(words[words.index("-d") + 1].encode(), path)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_a_program_runs(server: ServerProcess, number: int) -> None:
    code = blocks("python")[number].replace("http://localhost:8080", server.url)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "api.md", "exec", dont_inherit=True), {})
    assert printed.getvalue().strip()


def test_the_items_of_an_answer_are_all_that_the_next_request_needs(server: ServerProcess) -> None:
    more = {"max_output_tokens": 8, "temperature": 0}
    said = {"role": "user", "content": "What is deep learning?"}
    first = server.post({"input": [said], **more}, "/v1/responses").json()
    [message] = first["output"]
    text = message["content"][0]["text"]
    why = {"role": "user", "content": "Why?"}
    second = server.post({"input": [said, message, why], **more}, "/v1/responses").json()
    chat = [said, {"role": "assistant", "content": text}, why]
    same = server.post({"messages": chat, "max_tokens": 8, "temperature": 0}, "/v1/chat/completions").json()
    assert second["output"][0]["content"][0]["text"] == same["choices"][0]["message"]["content"]
    assert second["usage"]["input_tokens"] == same["usage"]["prompt_tokens"]


def test_every_parameter_is_named() -> None:
    names = {*ChatBody.model_fields, *CompletionBody.model_fields, *ResponsesBody.model_fields}
    plain = {
        "temperature", "top_p", "presence_penalty", "frequency_penalty", "stream", "stream_options", "store",
        "modalities", "max_completion_tokens", "parallel_tool_calls",
    }  # fmt: skip
    missing = {name for name in names - plain if f"`{name}`" not in PAGE.text and f'"{name}"' not in PAGE.text}
    assert missing == set()
