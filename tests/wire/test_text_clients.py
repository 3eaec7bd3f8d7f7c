# SPDX-License-Identifier: Apache-2.0
"""Text that is hard on clients, by real ones: characters of many bytes, and those that some take for ends of lines."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest
import requests
from huggingface_hub import InferenceClient

from tests.limits import limit_s
from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo
from tests.wire.test_openai_chat import TEMPLATE

TEXT = "one\u2028two\x85three\u2029four\r\n\u00a0e\u0301\u0323 🇫🇷 👩\u200d👩\u200d👧 \u000b\u000c\u001c\ufeff."
N_TOKENS = len(TEXT.encode())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """It writes again what it was sent, a byte a token."""
    template = tmp_path_factory.mktemp("template") / "chat.jinja"
    template.write_text(TEMPLATE)
    with serve_echo(tgi_compat="true", max_model_len=512, chat_template=template) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=limit_s(30)) as client:
        yield client


@pytest.mark.parametrize("accept", ["application/jsonlines", "text/event-stream"])
def test_a_client_that_reads_lines_finds_all_of_them_whole(server: ServerProcess, accept: str) -> None:
    body = {"inputs": TEXT, "parameters": {"max_new_tokens": N_TOKENS}, "stream": True}
    with (
        server.client() as client,
        client.stream("POST", "/invocations", json=body, headers={"accept": accept}) as response,
    ):
        lines = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    assert len(lines) == N_TOKENS
    assert "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"] == TEXT


def test_requests_reads_the_text_of_events(server: ServerProcess) -> None:
    body = {"inputs": "Grüße 日本 🙂", "parameters": {"max_new_tokens": len("Grüße 日本 🙂".encode())}, "stream": True}
    headers = {"accept": "text/event-stream"}
    with requests.post(f"{server.url}/invocations", json=body, headers=headers, stream=True, timeout=60) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines(decode_unicode=True) if line]
    assert json.loads(lines[-1])["generated_text"] == "Grüße 日本 🙂"


def test_answers_in_lines_are_a_line_each(server: ServerProcess) -> None:
    body = {"inputs": [TEXT, TEXT], "parameters": {"max_new_tokens": N_TOKENS}}
    answer: httpx.Response = server.post(body, headers={"accept": "application/jsonlines"})
    assert [json.loads(line)["generated_text"] for line in answer.text.splitlines()] == [TEXT, TEXT]


def test_huggingfaces_client_gets_the_text_in_a_stream(server: ServerProcess) -> None:
    client = InferenceClient(model=server.url)
    assert "".join(client.text_generation(TEXT, max_new_tokens=N_TOKENS, stream=True)) == TEXT
    assert client.text_generation(TEXT, max_new_tokens=N_TOKENS) == TEXT


def test_openais_client_gets_the_text_of_a_completion(client: openai.OpenAI) -> None:
    pieces = client.completions.create(model="any", prompt=TEXT, max_tokens=N_TOKENS, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == TEXT


def test_openais_client_gets_the_bytes_of_every_token_of_a_chat(client: openai.OpenAI) -> None:
    pieces = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": TEXT}],
        max_tokens=N_TOKENS,
        temperature=0,
        logprobs=True,
        stream=True,
    )
    choices = [piece.choices[0] for piece in pieces]
    assert "".join(choice.delta.content or "" for choice in choices) == TEXT
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or ()]
    assert bytes(byte for entry in entries for byte in entry.bytes or ()) == TEXT.encode()
