# SPDX-License-Identifier: Apache-2.0
"""Answers of a given form by a model that reasons first, on the real vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi.testing import write_tiny
from tests.backends.reasoning_models import END_ID, START_ID, add_marks
from tests.backends.vllm_servers import running
from tests.core.test_guides import NO_BLANKS
from tests.servers import ServerProcess

pytestmark = pytest.mark.long

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "London"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
BIAS = {str(token_id): value for token_id, value in {START_ID: 5.0, END_ID: 5.0, **NO_BLANKS}.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_marks(write_tiny("llama-wide", tmp_path_factory.mktemp("models") / "reasons"))


@pytest.fixture(scope="module")
def server(folder: Path, vllm_python: str) -> Iterator[ServerProcess]:
    with running(folder, vllm_python, "reasoning_parser=think") as running_server:
        yield running_server


def ask(server: ServerProcess, reasoning: bool, **more: Any) -> dict[str, Any]:
    """The message of an answer where the prompt has opened the reasoning or closed it."""
    body = {
        "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 200, "seed": 3, "logit_bias": BIAS,
        "response_format": FORM, "chat_template_kwargs": {"reasoning": reasoning}, **more,
    }  # fmt: skip
    response = server.post(body, "/v1/chat/completions")
    assert response.status_code == 200, response.text
    message: dict[str, Any] = response.json()["choices"][0]["message"]
    return message


def test_reasoning_comes_first_and_content_that_follows_the_schema(server: ServerProcess) -> None:
    found = [ask(server, True, seed=seed) for seed in range(4)]
    assert all(json.loads(each["content"])["city"] in ("Paris", "London") for each in found)
    assert any(each.get("reasoning_content") for each in found)


def test_a_tool_that_must_be_called_is_called_after_the_reasoning(server: ServerProcess) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    message = ask(server, True, tools=[tool], tool_choice="required", response_format=None, max_tokens=300)
    assert json.loads(message["tool_calls"][0]["function"]["arguments"])["city"] in ("Paris", "London")
    assert message["reasoning_content"]


def test_where_the_prompt_has_closed_the_reasoning_the_schema_holds_at_once(server: ServerProcess) -> None:
    message = ask(server, False)
    assert json.loads(message["content"])["city"] in ("Paris", "London")
    assert "reasoning_content" not in message


def test_outside_of_chats_a_constraint_holds_from_the_first_token(server: ServerProcess) -> None:
    text = server.generate("Where?", guided_json=SCHEMA, logit_bias=BIAS, max_new_tokens=200)["generated_text"]
    assert json.loads(text)["city"] in ("Paris", "London")


def test_an_engine_that_knows_no_marks_holds_to_the_schema_from_the_first_token(folder: Path, vllm_python: str) -> None:
    with running(folder, vllm_python) as server:
        message = ask(server, True)
    assert json.loads(message["content"])["city"] in ("Paris", "London")
    assert "reasoning_content" not in message
