# SPDX-License-Identifier: Apache-2.0
"""OpenAI's client on the demo model: drawn answers, schemas that are kept, tools that must be called."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.limits import limit_s
from tests.servers import ServerProcess, serve

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "London"]}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}


class Place(BaseModel):
    city: Literal["Paris", "London"]
    is_large: bool


@pytest.fixture(scope="module")
def server(demo_model: Path) -> Iterator[ServerProcess]:
    pytest.importorskip("torch")
    with serve(str(demo_model), "-o", "rolling_batch=hf", "-o", "dtype=fp32") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=limit_s(120)) as client:
        yield client


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "any", "messages": QUESTION, "max_tokens": 60, **more})


def test_the_model_answers_and_ends_by_itself(client: openai.OpenAI) -> None:
    [choice] = ask(client, temperature=0).choices
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop"


def test_the_same_seed_draws_the_same_answers_whole_or_streamed(client: openai.OpenAI) -> None:
    drawn: Any = {"n": 3, "seed": 5, "max_tokens": 12}
    texts = [choice.message.content for choice in ask(client, **drawn).choices]
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    for piece in ask(client, **drawn, stream=True):
        for choice in piece.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_each_token_has_its_probability_and_the_likeliest(client: openai.OpenAI) -> None:
    [choice] = ask(client, temperature=0, logprobs=True, top_logprobs=2, max_tokens=5).choices
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries) == choice.message.content
    assert all(entry.top_logprobs[0].token == entry.token and entry.logprob < 0 for entry in entries)
    assert bytes(entries[0].bytes).decode() == entries[0].token
    pieces = ask(client, temperature=0, logprobs=True, top_logprobs=2, max_tokens=5, stream=True)
    streamed = [each for piece in pieces for c in piece.choices if c.logprobs for each in c.logprobs.content]
    assert streamed == entries


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)])
def test_an_answer_follows_the_schema_of_a_class(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.parse(
        model="any", messages=QUESTION, response_format=Place, seed=seed, temperature=1.5, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Place)
    assert answer.choices[0].finish_reason == "stop"


def test_an_answer_is_json_where_nothing_else_is_asked(client: openai.OpenAI) -> None:
    answer = ask(client, response_format={"type": "json_object"}, max_tokens=400, seed=3)
    content, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert content.lstrip().startswith("{")
    if reason == "stop":
        assert isinstance(json.loads(content), dict)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_tool_that_must_be_called_is(client: openai.OpenAI, choice: Any, is_stream: bool) -> None:
    tools = [WEATHER, TIME] if choice != "required" else [WEATHER]
    asked: Any = {"tools": tools, "tool_choice": choice, "seed": 1, "temperature": 1.2, "max_tokens": 300}
    asked["parallel_tool_calls"] = False
    if is_stream:
        calls: dict[int, list[str]] = {}
        for piece in ask(client, **asked, stream=True):
            for call in piece.choices[0].delta.tool_calls or ():
                found = calls.setdefault(call.index, [call.function.name, ""])
                found[1] += call.function.arguments
        [(name, arguments)] = calls.values()
    else:
        [call] = ask(client, **asked).choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
    assert name == "weather"
    given = json.loads(arguments)
    assert given["city"] in ("Paris", "London") and isinstance(given["days"], int) and given["days"] <= 9


def test_a_schema_that_is_none_is_refused_before_the_model_sees_it(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strng"}}}
    with pytest.raises(openai.BadRequestError):
        ask(client, response_format=form)
