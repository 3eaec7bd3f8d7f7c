# SPDX-License-Identifier: Apache-2.0
"""Diagnostics through /invocations: everything for who has the token, and nothing of it for anybody else."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import lmi
from tests.servers import ServerProcess, eventually, serve
from tests.wire.conftest import serve_echo

TOKEN = "correct-horse-battery"
ASKING = {"lmi": "diagnostics", "token": TOKEN}
SECRET = "hunter2hunter2"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    environ = {"LMI_DIAGNOSTICS_TOKEN": TOKEN, "SERVING_METRICS_NAMESPACE": "LMI/chat", "OPTION_MAX_MODEL_LEN": "400"}
    with serve_echo(environ=environ, env=f"FAVOURITE_TOKEN={SECRET}", max_model_len=500) as server:
        yield server


def report(server: ServerProcess) -> dict[str, Any]:
    answer = server.post(ASKING)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json()
    assert TOKEN not in answer.text
    assert SECRET not in answer.text
    return found


def test_the_configuration_is_told_with_where_each_value_came_from(server: ServerProcess) -> None:
    found = report(server)
    [model] = found["models"]
    assert (model["name"], model["backend"], model["state"], model["task"]) == (
        "model", "echo", "ready", "generate",
    )  # fmt: skip
    assert model["options"]["option.max_model_len"] == {
        "value": "500",
        "source": "command line -o max_model_len",
        "overrode": ["400 (OPTION_MAX_MODEL_LEN)"],
    }
    assert "***" in model["options"]["option.env"]["value"]
    options = found["server"]["options"]
    assert (options["metrics_namespace"]["value"], options["metrics_namespace"]["source"]) == (
        "LMI/chat", "SERVING_METRICS_NAMESPACE",
    )  # fmt: skip
    assert (options["diagnostics_token"]["value"], options["diagnostics_token"]["source"]) == (
        "***", "LMI_DIAGNOSTICS_TOKEN",
    )  # fmt: skip


def test_versions_devices_and_the_start_are_told(server: ServerProcess) -> None:
    found = report(server)
    assert (found["versions"]["lmi"], found["versions"]["python"]) == (lmi.__version__, platform.python_version())
    assert "echo" in {each["name"] for each in found["versions"]["plugins"] if each["state"] == "ready"}
    assert found["devices"]["model"]["accelerator"] == "cpu"
    assert list(found["server"]["timeline"]) == ["start server", "check configuration", "load tokenizer", "load model"]
    assert found["server"]["seconds_to_ready"] == pytest.approx(sum(found["server"]["timeline"].values()), abs=0.1)
    [worker] = found["models"][0]["workers"]
    assert next(iter(worker["timeline"])) == "start process"
    assert sum(worker["timeline"].values()) < found["server"]["seconds_to_ready"]
    assert server.health()["timeline"] == found["server"]["timeline"]
    assert server.workers()[0]["timeline"] == worker["timeline"]


def test_the_last_end_of_a_worker_is_told(server: ServerProcess) -> None:
    [pid] = server.worker_pids()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: [each["state"] for each in server.workers()] == ["ready"] and server.worker_pids() != [pid])
    [model] = report(server)["models"]
    assert model["n_worker_deaths"] == 1
    loss = model["losses"]["model/0"]
    assert (loss["reason"], loss["stage"]) == ("killed by SIGKILL", "ready")
    assert isinstance(loss["last_lines"], list)


def test_queue_and_cache_are_told(server: ServerProcess) -> None:
    [model] = report(server)["models"]
    assert (model["n_requests"], model["n_waiting"], model["cache_use"]) == (0, 0, None)


def test_they_are_there_before_any_model_is_named() -> None:
    environ = {"LMI_DIAGNOSTICS_TOKEN": TOKEN, "SERVING_LOAD_MODELS": "NONE"}
    with serve(environ=environ, is_ready=False) as server:
        server.wait_for_line("no model is loaded")
        assert server.post({"inputs": "abc"}).status_code == 404
        assert report(server)["models"] == []


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], None])
def test_without_the_token_the_body_is_as_wrong_as_any_other(
    server: ServerProcess, echo: ServerProcess, token: str | None
) -> None:
    body = {"lmi": "diagnostics", "token": token}
    here, off = server.post(body), echo.post(body)
    assert (here.status_code, here.json()) == (off.status_code, off.json())
    assert (here.status_code, here.json()["error"]) == (400, "request.invalid")


def test_where_they_are_off_no_token_opens_them(echo: ServerProcess) -> None:
    assert echo.post(ASKING).status_code == 400


def test_requests_are_answered_as_ever(server: ServerProcess) -> None:
    assert server.generate("abc", max_new_tokens=3)["generated_text"] == "abc"
    long = '{"lmi" is no key here}' * 10
    assert server.generate(long, max_new_tokens=4)["generated_text"] == '{"lm'
    assert server.post(b"").json()["error"] == "request.empty-prompt"
