# SPDX-License-Identifier: Apache-2.0
"""SIGTERM: no new requests, running ones finish, exit code 0."""

from __future__ import annotations

import contextlib
import signal

import httpx
import psutil
import pytest

from tests.faults.conftest import FaultyServer
from tests.servers import ServerProcess, eventually, in_threads
from tests.wire.conftest import serve_echo


def is_refused(server: ServerProcess) -> bool:
    """Whether a new request is refused: by the model while it drains, then by the closed port."""
    try:
        response = server.post({"inputs": "too late", "parameters": {"max_new_tokens": 1}})
    except httpx.TransportError:
        return True
    assert (response.status_code, response.json()["error"]) == (503, "model.draining")
    assert response.headers["retry-after"]
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_running_streams_finish_and_new_requests_are_refused(number: signal.Signals) -> None:
    with serve_echo(step_delay_ms=10) as server:
        pids = server.worker_pids()
        stream = server.stream("abc", max_new_tokens=150)
        lines = [next(stream)]
        server.process.send_signal(number)
        server.wait_for_line("draining")
        eventually(lambda: is_refused(server))
        lines += stream
        assert len(lines) == 150
        assert lines[-1]["generated_text"] == "abc" * 50
        assert server.wait_for_end() == 0
        assert not any(psutil.pid_exists(pid) for pid in pids)


def test_plain_answers_and_those_that_wait_for_a_slot_finish_too() -> None:
    with serve_echo(step_delay_ms=10, max_rolling_batch_size=1) as server:

        def stop() -> None:
            eventually(lambda: server.workers()[0]["n_requests"] == 3)
            server.terminate()

        calls = [lambda i=i: server.generate(f"{i}bc", max_new_tokens=90)["generated_text"] for i in range(3)]
        *texts, _ = in_threads([*calls, stop])
        assert texts == [f"{index}bc" * 30 for index in range(3)]
        assert server.wait_for_end() == 0


def test_a_server_with_nothing_to_do_ends_without_waiting_for_idle_clients() -> None:
    with serve_echo("--drain-timeout", "3600") as server, server.client() as client:
        assert client.get("/ping").status_code == 200  # the connection stays open
        server.terminate()
        assert server.wait_for_end() == 0


def test_the_drain_time_is_bounded_and_a_stream_that_is_cut_off_says_so() -> None:
    with serve_echo("--drain-timeout", "1", step_delay_ms=20) as server:
        stream = server.stream("abc", max_new_tokens=8000)
        next(stream)
        pids = server.worker_pids()
        server.terminate()
        assert list(stream)[-1]["error"] == "model.draining"
        assert server.wait_for_end() == 0
        assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_second_signal_ends_the_server_at_once() -> None:
    with serve_echo("--drain-timeout", "3600", step_delay_ms=20) as server:
        stream = server.stream("abc", max_new_tokens=8000)
        next(stream)
        server.terminate()
        server.wait_for_line("draining")
        server.terminate()
        with contextlib.suppress(httpx.TransportError):  # the connection may be cut before the last line is out
            assert list(stream)[-1]["error"] == "model.draining"
        assert server.wait_for_end() == 0


def test_a_worker_that_dies_while_the_server_drains_loses_no_stream() -> None:
    with serve_echo(step_delay_ms=10) as server:
        [pid] = server.worker_pids()
        stream = server.stream("abc", max_new_tokens=240)
        lines = [next(stream)]
        server.terminate()
        server.wait_for_line("draining")
        psutil.Process(pid).kill()
        lines += stream
        assert (len(lines), lines[-1]["generated_text"]) == (240, "abc" * 80)
        assert server.wait_for_end() == 0


def test_a_server_that_still_loads_ends_at_once(serve_faulty: FaultyServer) -> None:
    with serve_faulty("-o", "load=slow", is_ready=False) as server:
        server.wait_for_line("read weights")
        server.terminate()
        assert server.wait_for_end() == 0
