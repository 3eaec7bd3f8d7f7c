# SPDX-License-Identifier: Apache-2.0
"""Loads into a running server that go wrong: nothing is left of them, and nobody waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import FaultyServer
from tests.limits import limit_s
from tests.servers import ServerProcess, eventually

FAULTY = "option.rolling_batch=faulty\noption.heartbeat_interval=0.05\n"
FAILING_FILE = """
from lmi.api import hookimpl

@hookimpl
def lmi_register_routes(app, context):
    app.add_api_route("/half", lambda: "half", methods=["GET"])
    raise OSError("no room for routes")
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    files = {"well": "", "slow": "option.load=slow\n", "raise": "option.load=raise\n", "routes": ""}
    for name, more in files.items():
        (folder / name).mkdir()
        (folder / name / "serving.properties").write_text(FAULTY + more)
    (folder / "routes" / "model.py").write_text(FAILING_FILE)
    return folder


@pytest.fixture
def server(serve_faulty: FaultyServer) -> Iterator[ServerProcess]:
    with serve_faulty(is_ready=False, SAGEMAKER_MULTI_MODEL="true") as process:
        eventually(lambda: process.url, 30)
        eventually(lambda: asked(process, "GET", "/ping").status_code == 200, 30)
        yield process


def asked(server: ServerProcess, method: str, path: str, **options: Any) -> httpx.Response:
    with server.client() as client:
        return client.request(method, path, **options)


def load(server: ServerProcess, store: Path, folder: str, name: str = "one") -> httpx.Response:
    return asked(server, "POST", "/models", json={"model_name": name, "url": str(store / folder)})


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json()["error"])


def loading(server: ServerProcess, store: Path) -> tuple[threading.Thread, list[httpx.Response]]:
    """A load that goes on, and the list that gets its answer."""
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(load(server, store, "slow")))
    thread.start()
    eventually(lambda: [each["state"] for each in server.health()["models"]] == ["starting"], 30)
    return thread, answers


def test_of_a_model_whose_load_fails_nothing_is_left(server: ServerProcess, store: Path) -> None:
    assert told(load(server, store, "raise")) == (500, "engine.load-failed")
    answer = load(server, store, "routes")
    assert told(answer) == (500, "plugin.hook-failed")
    assert "no room for routes" in answer.json()["message"]
    assert asked(server, "GET", "/models").json() == {"models": []}
    assert asked(server, "GET", "/half").status_code == 404
    assert load(server, store, "well").status_code == 200
    assert asked(server, "POST", "/models/one/invoke", json={"inputs": "x"}).status_code == 200


def test_a_model_may_be_unloaded_before_it_is_ready(server: ServerProcess, store: Path) -> None:
    thread, answers = loading(server, store)
    assert asked(server, "DELETE", "/models/one").status_code == 200
    thread.join()
    assert told(answers[0]) == (503, "model.unloaded")
    assert server.health()["models"] == []
    assert load(server, store, "well").status_code == 200


def test_a_server_that_is_told_to_stop_waits_for_no_load(server: ServerProcess, store: Path) -> None:
    thread, answers = loading(server, store)
    start_s = time.monotonic()
    server.terminate()
    assert server.wait_for_end() == 0
    took_s = time.monotonic() - start_s
    thread.join()
    assert told(answers[0]) == (503, "server.draining")
    assert took_s < limit_s(6), "a request that runs gets 25 s; there is none"
