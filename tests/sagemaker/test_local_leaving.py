# SPDX-License-Identifier: Apache-2.0
"""Clients that leave, and many that come at once."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.limits import limit_s
from tests.sagemaker.emulators import QUICK, Emulator, container, emulator
from tests.servers import eventually, in_threads


@pytest.fixture(scope="module")
def local() -> Iterator[Emulator]:
    with emulator(*container(), *QUICK, "--time", f"accept={limit_s(1)}") as process:
        yield process


def begun(local: Emulator, body: object) -> socket.socket:
    """A connection on which a stream has been asked for."""
    content = json.dumps(body).encode()
    host = urlsplit(local.url).netloc
    head = f"POST /endpoints/model/invocations-response-stream HTTP/1.1\r\nhost: {host}\r\n"
    connection = socket.create_connection((urlsplit(local.url).hostname, urlsplit(local.url).port))
    connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return connection


@pytest.mark.parametrize("after_s", [0.0, 0.5])
def test_a_client_that_leaves_a_stream_leaves_the_container_too(local: Emulator, after_s: float) -> None:
    """After the first part, and before it."""
    n_before = local.told()["log"].count("the client left")
    wanted = {"do": "stream", "with": {"parts": ["a"] * 1000, "every_s": 0.05, "after_s": after_s}}
    with begun(local, wanted) as connection:
        if not after_s:
            assert connection.recv(1 << 16)
    eventually(lambda: local.told()["log"].count("the client left") > n_before, seconds=5)
    assert not local.violations()


def test_hundreds_of_calls_at_once_are_all_answered_and_break_no_rule(local: Emulator) -> None:
    def ask() -> bytes:
        content: bytes = local.invoke("sleep", seconds=0.5)["Body"].read()
        return content

    assert in_threads([ask] * 200) == [b"awake"] * 200
    assert not local.violations()
