# SPDX-License-Identifier: Apache-2.0
"""predict_timeout: a request ends in time with what it has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import ServerProcess, eventually
from tests.wire.conftest import ServeWith, serve_echo


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
