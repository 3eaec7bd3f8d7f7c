# SPDX-License-Identifier: Apache-2.0
"""A batch transform job as the platform runs it: what it asks first, and bodies of records with a line for each."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.limits import limit_s
from tests.servers import ServerProcess, eventually, serve
from tests.wire.conftest import serve_echo

JOB = {"SAGEMAKER_BATCH": "true"}
MULTI = {**JOB, "SAGEMAKER_BATCH_STRATEGY": "MULTI_RECORD", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "1"}
LINES, CSV, TEXT, JSON = "application/jsonlines", "text/csv", "text/plain", "application/json"


@pytest.fixture(scope="module")
def job() -> Iterator[ServerProcess]:
    """Of a job whose owner puts many records into a body, with a queue shorter than that."""
    with serve_echo(environ=MULTI, max_rolling_batch_size=4, max_model_len=64, job_queue_size=300) as server:
        yield server


def transformed(server: ServerProcess, body: str | bytes, content_type: str) -> list[Any]:
    """What there is for each record."""
    answer = server.post(body.encode() if isinstance(body, str) else body, headers={"content-type": content_type})
    assert (answer.status_code, answer.headers["content-type"]) == (200, LINES), answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def texts(found: list[Any]) -> list[str]:
    return [each.get("generated_text") or each["error"] for each in found]


def parameters(server: ServerProcess) -> Any:
    with server.client() as client:
        answer = client.get("/execution-parameters")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_platform_is_told_what_the_engine_holds_and_what_bodies_may_have() -> None:
    with serve_echo(environ=JOB, max_rolling_batch_size=7) as server:
        told = {"MaxConcurrentTransforms": 7, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6}
        assert parameters(server) == told
    with serve_echo(environ=JOB, max_rolling_batch_size=64, max_request_size=30 << 20) as server:
        told = {"MaxConcurrentTransforms": 3, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 30}
        assert parameters(server) == told  # three times 30 MB are allowed, and not four times


def test_what_the_owner_of_the_job_has_chosen_is_said_again(job: ServerProcess) -> None:
    told = {"MaxConcurrentTransforms": 4, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 1}
    assert parameters(job) == told
    chosen = {"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "9", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}
    with serve_echo(environ={**JOB, **chosen}, max_rolling_batch_size=64) as server:
        told = {"MaxConcurrentTransforms": 9, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 0}
        assert parameters(server) == told


def test_a_server_without_a_model_has_no_parameters() -> None:
    with serve(environ={"SERVING_LOAD_MODELS": "NONE"}, is_ready=False) as server, server.client() as client:
        server.wait_for_line("no model is loaded")
        answer = client.get("/execution-parameters")
        assert (answer.status_code, answer.json()["error"]) == (404, "model.not-found")


def test_each_line_is_a_request_with_one_line_of_the_answer(job: ServerProcess) -> None:
    body = (
        '{"inputs": "ab", "parameters": {"max_new_tokens": 4}}\n\n'
        '{"inputs": 7}\nno JSON\n'
        '{"inputs": "c", "parameters": {"max_new_tokens": 2, "details": true}}\n'
        '{"inputs": "d", "stream": true}'
    )
    found = transformed(job, body, LINES)
    assert texts(found) == ["abab", "request.invalid", "request.malformed-json", "cc", "request.unsupported"]
    assert found[3]["details"]["generated_tokens"] == 2
    assert found[1]["code"] == 400


def test_a_job_is_not_lost_by_records_that_are_all_wrong(job: ServerProcess) -> None:
    assert texts(transformed(job, '{"input": "x"}', LINES)) == ["request.invalid"]


def test_a_body_may_have_more_records_than_the_queue_has_places(job: ServerProcess) -> None:
    lines = [json.dumps({"inputs": f"{index} ", "parameters": {"max_new_tokens": 3}}) for index in range(1000)]
    found = texts(transformed(job, "\n".join(lines), LINES))
    assert len(found) == 1000
    assert found == [(f"{index} " * 3)[:3] for index in range(1000)]


@pytest.mark.parametrize(
    ("body", "content_type", "given"),
    [
        ('ab\n"c, ""d"""\n\ne, f\n', CSV, ["ab", 'c, "d"', "e, f"]),
        ("inputs\r\nab\r\nc\r\n", CSV, ["ab", "c"]),
        ("ab\n\nc\n", TEXT, ["ab", "c"]),
        ('{"inputs": "ab"}\n{"inputs": "c"}\n', JSON, ["ab", "c"]),
    ],
)
def test_rows_and_lines_are_requests_of_their_own(
    job: ServerProcess, body: str, content_type: str, given: list[str]
) -> None:
    assert texts(transformed(job, body, content_type)) == [(each * 30)[:30] for each in given]


