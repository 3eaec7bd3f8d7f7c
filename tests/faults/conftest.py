# SPDX-License-Identifier: Apache-2.0
"""Servers whose engine breaks on request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.core.distributions import Distributions
from tests.servers import ServerProcess, serve

FaultyServer = Callable[..., AbstractContextManager[ServerProcess]]


@pytest.fixture(scope="session")
def faulty_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed distribution of the breaking backend."""
    folder = tmp_path_factory.mktemp("site")
    code = (Path(__file__).parent / "faulty_backend.py").read_text()
    Distributions(folder).install("lmi-faulty", "lmi.backends", "faulty", code)
    return folder


@pytest.fixture(scope="session")
def serve_faulty(faulty_path: Path) -> FaultyServer:
    """``with serve_faulty("-o", "load=raise") as server:``"""

    def start(*args: str, is_ready: bool = True, **environ: str) -> AbstractContextManager[ServerProcess]:
        path = os.pathsep.join([str(faulty_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return serve("-o", "rolling_batch=faulty", *args, environ={"PYTHONPATH": path, **environ}, is_ready=is_ready)

    return start


@pytest.fixture
def faulty(serve_faulty: FaultyServer) -> Iterator[ServerProcess]:
    """A server with one worker; each test its own, since restarts take longer after many deaths."""
    with serve_faulty() as server:
        yield server
