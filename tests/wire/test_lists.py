# SPDX-License-Identifier: Apache-2.0
"""Several requests in one body: each a request of its own, answered in its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ServerProcess, busy, eventually, killed_under, serve
from tests.wire.conftest import ServeWith, send, serve_echo

SHORT = {"max_new_tokens": 3}
LINES = {"content-type": "application/jsonlines"}


@pytest.fixture(scope="module")
def grouped(serve_with: ServeWith) -> Iterator[ServerProcess]:
    """Eight sequences at a time; its log tells which requests arrive together."""
    with serve_with("grouping,guard", max_rolling_batch_size=8, max_model_len=64) as server:
        yield server


def texts(answers: list[dict[str, Any]]) -> list[Any]:
    return [each.get("generated_text", each.get("error")) for each in answers]


def test_a_list_is_answered_with_a_list_in_its_order(echo: ServerProcess) -> None:
    prompts = [chr(97 + index % 26) * (1 + index % 7) + "-" for index in range(100)]
    response = echo.post({"inputs": prompts, "parameters": {"max_new_tokens": 8}})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert texts(response.json()) == [(prompt * 8)[:8] for prompt in prompts]


def test_a_list_of_one_is_answered_with_a_list_of_one(echo: ServerProcess) -> None:
    assert echo.post({"inputs": ["abc"], "parameters": SHORT}).json() == [{"generated_text": "abc"}]


def test_the_requests_of_a_list_reach_the_engine_together(grouped: ServerProcess) -> None:
    grouped.post({"inputs": ["one", "two", "six"], "parameters": SHORT})
    grouped.wait_for_line(r"together: one six two\.")


def test_parameters_hold_for_each_of_a_list(echo: ServerProcess) -> None:
    parameters = {"max_new_tokens": 5, "details": True, "return_full_text": True, "stop_sequences": ["c"]}
    answers = echo.post({"inputs": ["abc", "xy"], "parameters": parameters}).json()
    assert answers == [echo.generate(prompt, **parameters) for prompt in ("abc", "xy")]
    assert [each["details"]["finish_reason"] for each in answers] == ["stop_sequence", "length"]


def test_one_that_is_wrong_has_its_error_in_its_place_and_the_others_are_answered(grouped: ServerProcess) -> None:
    response = grouped.post({"inputs": ["abc", "", "a bomb", "y" * 70, "de"], "parameters": SHORT})
    assert response.status_code == 200
    answers = response.json()
    assert texts(answers) == ["abc", "request.empty-prompt", "guard.refused", "request.too-long", "ded"]
    assert answers[1] == grouped.post({"inputs": "", "parameters": SHORT}).json()
    assert answers[3]["code"] == 400
    assert "prompt 70 tokens" in answers[3]["message"]


def test_one_that_an_extension_breaks_on_fails_alone(grouped: ServerProcess) -> None:
    answers = grouped.post({"inputs": ["break", "abc"], "parameters": SHORT}).json()
    assert texts(answers) == ["server.error", "abc"]
    assert "KeyError: 'the guard is broken'" in answers[0]["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"inputs": ["", "y" * 70]}, "request.empty-prompt"),
        ({"inputs": ["y" * 70, ""]}, "request.too-long"),
        ({"inputs": ["a", "b"], "parameters": {"temperature": 0.5}}, "request.unsupported"),
        ({"inputs": ["a", "b"], "adapters": ["x", "y"]}, "request.unsupported"),
    ],
)
def test_where_all_are_wrong_the_status_is_that_of_the_first(
    grouped: ServerProcess, body: dict[str, Any], code: str
) -> None:
    response = grouped.post(body)
    assert (response.status_code, response.json()["error"]) == (400, code)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"inputs": []}, "request.invalid", "inputs=[]"),
        ({"inputs": ["a", 7]}, "request.invalid", "inputs.1=7"),
        ({"inputs": ["a"] * 129}, "request.too-many-inputs", "has 129 inputs, the limit max_client_batch_size is 128"),
        ({"inputs": ["a", "b"], "adapters": ["fr"]}, "request.invalid", "adapters has 1 names for 2 inputs"),
        ({"inputs": ["a", "b"], "adapters": "fr"}, "request.invalid", "adapters has 1 names for 2 inputs"),
        ({"inputs": ["a", "b"], "stream": True}, "request.unsupported", "a list of 2 inputs was asked of a stream"),
        ({"inputs": ["a", "b"], "parameters": {"n": 2}}, "request.unsupported", "n=2 was asked beside a list"),
        ({"inputs": ["a"], "parameters": {"best_of": 2}}, "request.unsupported", "best_of=2 was asked beside a list"),
        ({"inputs": ["a"], "parameters": {"num_beams": 3}}, "request.unsupported", "num_beams=3 was asked beside"),
        ({"inputs": ["a"], "parameters": {"tempersture": 3}}, "request.invalid", "Did you mean 'temperature'?"),
    ],
)
def test_what_a_list_cannot_have_is_refused_by_its_name(
    echo: ServerProcess, body: dict[str, Any], code: str, words: str
) -> None:
    response = echo.post(body)
    assert (response.status_code, response.json()["error"]) == (400, code)
    assert words in response.json()["message"]


def test_a_list_of_one_is_streamed_like_its_text(echo: ServerProcess) -> None:
    response = echo.post({"inputs": ["abc"], "parameters": SHORT, "stream": True})
    assert list(map(json.loads, response.text.splitlines())) == list(echo.stream("abc", **SHORT))


def test_a_list_that_finds_no_room_is_refused_whole() -> None:
    with serve_echo(max_rolling_batch_size=1, job_queue_size=2, max_client_batch_size=4) as server:
        response = server.post({"inputs": ["a", "b", "c"], "parameters": SHORT})
        assert (response.status_code, response.json()["error"]) == (429, "queue.full")
        assert texts(server.post({"inputs": ["a", "b"], "parameters": SHORT}).json()) == ["aaa", "bbb"]
        assert server.post({"inputs": ["a"] * 5}).json()["error"] == "request.too-many-inputs"


def test_each_of_a_list_counts_as_a_request() -> None:
    with serve_echo() as server:
        server.post({"inputs": ["abc", "", "de"], "parameters": SHORT})
        with server.client() as client:
            metrics = client.get("/metrics").text
    assert 'lmi_requests_total{model="model",outcome="ok"} 2.0' in metrics
    assert 'lmi_output_tokens_total{model="model"} 6.0' in metrics


def test_all_of_a_list_end_when_the_client_leaves() -> None:
    with serve_echo(step_delay_ms=5) as server:
        connection = send(server, stream=False, inputs=["abc", "def"])
        eventually(lambda: server.workers()[0]["n_requests"] == 2)
        connection.close()
        eventually(lambda: server.workers()[0]["n_requests"] == 0)
        assert server.generate("abc", **SHORT) == {"generated_text": "abc"}


def test_a_list_outlives_the_worker_that_runs_it() -> None:
    with serve_echo(step_delay_ms=10) as server:
        body = {"inputs": ["abc", "de", "f"], "parameters": {"max_new_tokens": 300}}
        [answered], _ = killed_under(server, [lambda: server.post(body).json()], busy(3))
    assert texts(answered) == ["abc" * 100, "de" * 150, "f" * 300]


@pytest.mark.parametrize("file", ["formats_answers.py", "formats_tokens.py"])
def test_a_formatter_changes_each_answer_of_a_list_or_the_list_is_refused(tmp_path: Path, file: str) -> None:
    shutil.copy(Path(__file__).parent / "model_files" / file, tmp_path / "model.py")
    with serve(str(tmp_path), "-o", "rolling_batch=echo") as server:
        response = server.post({"inputs": ["ab", "", "c"], "parameters": {"max_new_tokens": 2}})
    if file == "formats_tokens.py":
        assert (response.status_code, response.json()["error"]) == (400, "request.unsupported")
        assert "writes one sequence" in response.json()["message"]
        return
    first, wrong, last = response.json()
    assert (first, last) == ({"generated_text": "ab", "seen": True}, {"generated_text": "cc", "seen": True})
    assert wrong["error"] == "request.empty-prompt"


# -------------------------------------------------------------------------------------------------- a request a line


def lines(*requests: Any) -> bytes:
    return b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in requests)


def test_a_request_a_line_is_answered_with_an_answer_a_line(echo: ServerProcess) -> None:
    body = lines({"inputs": "abc", "parameters": SHORT}, b"", {"inputs": "de", "parameters": {"max_new_tokens": 5}})
    response = echo.post(body, headers=LINES)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/jsonlines")
    assert texts(list(map(json.loads, response.text.splitlines()))) == ["abc", "deded"]


def test_a_line_that_is_wrong_has_its_error_in_its_place(echo: ServerProcess) -> None:
    requests = [
        {"inputs": "abc", "parameters": SHORT},
        b'{"inputs": ',
        {"inputs": ["a", "b"]},
        {"inputs": "a", "stream": True},
        {"inputs": "a", "parameters": {"n": 2}},
        {"messages": []},
        b"7",
    ]
    answers = list(map(json.loads, echo.post(lines(*requests), headers=LINES).text.splitlines()))
    refused = ["request.malformed-json", "request.invalid", "request.unsupported", "request.unsupported"]
    assert texts(answers) == ["abc", *refused, "request.invalid", "request.invalid"]


def test_lines_that_are_all_wrong_have_the_status_of_the_first(echo: ServerProcess) -> None:
    response = echo.post(lines(b"{", {"inputs": ""}), headers=LINES)
    assert (response.status_code, response.json()["error"]) == (400, "request.malformed-json")


def test_a_list_is_answered_in_lines_where_the_caller_takes_those(echo: ServerProcess) -> None:
    response = echo.post({"inputs": ["abc", "de"], "parameters": SHORT}, headers={"accept": "application/jsonlines"})
    assert response.headers["content-type"] == "application/jsonlines"
    assert response.text == '{"generated_text":"abc"}\n{"generated_text":"ded"}\n'
