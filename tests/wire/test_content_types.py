# SPDX-License-Identifier: Apache-2.0
"""Bodies of every content type that is taken, and the forms of answers that callers may ask for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.servers import ServerProcess

TEXT, CSV, FORM = "text/plain", "text/csv", "application/x-www-form-urlencoded"
ASKED = b'{"inputs": "abc", "parameters": {"max_new_tokens": 3}}'
THIRTY = {text: (text * 30)[:30] for text in ("abc", "de", "\u00e9", "a b")}


def post(server: ServerProcess, body: bytes, content_type: str, **headers: str) -> Any:
    return server.post(body, headers={"content-type": content_type, **headers})


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.acme+json",
        "application/octet-stream",
        "",
        FORM,
    ],
)
def test_json_is_read_whatever_those_who_send_it_call_it(echo: ServerProcess, content_type: str) -> None:
    assert post(echo, ASKED, content_type).json() == {"generated_text": "abc"}


@pytest.mark.parametrize(
    ("body", "content_type", "answer"),
    [
        (b"abc", TEXT, {"generated_text": THIRTY["abc"]}),
        ("\u00e9".encode("latin-1"), "text/plain; charset=latin-1", {"generated_text": "\u00e9" * 15}),
        (b'{"inputs": "abc"}', TEXT, {"generated_text": ('{"inputs": "abc"}' * 2)[:30]}),
        (b"inputs,other\nabc,1\nde,2\n", CSV, [{"generated_text": THIRTY["abc"]}, {"generated_text": THIRTY["de"]}]),
        (b'inputs\r\n"a b"\r\n', CSV, [{"generated_text": THIRTY["a b"]}]),
        (b"inputs=a+b", FORM, {"generated_text": THIRTY["a b"]}),
        (b"inputs=abc&inputs=de", FORM, [{"generated_text": THIRTY["abc"]}, {"generated_text": THIRTY["de"]}]),
        (b"inputs=7&parameters=%7B%22max_new_tokens%22%3A2%7D", FORM, {"generated_text": "77"}),
    ],
)
def test_a_body_that_is_no_json_says_the_same(echo: ServerProcess, body: bytes, content_type: str, answer: Any) -> None:
    assert post(echo, body, content_type).json() == answer


def test_a_form_can_ask_for_a_stream(echo: ServerProcess) -> None:
    response = post(echo, b"inputs=abc&stream=true", FORM)
    assert len(response.text.splitlines()) == 30


@pytest.mark.parametrize(
    ("body", "content_type", "code", "words"),
    [
        (b"x", "image/png", "request.content-type", "'image/png' is not taken. Send one of: application/json, text/pl"),
        (b"x", "multipart/form-data; boundary=x", "request.content-type", "multipart/form-data"),
        (b"", TEXT, "request.empty-prompt", "the body is empty"),
        (b"\xff\xfe", TEXT, "request.malformed-body", "no text in 'utf-8'"),
        (b"abc", "text/plain; charset=klingon", "request.malformed-body", "'klingon'"),
        (b"prompt\nabc\n", CSV, "request.malformed-body", "its first line is 'prompt'"),
        (b"inputs\n", CSV, "request.malformed-body", "no rows"),
        (b'inputs\n"abc', CSV, "request.malformed-body", "is not CSV"),
        (b"question,context\na,b\n", CSV, "request.invalid", "inputs.0={'question': 'a', 'context': 'b'}"),
        (b"abc", FORM, "request.invalid", "inputs is missing"),
        (b"inputs=a&paramters=b", FORM, "request.invalid", "Did you mean 'parameters'?"),
        (b"&".join([b"a=b"] * 1001), FORM, "request.malformed-body", "is no form"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_what_is_wrong(
    echo: ServerProcess, body: bytes, content_type: str, code: str, words: str
) -> None:
    response = post(echo, body, content_type)
    assert (response.status_code, response.json()["error"]) == (400, code)
    assert words in response.json()["message"]


# ------------------------------------------------------------------------------------------------- forms of answers


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "application/jsonlines"),
        ("application/json", "application/jsonlines"),
        ("application/jsonlines", "application/jsonlines"),
        ("text/event-stream", "text/event-stream; charset=utf-8"),
        ("text/event-stream; charset=utf-8, */*;q=0.1", "text/event-stream; charset=utf-8"),
        ("text/event-stream, application/jsonlines", "application/jsonlines"),
    ],
)
def test_a_stream_has_the_form_that_its_caller_takes(echo: ServerProcess, accept: str, form: str) -> None:
    body = {"inputs": "abc", "parameters": {"max_new_tokens": 3}, "stream": True}
    response = echo.post(body, headers={"accept": accept})
    assert response.headers["content-type"] == form
    pieces = response.text.split("\n\n" if form.startswith("text/event-stream") else "\n")[:-1]
    assert [json.loads(piece.removeprefix("data: "))["token"]["text"] for piece in pieces] == list("abc")


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "application/json"),
        ("application/json, text/plain", "application/json"),
        ("text/html", "application/json"),
        ("application/jsonlines", "application/jsonlines"),
        ("application/jsonlines, application/json", "application/json"),
    ],
)
def test_a_whole_answer_has_the_form_that_its_caller_takes(echo: ServerProcess, accept: str, form: str) -> None:
    response = echo.post(ASKED, headers={"accept": accept})
    assert response.headers["content-type"] == form
    assert response.text == '{"generated_text":"abc"}' + "\n" * (form != "application/json")


def test_lines_that_are_all_empty_are_told(echo: ServerProcess) -> None:
    answer = post(echo, b"\n \n", "application/jsonlines")
    assert (answer.status_code, answer.json()["error"]) == (400, "request.empty-prompt")
    assert "all lines of the body are empty" in answer.json()["message"]
