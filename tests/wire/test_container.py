# SPDX-License-Identifier: Apache-2.0
"""The server as the first process of a container: orphans, signals, and the time in which everything has to be gone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest

from lmi.workers.mpi.variables import free_port
from tests.core.distributions import Distributions
from tests.faults.conftest import FaultyServer
from tests.limits import limit_s
from tests.servers import ServerProcess, eventually, serve, wait_for_ends, with_descendants
from tests.wire.conftest import send

FIRST = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Runs a command as process 1 of a namespace of its own."""

ECHO = ("-o", "rolling_batch=echo", "-o", "heartbeat_interval=0.05")

ORPHANS = """
import subprocess

from djl_python import Output


def handle(inputs):
    if inputs.content.size():
        subprocess.run("sleep 0.1 & sleep 3600 &", shell=True, start_new_session=True, check=True)
    return Output().add("done")
"""


def _can_be_first() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*FIRST, "true"], capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not _can_be_first(), reason="unshare makes no process namespace here")


def first_process(server: ServerProcess) -> psutil.Process:
    """The one that is process 1 in its namespace."""
    found: list[psutil.Process] = eventually(lambda: psutil.Process(server.process.pid).children())
    return found[0]


@needs_namespaces
def test_orphans_of_a_worker_are_reaped_and_nothing_outlives_the_server(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(ORPHANS)
    with serve(str(tmp_path), within=FIRST) as server:
        first = first_process(server)
        assert server.post({"any": "thing"}).status_code == 200
        # The server and "sleep 3600"; "sleep 0.1" has ended, and nobody is left to be reaped.
        [_, orphan] = eventually(lambda: len(first.children()) == 2 and first.children())
        assert orphan.cmdline() == ["sleep", "3600"]
        everything = with_descendants(first)
        assert not [each for each in everything if each.status() == psutil.STATUS_ZOMBIE]
        first.send_signal(signal.SIGTERM)
        assert server.wait_for_end() == 0
    wait_for_ends(everything)


@needs_namespaces
def test_the_first_process_drains_on_sigterm_and_ends_with_the_servers_code() -> None:
    with serve(*ECHO, "-o", "step_delay_ms=10", within=FIRST) as server:
        stream = server.stream("abc", max_new_tokens=100)
        next(stream)
        first_process(server).send_signal(signal.SIGTERM)
        assert len(list(stream)) == 99
        assert server.wait_for_end() == 0
    with serve("/no/such/model", within=FIRST, is_ready=False) as broken:
        assert broken.wait_for_end() == 2
        assert "LMI could not start" in broken.output


@needs_namespaces
def test_sigterm_before_the_server_has_a_handler_for_it_ends_a_container_at_once() -> None:
    with serve(*ECHO, within=FIRST, is_ready=False) as server:
        first = first_process(server)
        eventually(first.children)
        first.send_signal(signal.SIGTERM)
        assert server.wait_for_end() in (0, 128 + signal.SIGTERM)


@needs_namespaces
def test_a_server_that_is_killed_ends_its_container_with_the_signals_number() -> None:
    with serve(*ECHO, within=FIRST) as server:
        first = first_process(server)
        everything = with_descendants(first)
        first.children()[0].kill()
        assert server.wait_for_end() == 128 + signal.SIGKILL
    wait_for_ends(everything)


# -------------------------------------------------------------------------------------------------- starts and stops


def test_a_server_that_is_still_imported_says_so(tmp_path: Path) -> None:
    Distributions(tmp_path).install("lmi-slow", "lmi.extensions", "slow", f"import time; time.sleep({limit_s(2)})")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    port = free_port()
    address = ("--host", "127.0.0.1", "--port", str(port))
    with (
        serve(*ECHO, environ={"PYTHONPATH": path}, address=address, is_ready=False) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=limit_s(5), trust_env=False) as client,
    ):
        eventually(lambda: is_accepted(port), 2)
        for method in ("GET", "POST", "HEAD"):
            ping = client.request(method, "/ping")
            assert (ping.status_code, ping.headers["content-type"]) == (503, "application/json")
            assert ping.content == (b"" if method == "HEAD" else b'{"stage": "start server"}')
        early = client.post("/invocations", content=b"x" * 60_000)
        assert (early.status_code, early.json()["error"], early.headers["retry-after"]) == (503, "model.loading", "1")
        with socket.create_connection(("127.0.0.1", port)):  # a client that says nothing holds nobody up for long
            assert client.get("/ping").status_code == 503
        assert "extensions: slow" not in server.output
        server.wait_until_ready()
        assert "extensions: slow" in server.output
        assert client.get("/ping").status_code == 200
        assert client.post("/invocations", json={"inputs": "a"}).status_code == 200


def is_accepted(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_engine_that_hangs_is_gone_in_four_seconds_after_the_drain(serve_faulty: FaultyServer) -> None:
    with serve_faulty("--drain-timeout", "1") as server:
        everything = with_descendants(psutil.Process(server.process.pid))
        hanging = send(server, stream=False, inputs="hang", max_new_tokens=50)
        eventually(lambda: server.workers()[0]["n_requests"] == 1)
        server.terminate()
        started_s = time.monotonic()
        assert hanging.getresponse().status == 503
        assert server.wait_for_end() == 0
        assert time.monotonic() - started_s < 1 + 4.5 + limit_s(0.5)
        wait_for_ends(everything, 1)


def test_a_second_signal_ends_an_engine_that_hangs_at_once(serve_faulty: FaultyServer) -> None:
    with serve_faulty("--drain-timeout", "3600") as server:
        everything = with_descendants(psutil.Process(server.process.pid))
        hanging = send(server, stream=False, inputs="hang", max_new_tokens=50)
        eventually(lambda: server.workers()[0]["n_requests"] == 1)
        server.terminate()
        server.wait_for_line("draining")
        server.terminate()
        started_s = time.monotonic()
        assert server.wait_for_end() == 0
        assert time.monotonic() - started_s < limit_s(1.5)
        wait_for_ends(everything, 1)
        hanging.close()


def test_a_management_port_outside_of_the_safe_range_ends_the_start() -> None:
    environ = {"SERVING_MANAGEMENT_ADDRESS": "http://127.0.0.1:8081", "SAGEMAKER_SAFE_PORT_RANGE": "9000-9099"}
    with serve(*ECHO, environ=environ, is_ready=False) as server:
        assert server.wait_for_end() == 2
    assert "server.port-not-safe: management_address=http://127.0.0.1:8081" in server.output
