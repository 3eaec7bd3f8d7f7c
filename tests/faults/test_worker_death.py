# SPDX-License-Identifier: Apache-2.0
"""A worker dies: nothing is lost, and a request that kills fails alone."""

import contextlib
import http.client
import json
import os
import signal
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.faults.conftest import FaultyServer
from tests.servers import ServerProcess, busy, eventually, in_threads, killed_under


def expected(prompt: str, n_tokens: int) -> str:
    return (prompt * n_tokens)[:n_tokens]


def streamed(server: ServerProcess, prompt: str, n_tokens: int) -> str:
    lines = list(server.stream(prompt, max_new_tokens=n_tokens))
    assert len(lines) == n_tokens, "each token has one line, none is sent twice"
    assert "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"]
    return lines[-1]["generated_text"]


def test_streams_survive_a_killed_worker_without_losing_or_repeating_a_token(faulty: ServerProcess) -> None:
    prompts = [f"stream {index} " for index in range(8)]
    texts, pid = killed_under(faulty, [lambda p=p: streamed(faulty, p, 100) for p in prompts], busy(8))
    assert texts == [expected(prompt, 100) for prompt in prompts]
    assert faulty.worker_pids() != [pid]


def test_a_request_that_kills_its_worker_fails_alone_among_good_ones(faulty: ServerProcess) -> None:
    def killer() -> str:
        return faulty.post({"inputs": "segfault at 3", "parameters": {"max_new_tokens": 20}}).text

    good = [f"good {index} " for index in range(8)]
    *texts, failure = in_threads([*(lambda p=p: streamed(faulty, p, 60) for p in good), killer])
    assert texts == [expected(prompt, 60) for prompt in good]
    assert "engine.killed-by-request" in failure
    assert "SIGSEGV" in failure
    assert faulty.generate("after ", max_new_tokens=6)["generated_text"] == "after "


@pytest.mark.long
def test_a_killer_that_takes_its_time_after_each_resume_still_fails_alone(faulty: ServerProcess) -> None:
    def killer() -> str:
        return faulty.post({"inputs": "segfault after 3", "parameters": {"max_new_tokens": 90}}).text

    good = [f"patient {index} " for index in range(4)]
    *texts, failure = in_threads([*(lambda p=p: streamed(faulty, p, 200) for p in good), killer])
    assert texts == [expected(prompt, 200) for prompt in good]
    assert "engine.killed-by-request" in failure


def test_requests_go_on_when_the_client_of_a_suspect_leaves(faulty: ServerProcess) -> None:
    def killed_twice() -> None:
        eventually(lambda: faulty.health()["models"][0]["n_worker_deaths"] >= 2, 60)

    def killer() -> None:
        url = urlsplit(faulty.url)
        with contextlib.closing(http.client.HTTPConnection(url.hostname or "", url.port)) as connection:
            connection.request("POST", "/invocations", json.dumps({"inputs": "segfault"}))
            killed_twice()  # now it waits until it can be tried alone

    def late() -> str:
        killed_twice()
        return faulty.generate("late ", max_new_tokens=5)["generated_text"]

    *texts, late_text, _ = in_threads([*[lambda: streamed(faulty, "long ", 400)] * 2, late, killer])
    assert texts == [expected("long ", 400)] * 2
    assert late_text == "late "


def test_a_chunk_that_cannot_be_sent_fails_its_request_and_no_other(faulty: ServerProcess) -> None:
    def garbage() -> str:
        return faulty.post({"inputs": "garbage", "parameters": {"max_new_tokens": 5}}).text

    *texts, failure = in_threads([*(lambda p=p: streamed(faulty, p, 60) for p in ("a ", "b ", "c ")), garbage])
    assert texts == [expected(prompt, 60) for prompt in ("a ", "b ", "c ")]
    assert "engine.wrong-output" in failure
    assert "complex" in failure


def test_the_reason_of_a_death_and_the_workers_last_lines_are_logged(faulty: ServerProcess) -> None:
    faulty.post({"inputs": "segfault", "parameters": {"max_new_tokens": 5}})
    faulty.wait_for_line(r"worker model/0 .* killed by SIGSEGV")
    faulty.wait_for_line(r"\[model/0\] Fatal Python error: Segmentation fault")


def test_an_engine_that_reports_its_death_is_replaced_and_says_why(faulty: ServerProcess) -> None:
    before = faulty.worker_pids()
    response = faulty.post({"inputs": "die", "parameters": {"max_new_tokens": 5}})
    assert response.status_code == 500
    assert "engine.told-to-die" in response.text
    eventually(lambda: faulty.worker_pids() not in ([], before))