def test_a_body_that_is_one_request_is_answered_as_ever(job: ServerProcess) -> None:
    body = b'{\n  "inputs": "ab",\n  "parameters": {"max_new_tokens": 2}\n}'
    answer = job.post(body, headers={"content-type": JSON})
    assert (answer.headers["content-type"], answer.json()) == (JSON, {"generated_text": "ab"})
    assert job.post({"inputs": 7}).status_code == 400


@pytest.mark.parametrize("body", [b"", b"\n \n"])
def test_a_body_without_a_record_is_refused(job: ServerProcess, body: bytes) -> None:
    answer = job.post(body, headers={"content-type": LINES})
    assert answer.status_code == 400, answer.text


def test_a_text_is_one_record_where_bodies_have_one() -> None:
    with serve_echo(environ=JOB) as server:
        answer = server.post(b"ab\nc", headers={"content-type": TEXT})
        assert answer.json()["generated_text"].startswith("ab\ncab\nc")


def test_rows_that_are_no_csv_are_refused_whole(job: ServerProcess) -> None:
    answer = job.post(b'"ab', headers={"content-type": CSV})
    assert (answer.status_code, answer.json()["error"]) == (400, "request.malformed-body")


def test_a_body_that_is_longer_than_the_jobs_is_refused(job: ServerProcess) -> None:
    answer = job.post(b"x" * ((1 << 20) + 1), headers={"content-type": LINES})
    assert (answer.status_code, answer.json()["error"]) == (413, "request.too-large")
    assert "max_request_size is 1048576" in answer.json()["message"]


def test_records_of_other_schemas_are_requests_too(job: ServerProcess) -> None:
    body = '{"messages": [{"role": "user", "content": "x"}]}\n{"prompt": "ab", "max_tokens": 2}\n'
    chat, completion = transformed(job, body, LINES)
    assert chat["error"]
    assert completion["choices"][0]["text"] == "ab"


def begun(server: ServerProcess, n_records: int) -> http.client.HTTPConnection:
    """A connection whose records are on their way, and whose answer nobody has read."""
    url = urlsplit(server.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=limit_s(30))
    record = json.dumps({"inputs": "abc", "parameters": {"max_new_tokens": 400}})
    connection.request("POST", "/invocations", "\n".join([record] * n_records), {"content-type": LINES})
    eventually(lambda: server.workers()[0]["n_running"] > 0)
    return connection


def test_a_body_whose_client_leaves_is_not_worked_on() -> None:
    with serve_echo(environ=MULTI, step_delay_ms=20, max_rolling_batch_size=4) as server:
        begun(server, 600).close()
        eventually(lambda: server.workers()[0]["n_requests"] == 0, 3)
        assert server.generate("abc", max_new_tokens=3) == {"generated_text": "abc"}


def test_a_body_that_cannot_be_finished_is_refused_whole_so_that_the_platform_sends_it_again() -> None:
    drain = ("--drain-timeout", "0.5")
    with serve_echo(*drain, environ=MULTI, step_delay_ms=20, max_rolling_batch_size=4) as server:
        connection = begun(server, 50)
        server.terminate()
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]) == (503, "model.draining")
        assert server.wait_for_end() == 0
