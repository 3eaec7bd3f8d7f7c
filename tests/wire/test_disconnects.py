# SPDX-License-Identifier: Apache-2.0
"""A client that leaves frees its slot; the others go on.

The servers here have one or two slots and answers that take minutes: whoever waits is served only if a slot was freed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.servers import ServerProcess, eventually
from tests.wire.conftest import send, serve_echo

_ENDLESS = 8000


@pytest.fixture(scope="module")
def one_slot() -> Iterator[ServerProcess]:
    with serve_echo(max_rolling_batch_size=1, step_delay_ms=10) as server:
        yield server


@pytest.fixture(autouse=True)
def the_slot_is_free_again(one_slot: ServerProcess) -> Iterator[None]:
    yield
    assert one_slot.generate("free", max_new_tokens=4) == {"generated_text": "free"}
    eventually(lambda: n_running(one_slot) == 0)


def n_running(server: ServerProcess) -> int:
    return int(server.workers()[0]["n_running"])


def n_requests(server: ServerProcess) -> int:
    return int(server.workers()[0]["n_requests"])


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_client_that_leaves_in_the_middle_frees_its_slot(one_slot: ServerProcess, stream: bool) -> None:
    connection = send(one_slot, stream=stream)
    eventually(lambda: n_running(one_slot) == 1)
    connection.close()
    eventually(lambda: n_requests(one_slot) == 0)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_client_that_leaves_at_once_frees_its_slot(one_slot: ServerProcess, stream: bool) -> None:
    for _ in range(20):
        send(one_slot, stream=stream).close()


def test_a_client_that_is_killed_frees_its_slot(one_slot: ServerProcess) -> None:
    code = (
        "import json, sys, urllib.request\n"
        "body = json.dumps({'inputs': 'abc', 'parameters': {'max_new_tokens': 8000}, 'stream': True}).encode()\n"
        "for line in urllib.request.urlopen(sys.argv[1] + '/invocations', body): print(line, flush=True)\n"
    )
    command = [sys.executable, "-c", code, one_slot.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert b"token" in client.stdout.readline()
        client.kill()
    eventually(lambda: n_requests(one_slot) == 0)


def test_a_client_that_leaves_while_it_waits_for_a_slot_never_gets_one(one_slot: ServerProcess) -> None:
    stream = one_slot.stream("first ", max_new_tokens=_ENDLESS)
    next(stream)
    waiting = [send(one_slot, stream=is_stream) for is_stream in (True, False)]
    eventually(lambda: n_requests(one_slot) == 3)
    for connection in waiting:
        connection.close()
    eventually(lambda: n_requests(one_slot) == 1)
    assert next(stream)["token"]["text"] == "i"
    stream.close()


def test_other_streams_go_on_when_one_client_leaves() -> None:
    with serve_echo(max_rolling_batch_size=2, step_delay_ms=10) as server:
        staying = server.stream("staying ", max_new_tokens=120)
        leaving = server.stream("leaving ", max_new_tokens=_ENDLESS)
        first = [next(staying), next(leaving)][0]
        leaving.close()
        assert server.generate("next", max_new_tokens=4) == {"generated_text": "next"}
        lines = [first, *staying]
        assert len(lines) == 120
        assert lines[-1]["generated_text"] == "staying " * 15


def test_tokens_come_as_they_are_made(one_slot: ServerProcess) -> None:
    """The first of 8000 tokens is here long before the last; were the answer collected, this would never end."""
    stream = one_slot.stream("abc", max_new_tokens=_ENDLESS)
    assert [next(stream)["token"]["text"] for _ in range(4)] == list("abca")
    assert n_requests(one_slot) == 1
    stream.close()
