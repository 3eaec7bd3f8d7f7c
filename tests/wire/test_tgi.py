# SPDX-License-Identifier: Apache-2.0
"""Answers as text-generation-inference gives them, as huggingface_hub's client reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve_echo(tgi_compat="true", max_model_len=64) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> InferenceClient:
    return InferenceClient(model=server.url)


def token(letter: str) -> dict[str, Any]:
    return {"id": ord(letter), "text": letter, "logprob": 0.0, "special": False}


def test_its_client_gets_a_text(client: InferenceClient) -> None:
    assert client.text_generation("abc", max_new_tokens=4) == "abca"
    assert client.text_generation("abc", max_new_tokens=2, return_full_text=True) == "abcab"


def test_its_client_gets_details(client: InferenceClient) -> None:
    answer = client.text_generation("abc", max_new_tokens=9, stop=["ca"], details=True)
    details = answer.details
    assert (answer.generated_text, details.finish_reason, details.generated_tokens) == ("ab", "stop_sequence", 4)
    assert (details.prefill, details.seed, details.tokens[0].logprob) == ([], None, 0.0)


def test_its_client_gets_a_stream(client: InferenceClient) -> None:
    assert list(client.text_generation("abc", max_new_tokens=4, stream=True)) == list("abca")


def test_its_client_gets_a_stream_with_details(client: InferenceClient) -> None:
    first, last = client.text_generation("ab", max_new_tokens=2, stream=True, details=True)
    assert (first.index, first.token.text, first.token.special, first.details) == (1, "a", False, None)
    assert (last.index, last.generated_text, last.details.finish_reason) == (2, "ab", "length")
    assert (last.details.generated_tokens, last.details.input_length) == (2, 2)


def test_its_client_may_say_that_it_wants_no_watermark(client: InferenceClient) -> None:
    assert client.text_generation("abc", max_new_tokens=4, watermark=False) == "abca"
    with pytest.raises(ValidationError, match=r"parameters\.watermark is not a parameter"):
        client.text_generation("abc", watermark=True)


def test_its_client_is_told_what_is_wrong(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match=r"request\.empty-prompt: the prompt has no tokens"):
        client.text_generation("", max_new_tokens=1)
    with pytest.raises(ValidationError, match=r"request\.unsupported: .*'fr'"):
        client.text_generation("abc", adapter_id="fr")


@pytest.mark.parametrize("path", ["/", "/invocations", "/predictions/model"])
def test_an_answer_is_a_list_of_one(server: ServerProcess, path: str) -> None:
    body = {"inputs": "ab", "parameters": {"max_new_tokens": 2, "details": True, "top_n_tokens": 1, "best_of": None}}
    assert server.post(body, path).json() == [
        {
            "generated_text": "ab",
            "details": {
                "finish_reason": "length",
                "generated_tokens": 2,
                "seed": None,
                "prefill": [],
                "tokens": [token("a"), token("b")],
                "top_tokens": [[token("a")], [token("b")]],
            },
        }
    ]


def test_a_list_is_answered_with_a_list(server: ServerProcess) -> None:
    found = server.post({"inputs": ["ab", ""], "parameters": {"max_new_tokens": 2}}, "/").json()
    assert found[0] == {"generated_text": "ab"}
    assert (found[1]["error_type"], found[1]["code"]) == ("validation", 400)


def test_a_stream_is_events(server: ServerProcess) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1, "top_n_tokens": 1}, "stream": True}
    response = server.post(body, "/")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    [event] = response.text.removesuffix("\n\n").split("\n\n")
    assert json.loads(event.removeprefix("data: ")) == {
        "index": 1,
        "token": token("a"),
        "top_tokens": [token("a")],
        "generated_text": "a",
        "details": {"finish_reason": "length", "generated_tokens": 1, "seed": None, "input_length": 1},
    }


def test_its_client_can_chat_on_openais_route(client: InferenceClient) -> None:
    with pytest.raises(Exception, match="no-chat-template"):
        client.chat_completion([{"role": "user", "content": "abc"}])


def test_there_is_no_such_route_without_it(echo: ServerProcess) -> None:
    response = echo.post({"inputs": "abc"}, "/")
    assert (response.status_code, response.json()["error"]) == (404, "request.no-route")


def test_without_it_its_client_gets_a_text_from_lmis_route(echo: ServerProcess) -> None:
    client = InferenceClient(model=f"{echo.url}/invocations")
    assert client.text_generation("abc", max_new_tokens=4) == "abca"
