# SPDX-License-Identifier: Apache-2.0
"""Requests and answers while continuous batching is off: lists, lines of outputs, and requests that wait for others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers import ServerProcess, eventually, in_threads
from tests.wire.conftest import ServeWith, send, serve_echo

OFF = {"rolling_batch": "disable", "engine": "echo"}
SHORT = {"max_new_tokens": 3}
LONG_MS = 600_000
"""A delay that no test waits for: what goes on before it does not go on because of it."""


@pytest.fixture(scope="module")
def single() -> Iterator[ServerProcess]:
    """One request at a time."""
    with serve_echo(**OFF) as server:
        yield server


def asks(server: ServerProcess, *prompts: str, **more: Any) -> list[Callable[[], Any]]:
    def ask(prompt: str) -> Any:
        return server.post({"inputs": prompt, "parameters": {**SHORT, **more}}).json()

    return [lambda prompt=prompt: ask(prompt) for prompt in prompts]


def test_one_prompt_is_answered_with_a_list_of_one(single: ServerProcess) -> None:
    response = single.post({"inputs": "abc", "parameters": SHORT})
    assert response.headers["content-type"] == "application/json"
    assert response.json() == [{"generated_text": "abc"}]


def test_a_list_is_answered_with_a_list_of_completions_alone(single: ServerProcess) -> None:
    answers = single.post({"inputs": ["abc", "de"], "parameters": SHORT}).json()
    assert answers == [{"generated_text": "abc"}, {"generated_text": "ded"}]


def test_the_prompt_is_part_of_the_answer_only_where_it_is_asked_for(single: ServerProcess) -> None:
    body = {"inputs": "abc", "parameters": {**SHORT, "return_full_text": True}}
    assert single.post(body).json() == [{"generated_text": "abcabc"}]


def test_a_request_may_ask_for_a_stream_of_lmis_lines(single: ServerProcess) -> None:
    lines = list(single.stream("abc", **SHORT))
    assert [line["token"]["text"] for line in lines] == list("abc")
    assert lines[-1]["generated_text"] == "abc"


@pytest.mark.parametrize("inputs", ["abc", ["abc"]])
def test_enable_streaming_answers_in_lines_of_outputs(streaming: ServerProcess, inputs: Any) -> None:
    response = streaming.post({"inputs": inputs, "parameters": SHORT})
    assert response.headers["content-type"] == "application/jsonlines"
    assert list(map(json.loads, response.text.splitlines())) == [{"outputs": [letter]} for letter in "abc"]


def test_enable_streaming_answers_one_prompt_at_a_time(streaming: ServerProcess) -> None:
    response = streaming.post({"inputs": ["abc", "de"]})
    assert (response.status_code, response.json()["error"]) == (400, "request.unsupported")


@pytest.fixture(scope="module")
def streaming() -> Iterator[ServerProcess]:
    with serve_echo(**OFF, enable_streaming="true") as server:
        yield server


# ------------------------------------------------------------------------------------------ waiting for each other


@pytest.fixture(scope="module")
def patient(serve_with: ServeWith) -> Iterator[ServerProcess]:
    """Batches of three that never go before they are full; the log tells which requests reach the engine together."""
    with serve_with("grouping", **OFF, batch_size=3, max_batch_delay=LONG_MS, predict_timeout=60) as server:
        yield server


def test_requests_wait_for_each_other_and_go_together_when_the_batch_is_full(patient: ServerProcess) -> None:
    answers = in_threads(asks(patient, "one", "two", "six"))
    assert answers == [[{"generated_text": text}] for text in ("one", "two", "six")]
    patient.wait_for_line(r"together: one six two\.")


def test_requests_of_one_batch_may_have_other_parameters(patient: ServerProcess) -> None:
    calls = [*asks(patient, "abc"), *asks(patient, "def", max_new_tokens=5), *asks(patient, "ghi", stop=["h"])]
    texts = [answer[0]["generated_text"] for answer in in_threads(calls)]
    assert texts == ["abc", "defde", "g"]


def test_a_list_as_large_as_a_batch_does_not_wait(patient: ServerProcess) -> None:
    answers = patient.post({"inputs": ["abc", "de", "fg", "hi"], "parameters": SHORT}).json()
    assert [each["generated_text"] for each in answers] == ["abc", "ded", "fgf", "hih"]
    patient.wait_for_line(r"together: abc de fg hi\.")


def test_a_request_whose_client_leaves_while_it_waits_is_not_part_of_the_batch(serve_with: ServeWith) -> None:
    options = {**OFF, "batch_size": 3, "max_batch_delay": LONG_MS, "job_queue_size": 3}
    with serve_with("grouping", **options) as server:

        def has_room() -> bool:
            """Whether nobody waits: then there is room for three, who are a batch."""
            return server.post({"inputs": ["a", "b", "c"], "parameters": SHORT}).status_code == 200

        connection = send(server, stream=False, inputs="gone")
        eventually(lambda: not has_room())
        connection.close()
        eventually(has_room)
        in_threads(asks(server, "us", "we", "all"))
        server.wait_for_line(r"together: all us we\.")
        assert "gone" not in server.output


def test_what_waits_longer_than_the_delay_goes_without_the_others(serve_with: ServeWith) -> None:
    with serve_with("grouping", **OFF, batch_size=3, max_batch_delay=50) as server:
        assert asks(server, "abc")[0]() == [{"generated_text": "abc"}]
        server.wait_for_line(r"together: abc\.")


def test_a_request_ends_at_its_deadline_while_it_waits_for_others() -> None:
    with serve_echo(**OFF, batch_size=3, max_batch_delay=LONG_MS, predict_timeout=0.2) as server:
        response = server.post({"inputs": "abc", "parameters": SHORT})
        assert (response.status_code, response.json()["error"]) == (504, "request.deadline")


def test_requests_that_wait_for_others_count_as_waiting() -> None:
    with serve_echo(**OFF, batch_size=3, max_batch_delay=LONG_MS, job_queue_size=2) as server:
        waiting = [send(server, stream=False) for _ in range(2)]
        eventually(lambda: server.post({"inputs": ["a", "b", "c"]}).status_code == 429)
        for connection in waiting:
            connection.close()
