# SPDX-License-Identifier: Apache-2.0
"""What clients of a server hear that is still imported, and how little those can do that do not behave."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from lmi.serving.early import answered_early
from tests.limits import limit_s


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def ask(listener: socket.socket, request: bytes) -> bytes:
    with socket.create_connection(listener.getsockname(), timeout=60) as client:
        client.sendall(request)
        parts = []
        while part := client.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (b"GET /ping HTTP/1.1\r\n\r\n", b'{"stage": "start server"}'),
        (b"POST /ping HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}", b'{"stage": "start server"}'),
        (b"POST /invocations HTTP/1.1\r\n\r\n", b"model.loading"),
    ],
)
def test_every_request_is_told_that_the_server_starts(listener: socket.socket, request_: bytes, told: bytes) -> None:
    with answered_early(listener):
        answer = ask(listener, request_)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert told in answer


@pytest.mark.parametrize("beginning", [b"G", b"POST /invocations HTTP/1.1\r\n\r\n"])
def test_a_client_that_sends_a_byte_now_and_then_holds_up_neither_others_nor_the_start(
    listener: socket.socket, beginning: bytes
) -> None:
    ended = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError), socket.create_connection(listener.getsockname()) as client:
            client.sendall(beginning)
            for _ in range(400):
                client.sendall(b"x")
                if ended.wait(0.05):
                    break

    dripping = threading.Thread(target=drip)
    start_s = time.monotonic()
    with answered_early(listener):
        dripping.start()
        time.sleep(0.1)
        assert b" 503 " in ask(listener, b"GET /ping HTTP/1.1\r\n\r\n")
    took_s = time.monotonic() - start_s
    ended.set()
    dripping.join()
    assert took_s < limit_s(2)