def test_a_request_that_raises_fails_alone_and_the_worker_lives(faulty: ServerProcess) -> None:
    eventually(lambda: any(worker["state"] == "ready" for worker in faulty.workers()))
    pids = faulty.worker_pids()
    response = faulty.post({"inputs": "raise", "parameters": {"max_new_tokens": 5}})
    assert response.status_code == 500
    assert "ValueError: this request was told to raise" in response.json()["message"]
    assert faulty.worker_pids() == pids


def test_requests_of_a_dead_copy_go_on_at_once_on_a_living_one(serve_faulty: FaultyServer) -> None:
    with serve_faulty("-o", "minWorkers=2") as server:
        eventually(lambda: [w["state"] for w in server.workers()] == ["ready", "ready"])
        prompts = [f"copy {index} " for index in range(6)]
        before = set(server.worker_pids())

        def victim(workers: list[dict[str, Any]]) -> int | None:
            return workers[0]["pid"] if [each["n_requests"] for each in workers] == [3, 3] else None

        texts, pid = killed_under(server, [lambda p=p: streamed(server, p, 150) for p in prompts], victim)
        assert texts == [expected(prompt, 150) for prompt in prompts]
        assert before - {pid} <= set(server.worker_pids()), "the living copy was not disturbed"


def test_a_killer_among_two_copies_still_fails_alone(serve_faulty: FaultyServer) -> None:
    with serve_faulty("-o", "minWorkers=2") as server:

        def killer() -> str:
            return server.post({"inputs": "segfault", "parameters": {"max_new_tokens": 20}}).text

        good = [f"good {index} " for index in range(4)]
        *texts, failure = in_threads([*(lambda p=p: streamed(server, p, 100) for p in good), killer])
        assert texts == [expected(prompt, 100) for prompt in good]
        assert "engine.killed-by-request" in failure


def test_a_backend_that_cannot_resume_ends_the_request_with_what_it_has(serve_faulty: FaultyServer) -> None:
    with serve_faulty(FAULTY_RESUME="never") as server:
        [pid] = server.worker_pids()
        lines = []
        for line in server.stream("abc", max_new_tokens=200):
            lines.append(line)
            if len(lines) == 10:
                os.kill(pid, signal.SIGKILL)
        assert lines[-1]["error"] == "engine.died"
        assert "".join(line["token"]["text"] for line in lines[:-1]) == expected("abc", len(lines) - 1)


def test_too_many_deaths_end_the_model_with_the_reason_in_ping_and_answers(serve_faulty: FaultyServer) -> None:
    with serve_faulty("-o", "retry_threshold=1") as server:
        response = server.post({"inputs": "segfault", "parameters": {"max_new_tokens": 5}})
        assert response.status_code == 500
        assert "SIGSEGV" in response.text
        with server.client() as client:
            ping = client.get("/ping")
        assert (ping.status_code, ping.json()) == (500, {"model": {"status": "FAILED"}})
        later = server.post({"inputs": "hello", "parameters": {"max_new_tokens": 5}})
        assert (later.status_code, later.json()["error"]) == (503, "model.failed")


def test_a_hung_engine_is_unhealthy_then_replaced_and_its_neighbours_go_on(serve_faulty: FaultyServer) -> None:
    with serve_faulty("-o", "stall_timeout=1", "-o", "heartbeat_interval=0.1") as server:
        [pid] = server.worker_pids()

        def status() -> int:
            with server.client() as client:
                return client.get("/ping").status_code

        def watch() -> str:
            eventually(lambda: status() == 503)
            eventually(lambda: server.worker_pids() not in ([], [pid]))
            return ""

        def hang() -> str:
            return server.post({"inputs": "hang at 5", "parameters": {"max_new_tokens": 20}}).text

        text, failure, _ = in_threads([lambda: streamed(server, "neighbour ", 50), hang, watch])
        assert text == expected("neighbour ", 50)
        assert "engine.killed-by-request" in failure
        assert "engine.stalled" in failure


def test_a_worker_does_not_outlive_a_killed_server(serve_faulty: FaultyServer) -> None:
    with serve_faulty() as server:
        [pid] = server.worker_pids()
        server.kill()
        eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_processes_that_an_engine_started_do_not_outlive_a_killed_server(serve_faulty: FaultyServer) -> None:
    with serve_faulty("-o", "load=child") as server:
        [pid] = server.worker_pids()
        [child] = eventually(lambda: [each for each in psutil.Process(pid).children() if "sleep" in each.name()])
        server.kill()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
