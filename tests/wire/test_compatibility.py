# SPDX-License-Identifier: Apache-2.0
"""What options bring back of the way LMI has answered: server-sent events, its statuses, parameters left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import ServerProcess
from tests.wire.conftest import serve_echo

SHORT = {"max_new_tokens": 3}


@pytest.fixture(scope="module")
def events() -> Iterator[ServerProcess]:
    with serve_echo(output_formatter="sse", max_model_len=64) as server:
        yield server


@pytest.fixture(scope="module")
def era() -> Iterator[ServerProcess]:
    with serve_echo(error_status="lmi", unknown_parameters="warn", max_model_len=64) as server:
        yield server


def data_of(text: str) -> list[str]:
    pieces = text.split("\n\n")
    assert pieces.pop() == ""
    assert all(piece.startswith("data: ") for piece in pieces)
    return [piece.removeprefix("data: ") for piece in pieces]


@pytest.mark.parametrize("stream", [{}, {"stream": True}, {"stream": False}])
def test_a_server_of_events_streams_events_to_everybody(events: ServerProcess, stream: dict[str, bool]) -> None:
    response = events.post({"inputs": "abc", "parameters": {**SHORT, "details": True}, **stream})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *first, last = map(json.loads, data_of(response.text))
    assert first == [{"token": {"id": ord(letter), "text": letter, "log_prob": 0.0}} for letter in "ab"]
    assert last["generated_text"] == "abc"
    assert last["details"]["generated_tokens"] == 3


def test_a_stream_of_a_completion_on_lmis_route_is_events_that_end_as_openais(events: ServerProcess) -> None:
    response = events.post({"prompt": "abc", "max_tokens": 2, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *pieces, done = data_of(response.text)
    assert done == "[DONE]"
    assert "".join(json.loads(piece)["choices"][0]["text"] for piece in pieces) == "ab"


def test_a_server_of_events_gives_lines_to_those_who_take_those(events: ServerProcess) -> None:
    response = events.post({"inputs": "abc", "parameters": SHORT}, headers={"accept": "application/jsonlines"})
    assert response.headers["content-type"] == "application/jsonlines"
    assert len(response.text.splitlines()) == 3


def test_a_refusal_of_a_server_of_events_has_its_status(events: ServerProcess) -> None:
    response = events.post({"inputs": ""})
    assert (response.status_code, response.headers["content-type"]) == (400, "application/json")


def test_a_request_for_a_stream_gets_lines_where_the_server_says_json() -> None:
    with serve_echo(output_formatter="json") as server:
        assert len(list(server.stream("abc", **SHORT))) == 3
        assert server.generate("abc", **SHORT) == {"generated_text": "abc"}


# ---------------------------------------------------------------------------------------------------------- statuses


@pytest.mark.parametrize(
    ("body", "path", "status", "code"),
    [
        ({"inputs": ""}, "/invocations", 424, "request.empty-prompt"),
        ({"inputs": 7}, "/invocations", 424, "request.invalid"),
        (
            {"inputs": "abc", "stream": True, "parameters": {"max_new_tokens": 0}},
            "/invocations",
            424,
            "request.invalid",
        ),
        ({"inputs": "y" * 70}, "/predictions/model", 424, "request.too-long"),
        ({"inputs": "abc"}, "/predictions/other", 404, "model.not-found"),
        ({"inputs": ""}, "/v1/embeddings", 400, "request.wrong-task"),
    ],
)
def test_failures_have_lmis_statuses_where_the_option_says_so(
    era: ServerProcess, body: dict[str, Any], path: str, status: int, code: str
) -> None:
    response = era.post(body, path)
    assert response.status_code == status
    answer = response.json()
    if path != "/v1/embeddings":
        assert (answer["code"], answer["error"]) == (status, code)
    else:
        assert answer["error"]["code"] == code


def test_an_error_in_a_list_has_lmis_status_too(era: ServerProcess) -> None:
    assert era.post({"inputs": ["abc", ""], "parameters": SHORT}).json()[1]["code"] == 424


def test_a_full_queue_is_503_as_lmi_has_it() -> None:
    with serve_echo(error_status="lmi", max_rolling_batch_size=1, job_queue_size=1) as server:
        response = server.post({"inputs": ["a", "b"]})
        assert (response.status_code, response.json()["error"]) == (503, "queue.full")
        assert response.headers["retry-after"]


# ----------------------------------------------------------------------------------------------- unknown parameters


def test_parameters_that_nobody_knows_are_left_out_with_a_line_in_the_log_each_once(era: ServerProcess) -> None:
    for _ in range(3):
        assert era.generate("abc", **SHORT, watermark=True, typo=1) == {"generated_text": "abc"}
    said = [line for line in era.lines if "is left out of requests" in line]
    assert sum("the parameter watermark is left out of requests: nobody knows it" in line for line in said) == 1
    assert sum("the parameter typo is" in line for line in said) == 1


def test_parameters_that_the_backend_does_not_offer_are_left_out_too(era: ServerProcess) -> None:
    parameters = {**SHORT, "do_sample": True, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 3}
    assert era.generate("abc", **parameters) == {"generated_text": "abc"}
    assert era.post({"inputs": ["abc"], "parameters": parameters}).json() == [{"generated_text": "abc"}]
    era.wait_for_line("the parameter repetition_penalty is left out of requests: backend 'echo' does not offer it")
    lines = list(era.stream("abc", **parameters))
    assert lines[-1]["generated_text"] == "abc"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": "abc", "parameters": {"top_p": 7, "watermark": True}}, "top_p=7"),
        ({"inputs": "abc", "paramters": {}}, "Did you mean 'parameters'?"),
        ({"inputs": "abc", "parameters": {"grammar": {"type": "regex", "value": "a", "more": 1}}}, "more"),
        ({"inputs": "abc", "parameters": {"best_of": 2}}, "request.same-answers"),
        ({"inputs": "abc", "adapters": "fr"}, "fr"),
    ],
)
def test_what_is_wrong_is_still_refused(era: ServerProcess, body: dict[str, Any], words: str) -> None:
    response = era.post(body)
    assert response.status_code in (424, 503)
    assert words in response.json()["message"]
