# SPDX-License-Identifier: Apache-2.0
"""More clients than slots: all are answered, the queue is bounded, copies share the work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx

from tests.servers import ServerProcess, eventually, in_threads
from tests.wire.conftest import serve_echo

_ENDLESS = 8000


def repeated(prompt: str, n_tokens: int) -> str:
    return (prompt * n_tokens)[:n_tokens]


@contextlib.contextmanager
def running(server: ServerProcess, prompt: str = "endless ") -> Iterator[None]:
    """A stream that holds a slot for the length of a block and is then abandoned."""
    stream = server.stream(prompt, max_new_tokens=_ENDLESS)
    next(stream)
    try:
        yield
    finally:
        stream.close()


def n_requests(server: ServerProcess) -> int:
    return sum(worker["n_requests"] for worker in server.workers())


def test_forty_clients_on_eight_slots_all_get_their_own_text() -> None:
    with serve_echo(max_rolling_batch_size=8, step_delay_ms=1) as server:

        def plain(index: int) -> str:
            return str(server.generate(f"client {index} ", max_new_tokens=20 + index)["generated_text"])

        def streamed(index: int) -> str:
            lines = list(server.stream(f"client {index} ", max_new_tokens=20 + index))
            assert len(lines) == 20 + index
            assert "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"]
            return str(lines[-1]["generated_text"])

        texts = in_threads([lambda i=i: (streamed if i % 2 else plain)(i) for i in range(40)])
        assert texts == [repeated(f"client {index} ", 20 + index) for index in range(40)]
        assert n_requests(server) == 0


def test_no_more_requests_run_than_there_are_slots() -> None:
    with serve_echo(max_rolling_batch_size=2, step_delay_ms=10) as server:
        seen: list[tuple[int, int]] = []

        def call() -> None:
            eventually(lambda: n_requests(server) >= 2)  # both slots are taken
            server.generate("abc", max_new_tokens=60)

        def watch() -> None:
            with running(server), running(server):
                eventually(lambda: note() == 6 and seen[-1] == (2, 4))
            eventually(lambda: note() == 0)

        def note() -> int:
            [worker] = server.workers()
            seen.append((worker["n_running"], worker["n_waiting"]))
            return int(worker["n_requests"])

        in_threads([watch, *[call] * 4])
        assert max(n_running for n_running, _ in seen) == 2


def test_a_full_queue_refuses_with_429_and_when_to_try_again() -> None:
    with serve_echo(max_rolling_batch_size=1, job_queue_size=2, step_delay_ms=5) as server:

        def overflow(stream: bool) -> httpx.Response:
            return server.post({"inputs": "one too many", "stream": stream})

        def fill_and_overflow() -> list[httpx.Response]:
            with running(server):
                filled.append(eventually(lambda: n_requests(server) == 3))
                return [overflow(stream=False), overflow(stream=True)]

        filled: list[bool] = []
        waiting = [lambda i=i: wait_for_slot(server, i) for i in range(2)]
        refusals, *texts = in_threads([fill_and_overflow, *waiting])
        for response in refusals:
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"] == "queue.full"
            assert "2 requests wait" in response.json()["message"]
            assert "job_queue_size is 2" in response.json()["message"]
        assert texts == ["waited 0 ", "waited 1 "], "those in the queue were not disturbed"
        assert server.generate("room again", max_new_tokens=10) == {"generated_text": "room again"}


def wait_for_slot(server: ServerProcess, index: int) -> str:
    eventually(lambda: n_requests(server) >= 1)  # the endless stream has the slot
    return str(server.generate(f"waited {index} ", max_new_tokens=9)["generated_text"])


def test_copies_share_the_requests() -> None:
    with serve_echo(minWorkers=2, step_delay_ms=10) as server:
        eventually(lambda: [w["state"] for w in server.workers()] == ["ready", "ready"])
        with contextlib.ExitStack() as streams:
            for _ in range(6):
                streams.enter_context(running(server))
            assert [worker["n_requests"] for worker in server.workers()] == [3, 3]


def test_the_copy_with_the_fewest_reserved_tokens_gets_the_next_request() -> None:
    with serve_echo(minWorkers=2, step_delay_ms=10) as server:
        eventually(lambda: [w["state"] for w in server.workers()] == ["ready", "ready"])
        with running(server), contextlib.ExitStack() as streams:
            for _ in range(3):  # three small ones reserve less than the one large one
                stream = server.stream("small", max_new_tokens=1000)
                streams.callback(stream.close)
                next(stream)
            assert sorted(worker["n_requests"] for worker in server.workers()) == [1, 3]
