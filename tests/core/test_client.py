# SPDX-License-Identifier: Apache-2.0
"""The client of one connection: where it goes, when it goes again, and what it makes of errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

import pytest

from lmi.api import ConfigError
from lmi.client import AnswerTooLongError, Connection, Target, error_of, target_of

HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://localhost:8080", Target(host="localhost", port=8080)),
        ("localhost:8080", Target(host="localhost", port=8080)),
        ("http://example.org/", Target(host="example.org", port=80)),
        ("https://example.org/v2/", Target(host="example.org", port=443, is_tls=True, prefix="/v2")),
        ("http://[::1]:9", Target(host="::1", port=9)),
        ("unix:/run/lmi.sock", Target(socket_path="/run/lmi.sock")),
    ],
)
def test_a_url_names_a_server(url: str, target: Target) -> None:
    assert target_of(url) == target


@pytest.mark.parametrize("authority", ["localhost:8080", "10.0.0.1:80", "[::1]:9"])
def test_a_server_is_called_as_its_url_calls_it(authority: str) -> None:
    assert target_of(f"http://{authority}").authority == authority


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "unix:", "http://host:port", "http://host:99999"])
def test_what_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        target_of(url)
    assert caught.value.code == "client.bad-url"
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"code": 429, "error": "queue.full", "message": "queue.full: 9 wait. Later."}, 429,
         ("queue.full", "9 wait. Later.")),
        ({"error": {"message": "no", "type": "invalid_request_error", "code": "request.invalid"}}, 400,
         ("request.invalid", "no")),
        ({"error": {"message": "no", "type": "server_error", "code": None}}, 500, ("server_error", "no")),
        ({"detail": "Not Found"}, 404, ("http.404", "Not Found")),
        ({"error": "it is too long"}, 422, ("http.422", "it is too long")),
        (b"<html>", 502, ("http.502", "<html>")),
    ],
)  # fmt: skip
def test_errors_of_several_servers_have_a_code_and_a_message(
    body: object, status: int, expected: tuple[str, str]
) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert error_of(sent, status) == expected


Serving = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_server(serving: Serving, asking: Callable[[Connection], Awaitable[None]]) -> None:
    served: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        try:
            await serving(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        connection = Connection(Target(host="127.0.0.1", port=server.sockets[0].getsockname()[1]))
        try:
            await asking(connection)
        finally:
            connection.close()
            server.close()
            await asyncio.gather(*(task for task in served if task is not None))

    asyncio.run(run())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    n_bytes = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return await reader.readexactly(n_bytes)


def test_a_connection_is_kept_and_one_that_the_server_closed_is_made_again() -> None:
    ports: list[int] = []

    async def answer_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await read_request(reader)
            ports.append(writer.get_extra_info("peername")[1])
            writer.write(HELLO)
        writer.close()  # without saying so before, as a server does after its time for idle connections

    async def ask(connection: Connection) -> None:
        for number in range(4):
            answer = await connection.ask("POST", "/", b"body %d" % number)
            assert (answer.status, bytes(answer.body)) == (200, b"hello")

    with_server(answer_twice, ask)
    assert [port == ports[0] for port in ports] == [True, True, False, False]


@pytest.mark.parametrize("sent", [b"", HELLO[:-2], b"no http at all\r\n\r\n"])
def test_an_answer_that_is_cut_is_an_error_and_not_asked_again(sent: bytes) -> None:
    n_requests = 0

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_requests
        await read_request(reader)
        n_requests += 1
        writer.write(sent)
        writer.close()

    async def ask(connection: Connection) -> None:
        with pytest.raises(ConnectionError):
            await connection.ask("POST", "/")

    with_server(cut, ask)
    assert n_requests == 1


def test_an_answer_that_has_no_end_is_left_where_it_is_longer_than_wanted() -> None:
    async def grow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(0)

    async def run() -> None:
        server = await asyncio.start_server(grow, "127.0.0.1", 0)
        async with server:
            target = Target(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
            with pytest.raises(AnswerTooLongError, match="more than 5000 bytes"):
                await Connection(target, most_bytes=5000).ask("POST", "/")

    asyncio.run(run())


def test_an_answer_may_have_others_before_it_that_are_none() -> None:
    async def hint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for part in (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", HELLO):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.05)

    async def ask(connection: Connection) -> None:
        heads: list[int] = []
        answer = await connection.ask("POST", "/", on_head=lambda answer: heads.append(answer.status))
        assert (answer.status, bytes(answer.body), heads) == (200, b"hello", [200])
        assert answer.headers == {"content-length": "5"}

    with_server(hint, ask)


def test_parts_are_handed_on_while_they_come_and_those_of_an_error_are_its_body() -> None:
    heard: list[bytes] = []
    may_go_on = asyncio.Event()

    async def in_parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await may_go_on.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno")

    def hear(part: bytes) -> None:
        heard.append(part)
        may_go_on.set()  # only the first part, heard by itself, lets the server go on

    async def ask(connection: Connection) -> None:
        good = await connection.ask("POST", "/", on_part=hear)
        assert (heard, bytes(good.body)) == ([b"one", b"two"], b"")
        bad = await connection.ask("POST", "/", on_part=hear)
        assert (len(heard), bad.status, bytes(bad.body)) == (2, 400, b"no")

    with_server(in_parts, ask)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def old_style(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        writer.close()

    async def ask(connection: Connection) -> None:
        for _ in range(2):
            answer = await connection.ask("POST", "/")
            assert (answer.status, bytes(answer.body)) == (200, b"all of it")

    with_server(old_style, ask)
