# SPDX-License-Identifier: Apache-2.0
"""A proxy between a program and an HTTP server that does what networks and servers do at their worst.

What it does to a request is decided by rules, asked in order; the first that has something to do does it, as often as
it was told to.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote


@dataclass
class Fault:
    """What happens to the requests that it is for.

    Args:
        path: pattern that the path and query contain.
        method: of the requests.
        times: to how many of them; None for all.
        status: answer this at once, with ``code`` as S3 would.
        code: what S3 calls the error.
        headers: of such an answer.
        cut_after_bytes: of the body, then the connection ends.
        silence_s: before the answer.
        gate: the answer waits until it is set.
        pause_s: between pieces of the body, of ``piece_bytes`` each.
        flip: offset in the body of a byte that arrives as another one; every time as yet another one.
        when: asked with the request's head in lower case; it happens only where that is true.
    """

    path: str = ""
    method: str = "GET"
    times: int | None = None
    status: int = 0
    code: str = "InternalError"
    headers: dict[str, str] = field(default_factory=dict)
    cut_after_bytes: int | None = None
    silence_s: float = 0
    gate: threading.Event | None = None
    pause_s: float = 0
    piece_bytes: int = 1 << 16
    flip: int | None = None
    when: str = ""
    n_done: int = 0

    def is_for(self, head: str) -> bool:
        method, target, _ = head.split(" ", 2)
        is_left = self.times is None or self.n_done < self.times
        is_meant = method == self.method and re.search(self.path, unquote(target)) is not None
        return is_left and is_meant and re.search(self.when, head.lower()) is not None


class Proxy:
    """Stands before one server.

    Args:
        endpoint: URL of the server.
    Attributes:
        endpoint: URL of the proxy.
        faults: rules, asked in order.
        other_etags: ETag of the server -> the one that is told instead.
        requests: method, path and range of each request, as ``GET /bucket/m/a 0-9``.
        heads: of the same requests, whole.
        n_body_bytes: of answers to GET, which arrived.
    """

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("http://").rstrip("/").split(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.faults: list[Fault] = []
        self.other_etags: dict[str, str] = {}
        self.requests: list[str] = []
        self.heads: list[str] = []
        self.n_body_bytes = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # shutdown wakes the thread that waits in accept, which close alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def clear(self) -> None:
        """Forget faults and what was seen."""
        with self._lock:
            self.faults, self.requests, self.heads, self.other_etags, self.n_body_bytes = [], [], [], {}, 0

    def bytes_of(self, name: str) -> list[str]:
        """Ranges of the GET requests for a name, in order."""
        return [each.rsplit(" ", 1)[1] for each in list(self.requests) if re.fullmatch(rf"GET \S*/{name} \S*", each)]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), client.makefile("rb") as stream:
            while head := _head(stream):
                if not self._answer(client, head):
                    return

    def _answer(self, client: socket.socket, head: str) -> bool:
        """Answer one request; false where the connection is to end."""
        method, target, _ = head.split(" ", 2)
        asked = re.search(r"^range: bytes=(\S+)", head.lower(), re.MULTILINE)
        with self._lock:
            self.requests.append(f"{method} {unquote(target).partition('?')[0]} {asked[1] if asked else '-'}")
            self.heads.append(head)
            fault = next((each for each in self.faults if each.is_for(head)), Fault())
            fault.n_done += 1
        time.sleep(fault.silence_s)
        if fault.gate is not None:
            fault.gate.wait(30)
        if fault.status:
            body = f"<Error><Code>{fault.code}</Code><Message>the proxy says {fault.code}</Message></Error>".encode()
            lines = [f"HTTP/1.1 {fault.status} X", f"content-length: {len(body)}", "content-type: application/xml"]
            lines += [f"{name}: {value}" for name, value in fault.headers.items()]
            client.sendall("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body))
            return True
        for true, told in self.other_etags.items():
            head = head.replace(told, true)
        with socket.create_connection(self._server) as server, server.makefile("rb") as answer:
            server.sendall(_closing(head).encode("latin-1"))
            return self._pass(client, method, answer, fault)

    def _pass(self, client: socket.socket, method: str, answer: Any, fault: Fault) -> bool:
        head = _head(answer)
        body = b"" if method == "HEAD" else answer.read()
        for true, told in self.other_etags.items():
            head = head.replace(true, told)
            body = body.replace(true.encode(), told.encode()) if "application/xml" in head.lower() else body
        client.sendall(re.sub(r"(?im)^connection:.*\r\n", "", head).encode("latin-1"))
        if fault.flip is not None and fault.flip < len(body):
            other = (body[fault.flip] + fault.n_done) % 256
            body = body[: fault.flip] + bytes([other]) + body[fault.flip + 1 :]
        end = len(body) if fault.cut_after_bytes is None else fault.cut_after_bytes
        step = fault.piece_bytes if fault.pause_s else max(1, end)
        for start in range(0, min(end, len(body)), step):
            piece = body[start : min(end, start + step)]
            client.sendall(piece)
            with self._lock:
                self.n_body_bytes += len(piece) if method == "GET" else 0
            time.sleep(fault.pause_s)
        return end >= len(body)


@contextlib.contextmanager
def proxy_before(endpoint: str) -> Iterator[Proxy]:
    """A proxy that ends with the block."""
    proxy = Proxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()


def _head(stream: Any) -> str:
    lines = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        lines.append(line.decode("latin-1"))
    return "".join([*lines, "\r\n"]) if lines else ""


def _closing(head: str) -> str:
    """The same request, after which the server ends the connection, so that the end of its answer is seen."""
    first, _, rest = re.sub(r"(?im)^connection:.*\r\n", "", head).partition("\r\n")
    return f"{first}\r\nconnection: close\r\n{rest}"
