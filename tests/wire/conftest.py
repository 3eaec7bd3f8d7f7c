# SPDX-License-Identifier: Apache-2.0
"""Servers with the echo backend, as a user starts them."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.core.distributions import Distributions
from tests.faults.conftest import faulty_path, serve_faulty
from tests.limits import limit_s
from tests.servers import ServerProcess, serve

__all__ = ["faulty_path", "serve_faulty"]

ServeWith = Callable[..., AbstractContextManager[ServerProcess]]


def serve_echo(
    *args: str, environ: dict[str, str] | None = None, **options: object
) -> AbstractContextManager[ServerProcess]:
    """``with serve_echo(step_delay_ms=20) as server:``; heartbeats come often, so that /health is fresh."""
    options = {"rolling_batch": "echo", "heartbeat_interval": 0.05, **options}
    pairs = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    return serve(*pairs, *args, environ=environ)


def send(
    server: ServerProcess, *, stream: bool, max_new_tokens: int = 8000, inputs: str | list[str] = "abc"
) -> http.client.HTTPConnection:
    """A connection whose request was sent and whose answer nobody has read."""
    url = urlsplit(server.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=limit_s(30))
    body = {"inputs": inputs, "parameters": {"max_new_tokens": max_new_tokens}, "stream": stream}
    connection.request("POST", "/invocations", json.dumps(body))
    return connection


@pytest.fixture(scope="module")
def echo() -> Iterator[ServerProcess]:
    """A server that answers at once, 8 requests at a time, up to 512 tokens each."""
    with serve_echo(max_rolling_batch_size=8, max_model_len=512) as server:
        yield server


@pytest.fixture(scope="session")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the extensions of ``extensions/`` as installed distributions, each under its file's name."""
    folder = tmp_path_factory.mktemp("extensions")
    for file in sorted((Path(__file__).parent / "extensions").glob("*.py")):
        Distributions(folder).install(f"lmi-{file.stem}", "lmi.extensions", file.stem, file.read_text())
    return folder


@pytest.fixture(scope="session")
def serve_with(extensions: Path) -> ServeWith:
    """``with serve_with("redactor,guard", step_delay_ms=20) as server:`` has these extensions and no other."""

    def start(names: str, *args: str, **options: object) -> AbstractContextManager[ServerProcess]:
        path = os.pathsep.join([str(extensions), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return serve_echo(*args, environ={"PYTHONPATH": path, "LMI_EXTENSIONS": names}, **options)

    return start
