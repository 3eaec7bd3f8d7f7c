# SPDX-License-Identifier: Apache-2.0
"""Bodies of hundreds of megabytes, as asynchronous endpoints may send: what they take of memory, and how long."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.limits import limit_s
from tests.servers import ServerProcess, eventually, serve
from tests.wire.conftest import serve_echo

MB = 1 << 20
N_MB = 300
ASYNCHRONOUS = {"SAGEMAKER_BIND_TO_PORT": "8080", "SAGEMAKER_MAX_REQUEST_SIZE": str(1 << 30)}

COUNTING = """
from djl_python import Output


def handle(inputs):
    return Output().add(str(len(inputs.get_as_bytes())) if inputs.content.size() else "")
"""


@pytest.fixture(scope="module")
def echo() -> Iterator[ServerProcess]:
    with serve_echo(environ=ASYNCHRONOUS, max_rolling_batch_size=8, max_model_len=512) as server:
        yield server


def post(server: ServerProcess, before: bytes, after: bytes, content_type: str) -> tuple[int, bytes]:
    """The answer to a body with N_MB between two ends, which is never in this process as a whole."""
    url, middle = urlsplit(server.url), b"x" * MB
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=limit_s(60))
    connection.putrequest("POST", "/invocations")
    connection.putheader("content-type", content_type)
    connection.putheader("content-length", str(len(before) + N_MB * MB + len(after)))
    connection.endheaders(before)
    for _ in range(N_MB):
        connection.send(middle)
    connection.send(after)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def measured(process: psutil.Process, call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the megabytes that a process took on at most meanwhile."""
    before = most = process.memory_info().rss
    results: list[Any] = []
    caller = threading.Thread(target=lambda: results.append(call()))
    caller.start()
    while caller.is_alive():
        most = max(most, process.memory_info().rss)
        time.sleep(0.005)
    return results[0], (most - before) / MB


def is_free(process: psutil.Process, before: float) -> bool:
    return (process.memory_info().rss - before) / MB < N_MB / 4


def test_a_body_is_in_memory_twice_at_most_and_is_gone_when_it_was_answered(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(COUNTING)
    with serve(str(tmp_path), environ=ASYNCHRONOUS) as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        answer, most_mb = measured(process, lambda: post(server, b"", b"", "application/octet-stream"))
        assert answer == (200, str(N_MB * MB).encode())
        assert most_mb < 2.3 * N_MB
        eventually(lambda: is_free(process, before))


@pytest.mark.parametrize(
    ("before", "after", "status"), [(b'{"inputs": "', b'"}', 400), (b'{"inputs": ["abc", "', b'"]}', 200)]
)
def test_a_text_that_is_hopelessly_long_is_refused_by_its_beginning(
    echo: ServerProcess, before: bytes, after: bytes, status: int
) -> None:
    process = psutil.Process(echo.process.pid)
    at_first = process.memory_info().rss
    answer, most_mb = measured(process, lambda: post(echo, before, after, "application/json"))
    assert answer[0] == status
    assert b"has 314572800 characters, and the first 65536 of them are 65536 tokens already" in answer[1]
    assert most_mb < 2.3 * N_MB
    eventually(lambda: is_free(process, at_first))


def test_a_body_of_more_than_25_mib_is_refused_on_sagemaker_unless_the_limit_is_raised() -> None:
    with serve_echo(environ={"SAGEMAKER_BIND_TO_PORT": "8080"}) as server:
        answer = server.post(b"x" * (25 * MB + 1))
        assert (answer.status_code, answer.json()["error"]) == (413, "request.too-large")
        assert "max_request_size is 26214400" in answer.json()["message"]
