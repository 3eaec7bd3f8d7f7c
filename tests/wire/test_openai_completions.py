# SPDX-License-Identifier: Apache-2.0
"""``/v1/completions`` and ``/v1/models``, by OpenAI's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.limits import limit_s
from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve_echo(max_rolling_batch_size=8, max_model_len=512, max_request_size=2000) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=limit_s(30)) as client:
        yield client


def ask(client: openai.OpenAI, prompt: Any = "abc", **more: Any) -> Any:
    return client.completions.create(model="any", prompt=prompt, **{"temperature": 0, **more})


def test_a_prompt_is_completed(client: openai.OpenAI, server: ServerProcess) -> None:
    answer = ask(client, max_tokens=5)
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason) == (server.generate("abc", max_new_tokens=5)["generated_text"], "length")
    assert (answer.object, answer.model, answer.id[:5]) == ("text_completion", "any", "cmpl-")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 5, 8)


def test_sixteen_tokens_come_where_nothing_says_how_many(client: openai.OpenAI) -> None:
    assert ask(client).usage.completion_tokens == 16


def test_a_stream_has_the_text_of_the_whole_and_its_counts_last(client: openai.OpenAI) -> None:
    whole = ask(client, max_tokens=20, stop="ca")
    pieces = list(ask(client, max_tokens=20, stop=["ca"], stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == whole.choices[0].text
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]][-1] == whole.choices[0].finish_reason == "stop"
    assert (pieces[-1].choices, pieces[-1].usage) == ([], whole.usage)
    assert {piece.id for piece in pieces} == {pieces[0].id}
    assert all(piece.usage is None for piece in pieces[:-1])


def test_several_prompts_each_have_their_answer_under_their_index(client: openai.OpenAI) -> None:
    answer = ask(client, ["abc", "xyz"], max_tokens=3)
    assert [choice.index for choice in answer.choices] == [0, 1]
    alone = [ask(client, each, max_tokens=3).choices[0].text for each in ("abc", "xyz")]
    assert [choice.text for choice in answer.choices] == alone
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 6)


def test_several_streams_in_one_are_told_apart(client: openai.OpenAI) -> None:
    whole = ask(client, ["abc", "xyz"], max_tokens=9)
    texts = ["", ""]
    for piece in ask(client, ["abc", "xyz"], max_tokens=9, stream=True):
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def test_ids_are_a_prompt(client: openai.OpenAI) -> None:
    assert ask(client, list(b"abc"), max_tokens=4).choices[0].text == ask(client, max_tokens=4).choices[0].text
    assert len(ask(client, [list(b"abc"), list(b"x")], max_tokens=4).choices) == 2
    with pytest.raises(openai.BadRequestError, match="the prompt has the id 100000; this model has ids 0 to 255"):
        ask(client, [97, 100000])


def test_the_prompt_is_repeated_where_it_is_asked_for(client: openai.OpenAI) -> None:
    plain = ask(client, max_tokens=4).choices[0].text
    assert ask(client, max_tokens=4, echo=True).choices[0].text == "abc" + plain
    pieces = ask(client, max_tokens=4, echo=True, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "abc" + plain


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"prompt": []}, "prompt has 0 texts; there must be 1 to 128"),
        ({"temperature": 3}, "temperature=3"),
        ({"extra_body": {"max_token": 3}}, "Did you mean 'max_tokens'?"),
        ({"stream_options": {"include_usage": True}}, "stream_options are of a stream"),
        ({"n": 2}, "2 answers were asked for and nothing is drawn"),
        ({"best_of": 3, "stream": True, "temperature": 1}, "best_of=3 was asked of a stream"),
        ({"suffix": "end"}, "suffix"),
    ],
)
def test_what_is_wrong_is_said_as_openai_says_it(client: openai.OpenAI, more: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **more)
    assert said in caught.value.message
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "invalid_request_error"
    assert caught.value.code is not None and caught.value.code.startswith("request.")


def test_a_prompt_that_is_too_long_is_told_as_openais_clients_look_for_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, max_tokens=600)
    assert (caught.value.code, caught.value.type) == ("context_length_exceeded", "invalid_request_error")
    said = "prompt 3 tokens + max_tokens 600 = 603; this model's maximum context length is 512 tokens. "
    assert f"{said}Lower max_tokens to 509." in caught.value.message
    assert "request.too-long" in caught.value.message
    with pytest.raises(openai.BadRequestError, match=r"Shorten the prompt by 8 tokens or lower max_tokens to 212\."):
        ask(client, prompt="x" * 300, max_tokens=220)
    with pytest.raises(openai.BadRequestError, match=r"Shorten the prompt by 208 tokens or lower max_tokens\."):
        ask(client, prompt="x" * 600, max_tokens=120)


def test_a_body_that_is_too_large_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "x" * 3000)
    assert caught.value.status_code == 413


def test_the_asynchronous_client_streams(server: ServerProcess) -> None:
    async def text() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=limit_s(30)) as client:
            stream = await client.completions.create(
                model="any", prompt="abc", max_tokens=6, temperature=0, stream=True
            )
            return "".join([piece.choices[0].text async for piece in stream])

    assert asyncio.run(text()) == server.generate("abc", max_new_tokens=6)["generated_text"]


def test_a_prompt_goes_to_invocations_too(server: ServerProcess) -> None:
    body = {"prompt": "abc", "max_tokens": 5, "temperature": 0}
    answer = server.post(body).json()
    assert answer["choices"][0]["text"] == server.generate("abc", max_new_tokens=5)["generated_text"]
    response = server.post({**body, "stream": True})
    assert response.headers["content-type"] == "application/jsonlines"
    assert len(response.text.splitlines()) >= 1


def test_models_are_listed(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("model", "model", "lmi")
    assert client.models.retrieve("model") == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert (caught.value.code, caught.value.type) == ("model_not_found", "invalid_request_error")


@pytest.mark.parametrize(
    ("method", "status", "code"), [("post", 404, "request.no-route"), ("get", 405, "request.wrong-method")]
)
def test_what_is_no_route_is_told_as_openai_tells_it(
    client: openai.OpenAI, method: Any, status: int, code: str
) -> None:
    path = "/audio/speech" if status == 404 else "/completions"
    with pytest.raises(openai.APIStatusError) as caught:
        getattr(client, method)(path, cast_to=object)
    assert (caught.value.status_code, caught.value.code) == (status, code)
