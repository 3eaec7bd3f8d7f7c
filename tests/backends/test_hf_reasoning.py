# SPDX-License-Identifier: Apache-2.0
"""Answers of a given form by a model that reasons first, asked for by OpenAI's client: a tiny random one on ``hf``."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.backends.reasoning_models import END_ID, START_ID, add_marks
from tests.core.test_guides import NO_BLANKS
from tests.limits import limit_s
from tests.servers import ServerProcess, serve
from tests.tiny import write_tiny_llama

QUESTION: Any = [{"role": "user", "content": "Where?"}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "London"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
LIKES_MARKS = {START_ID: 5.0, END_ID: 5.0, **NO_BLANKS}
"""With it every other token of a random model is a mark: reasoning is opened where it can be, and closed soon."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    pytest.importorskip("torch")
    folder = add_marks(write_tiny_llama(tmp_path_factory.mktemp("models") / "reasons"))
    with serve(str(folder), "-o", "rolling_batch=hf", "-o", "dtype=fp32", "-o", "retry_threshold=100") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=limit_s(60)) as client:
        yield client


def ask(client: openai.OpenAI, reasoning: bool | None = None, **more: Any) -> Any:
    """An answer in the mode in which the prompt leaves reasoning open, opens it (True) or closes it (False)."""
    kwargs = {} if reasoning is None else {"reasoning": reasoning}
    given = {"messages": QUESTION, "max_tokens": 300, "seed": 3, "logit_bias": LIKES_MARKS, **more}
    body = {"chat_template_kwargs": kwargs, **given.pop("extra_body", {})}
    return client.chat.completions.create(model="any", extra_body=body, **given)


def reasoning_of(part: Any) -> str:
    return getattr(part, "reasoning_content", None) or ""


def is_place(text: str) -> bool:
    found = json.loads(text)
    return set(found) == {"city", "n"} and found["city"] in ("Paris", "London") and 0 <= found["n"] <= 9


@pytest.mark.parametrize("reasoning", [None, True], ids=["open", "opened"])
def test_reasoning_comes_first_and_the_content_follows_the_schema(
    client: openai.OpenAI, reasoning: bool | None
) -> None:
    found = [ask(client, reasoning, response_format=FORM, seed=seed).choices[0] for seed in range(4)]
    assert all(is_place(choice.message.content) for choice in found)
    assert {choice.finish_reason for choice in found} == {"stop"}
    assert len({reasoning_of(choice.message) for choice in found} - {""}) > 1
    assert not any(is_json(reasoning_of(choice.message)) for choice in found)


def test_a_stream_tells_reasoning_from_the_content_that_follows_the_schema(client: openai.OpenAI) -> None:
    whole = ask(client, response_format=FORM).choices[0].message
    deltas = [piece.choices[0].delta for piece in ask(client, response_format=FORM, stream=True)]
    assert "".join(map(reasoning_of, deltas)) == reasoning_of(whole) != ""
    assert "".join(delta.content or "" for delta in deltas) == whole.content
    assert is_place(whole.content)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_that_must_be_called_is_called_after_the_reasoning(client: openai.OpenAI, choice: Any) -> None:
    answer = ask(client, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    message = answer.choices[0].message
    [call] = message.tool_calls
    assert call.function.name == "weather"
    assert is_place(call.function.arguments)
    assert reasoning_of(message)
    assert not message.content


def test_guided_parameters_hold_behind_the_reasoning_too(client: openai.OpenAI) -> None:
    message = ask(client, extra_body={"guided_regex": "[ab]{3}"}).choices[0].message
    assert len(message.content) == 3
    assert set(message.content) <= {"a", "b"}
    assert reasoning_of(message)


def test_where_the_prompt_has_closed_the_reasoning_the_schema_holds_at_once(client: openai.OpenAI) -> None:
    choice = ask(client, False, response_format=FORM).choices[0]
    assert is_place(choice.message.content)
    assert not reasoning_of(choice.message)


def test_an_answer_that_goes_on_with_a_message_does_not_reason_anew(client: openai.OpenAI) -> None:
    body = {"continue_final_message": True, "add_generation_prompt": False}
    messages = [*QUESTION, {"role": "assistant", "content": "In"}]
    choice = ask(client, messages=messages, response_format=FORM, extra_body=body).choices[0]
    assert is_place(choice.message.content)
    assert not reasoning_of(choice.message)


def test_outside_of_chats_a_constraint_holds_from_the_first_token(server: ServerProcess) -> None:
    bias = {str(token_id): value for token_id, value in LIKES_MARKS.items()}
    text = server.generate("Where?", guided_json=SCHEMA, logit_bias=bias, max_new_tokens=200)["generated_text"]
    assert is_place(text)


# The unbiased model never closes its reasoning.
@pytest.mark.long
@pytest.mark.parametrize("likes", [NO_BLANKS, LIKES_MARKS], ids=["in", "behind"])
def test_a_worker_that_dies_in_the_reasoning_or_behind_it_changes_no_token(
    server: ServerProcess, client: openai.OpenAI, likes: dict[int, float]
) -> None:
    asked: Any = {"response_format": FORM, "reasoning": True, "logit_bias": likes}
    expected = ask(client, **asked).choices[0].message
    [pid] = server.worker_pids()
    texts, is_killed = ["", ""], False
    for piece in ask(client, **asked, stream=True):
        delta = piece.choices[0].delta
        texts = [texts[0] + reasoning_of(delta), texts[1] + (delta.content or "")]
        if not is_killed and (texts[1] or len(texts[0]) > 20):
            os.kill(pid, signal.SIGKILL)
            is_killed = True
    assert texts == [reasoning_of(expected), expected.content]
    assert server.worker_pids() != [pid]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
