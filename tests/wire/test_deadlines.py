# SPDX-License-Identifier: Apache-2.0
"""A request ends in time with what it has, whoever says how long that is, and is refused where it would wait longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import ServerProcess, eventually
from tests.wire.conftest import ServeWith, send, serve_echo


@pytest.fixture(scope="module")
def brief() -> Iterator[ServerProcess]:
    with serve_echo(predict_timeout=1, step_delay_ms=10, max_rolling_batch_size=4) as server:
        yield server


def test_a_plain_answer_has_what_was_made_in_time(brief: ServerProcess) -> None:
    answer = brief.generate("abc", max_new_tokens=5000, details=True)
    details = answer["details"]
    assert details["finish_reason"] == "deadline"
    assert 0 < details["generated_tokens"] < 5000
    assert answer["generated_text"] == ("abc" * 5000)[: details["generated_tokens"]]
    assert len(details["tokens"]) == details["generated_tokens"]


def test_a_stream_ends_with_what_was_made_in_time(brief: ServerProcess) -> None:
    *lines, last = brief.stream("abc", max_new_tokens=5000, details=True)
    assert last["details"]["finish_reason"] == "deadline"
    texts = [line["token"]["text"] for line in (*lines, last) if "token" in line]
    assert len(texts) == last["details"]["generated_tokens"]
    assert "".join(texts) == last["generated_text"] == ("abc" * 5000)[: len(texts)]


def test_what_is_ready_in_time_is_not_touched(brief: ServerProcess) -> None:
    answer = brief.generate("abc", max_new_tokens=3, details=True)
    assert (answer["generated_text"], answer["details"]["finish_reason"]) == ("abc", "length")


def test_a_request_that_ran_out_of_time_frees_its_slot(brief: ServerProcess) -> None:
    brief.generate("abc", max_new_tokens=5000)
    eventually(lambda: brief.workers()[0]["n_running"] == 0)
    assert "was never awaited" not in brief.output


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_without_a_token_in_time_the_answer_is_504(stream: bool) -> None:
    with serve_echo(predict_timeout=0.2, step_delay_ms=30_000) as server:
        response = server.post({"inputs": "abc", "stream": stream})
    assert (response.status_code, response.json()["error"]) == (504, "request.deadline")
    assert "0.2" in response.json()["message"], "the limit is named"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_text_a_filter_held_back_comes_at_the_deadline(serve_with: ServeWith, stream: bool) -> None:
    with serve_with("redactor", predict_timeout=1, step_delay_ms=10) as server:
        if stream:
            answer = list(server.stream("secre", max_new_tokens=5000, details=True))[-1]
        else:
            answer = server.generate("secre", max_new_tokens=5000, details=True)
        n_tokens = answer["details"]["generated_tokens"]
        assert answer["generated_text"] == ("secre" * 1000)[:n_tokens]


ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


@pytest.fixture(scope="module")
def steady() -> Iterator[ServerProcess]:
    """One request at a time, 30 ms a token, and nobody but the caller says how long it may take."""
    with serve_echo(step_delay_ms=30, max_rolling_batch_size=1) as server:
        yield server


@pytest.mark.parametrize("path", ["/invocations", "/v1/completions"])
def test_the_caller_says_how_long_it_waits(steady: ServerProcess, path: str) -> None:
    body = {"inputs": "abc", "parameters": {"max_new_tokens": 2000, "details": True}}
    if path != "/invocations":
        body = {"prompt": "abc", "max_tokens": 2000}
    answer = steady.post(body, path, headers={ATTRIBUTES: "deadline_s=0.5"}).json()
    if path == "/invocations":
        assert answer["details"]["finish_reason"] == "deadline"
        assert 0 < answer["details"]["generated_tokens"] < 2000
    else:
        assert 0 < answer["usage"]["completion_tokens"] < 2000


def test_a_number_of_the_caller_that_is_none_is_refused(steady: ServerProcess) -> None:
    answer = steady.post({"inputs": "abc"}, headers={ATTRIBUTES: "deadline_s=soon"})
    assert (answer.status_code, answer.json()["error"]) == (400, "request.invalid")


def test_a_request_that_would_not_begin_in_its_time_is_refused_at_once(steady: ServerProcess) -> None:
    for _ in range(8):  # so the server learns how fast requests end
        steady.generate("a", max_new_tokens=4)
    waiting = [send(steady, stream=False, max_new_tokens=60, inputs="a") for _ in range(12)]
    eventually(lambda: sum(each["n_requests"] for each in steady.workers()) >= 9)
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
    answer = steady.post(body, headers={ATTRIBUTES: "deadline_s=0.2"})
    assert (answer.status_code, answer.json()["error"]) == (429, "queue.too-long"), answer.text
    assert "Retry-After" in answer.headers
    for connection in waiting:
        connection.close()
    eventually(lambda: sum(each["n_requests"] for each in steady.workers()) == 0)
    assert steady.post(body, headers={ATTRIBUTES: "deadline_s=20"}).status_code == 200
