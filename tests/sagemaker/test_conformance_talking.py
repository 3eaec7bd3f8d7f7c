# SPDX-License-Identifier: Apache-2.0
"""What is seen over a connection, by servers that do not behave."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from lmi.client import Target
from lmi.conformance.rules import Broken
from lmi.conformance.talking import Answer, Line
from lmi.workers.mpi.variables import free_port
from tests.limits import limit_s

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@contextlib.contextmanager
def one_answer(behave: Callable[[socket.socket], None]) -> Iterator[Target]:
    """A server that does something with one connection, after the head of its request has come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                behave(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Target(host="127.0.0.1", port=listener.getsockname()[1])
        thread.join(limit_s(10))


def answered(content: bytes) -> Answer:
    """What is heard of a server that sends this and leaves."""
    with one_answer(lambda connection: connection.sendall(content)) as target, Line(target, limit_s(10)) as line:
        return line.ask("GET", "/ping")


def test_an_answer_that_is_cut_is_told_with_what_came_of_it() -> None:
    answer = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    assert (answer.status, answer.body) == (200, b"hello")
    assert "5 bytes before the end of the answer" in answer.failure


def test_a_stream_that_is_cut_is_told() -> None:
    answer = answered(CHUNKED)
    assert (answer.body, bool(answer.failure)) == (b"hello", True)


def test_what_is_no_http_is_told() -> None:
    answer = answered(b"SSH-2.0\r\n\r\n")
    assert answer.status == 0
    assert answer.told().startswith("GET /ping was not answered: SSH-2.0")


def test_silence_is_told_after_the_limit() -> None:
    is_over = threading.Event()
    with one_answer(lambda _: is_over.wait(limit_s(10)) and None) as target, Line(target, 0.2) as line:
        answer = line.ask("GET", "/ping")
        is_over.set()
    assert "nothing came for 0.2 s" in answer.failure


def test_nobody_there_is_told() -> None:
    with Line(Target(host="127.0.0.1", port=free_port()), limit_s(10)) as line:
        answer = line.ask("GET", "/ping")
    assert "refused" in answer.failure.lower()


def test_an_answer_given_before_the_body_was_read_is_heard() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    with one_answer(refuse) as target, Line(target, limit_s(10)) as line:
        answer = line.ask("POST", "/invocations", b" " * (8 << 20))
    assert (answer.status, answer.body) == (413, b"big")


def test_a_line_can_be_left_while_another_thread_waits_for_its_next_part() -> None:
    is_over = threading.Event()

    def stall(connection: socket.socket) -> None:
        connection.sendall(CHUNKED)
        is_over.wait(limit_s(20))

    with one_answer(stall) as target:
        line = Line(target, limit_s(20))
        answer = line.begin("GET", "/ping")
        assert line.part(answer) == b"hello"
        reader = threading.Thread(target=line.rest, args=(answer,), daemon=True)
        reader.start()
        line.close()
        reader.join(limit_s(5))
        is_over.set()
    assert not reader.is_alive()


def test_an_answer_that_should_be_json_says_what_it_was() -> None:
    answer = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
    with pytest.raises(Broken, match=r"GET /ping was answered 200 .*: no, which is not JSON"):
        answer.json()
