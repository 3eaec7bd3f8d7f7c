# SPDX-License-Identifier: Apache-2.0
"""Answers while the server is still being imported: that it starts. On a busy machine this takes longer than the two
seconds that SageMaker waits for ``/ping``.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Iterator

_PATIENCE_S = 0.5
"""For the whole head of a request, and then for its client to read the answer: others wait meanwhile, and the start."""
_MOST_BYTES = 1 << 16
_END = b"\r\n\r\n"
_PING = (b"GET /ping", b"HEAD /ping", b"POST /ping")


@contextlib.contextmanager
def answered_early(listener: socket.socket) -> Iterator[None]:
    """Answer on a listening socket for the length of a block; whoever comes later waits for the server.

    Args:
        listener: of plain HTTP; nobody else may accept from it meanwhile.
    """
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=_answer, args=(listener, theirs), name="lmi-early", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ours.close()
        thread.join()
        theirs.close()


def _answer(listener: socket.socket, end: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([listener, end], [], [])
        if end in ready:
            return
        with contextlib.suppress(OSError):  # of a client that has left
            connection = listener.accept()[0]
            with connection:
                _talk(connection)


def _talk(connection: socket.socket) -> None:
    """One request, and its answer; what else it sends is not read.

    Raises:
        OSError: it has left, or takes too long.
    """
    head = b""
    for part in _parts(connection):
        head += part
        if _END in head or len(head) >= _MOST_BYTES:
            break
    else:
        return
    connection.settimeout(_PATIENCE_S)
    connection.sendall(_answer_to(head))
    connection.shutdown(socket.SHUT_WR)
    n_bytes = 0
    for part in _parts(connection):  # else the answer may never arrive
        n_bytes += len(part)
        if n_bytes >= _MOST_BYTES:
            break


def _parts(connection: socket.socket) -> Iterator[bytes]:
    """What a client sends, for as long as patience lasts."""
    end_s = time.monotonic() + _PATIENCE_S
    while (left_s := end_s - time.monotonic()) > 0:
        connection.settimeout(left_s)
        part = connection.recv(_MOST_BYTES)
        if not part:
            return
        yield part
    raise TimeoutError


def _answer_to(head: bytes) -> bytes:
    body = b'{"stage": "start server"}'
    if not head.startswith(_PING):
        message = "model.loading: no model is loaded yet (start server). Wait until /ping answers 200."
        body = json.dumps({"code": 503, "error": "model.loading", "message": message}).encode()
    lines = (
        "HTTP/1.1 503 Service Unavailable", "content-type: application/json", f"content-length: {len(body)}",
        "retry-after: 1", "connection: close",
    )  # fmt: skip
    return "\r\n".join(lines).encode() + _END + (b"" if head.startswith(b"HEAD ") else body)
