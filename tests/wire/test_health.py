# SPDX-License-Identifier: Apache-2.0
"""What an orchestrator and an operator ask: /ping, /health and /metrics."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.buckets import CREDENTIALS
from tests.servers import ServerProcess, eventually, serve
from tests.wire.conftest import send, serve_echo


def metrics_of(server: ServerProcess) -> dict[str, float]:
    """Samples of all metrics by name; those with an outcome under ``name/outcome``, without buckets."""
    with server.client() as client:
        text = client.get("/metrics").text
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["model"] == "model"
            outcome = sample.labels.get("outcome")
            if "le" not in sample.labels:
                samples[f"{sample.name}/{outcome}" if outcome else sample.name] = sample.value
    return samples


@pytest.fixture
def slow() -> Iterator[ServerProcess]:
    with serve_echo(step_delay_ms=5, max_rolling_batch_size=1) as server:
        yield server


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_ping_maps_the_model_to_its_status(echo: ServerProcess, method: str) -> None:
    with echo.client() as client:
        response = client.request(method, "/ping")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"model": {"status": "Healthy"}}


def test_ping_answers_while_requests_run_and_wait(slow: ServerProcess) -> None:
    stream = slow.stream("abc", max_new_tokens=4000)
    next(stream)
    with slow.client() as client:
        assert client.get("/ping").status_code == 200
    stream.close()


PING_WHILE_LOADING = [
    ({}, 503),
    ({"SERVING_ALLOW_MULTI_STATUS": "true"}, 503),
    ({"SERVING_WAIT_MODEL_LOADING": "false"}, 200),
    ({"SERVING_WAIT_MODEL_LOADING": "false", "SERVING_ALLOW_MULTI_STATUS": "true"}, 207),
]


@pytest.mark.parametrize(("environ", "status"), PING_WHILE_LOADING)
def test_ping_says_from_the_first_second_whether_somebody_is_to_wait_for_the_models(
    environ: dict[str, str], status: int, tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text("import time\n\ndef handle(inputs):\n    time.sleep(600)\n")
    with serve(str(tmp_path), environ=environ, is_ready=False) as server, server.client() as client:
        statuses = []

        def loading() -> dict[str, Any]:
            answer = client.get("/ping")
            statuses.append(answer.status_code)
            model: dict[str, Any] = answer.json().get("model", {})
            return model

        assert eventually(loading)["status"] == "PENDING"
        assert set(statuses) == {status}


@pytest.mark.parametrize(("environ", "status"), PING_WHILE_LOADING)
def test_ping_tells_the_stage_while_the_models_are_looked_for(environ: dict[str, str], status: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an object store that takes connections and never answers
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environ = {"AWS_ENDPOINT_URL": endpoint, **CREDENTIALS, **environ}
        with serve("s3://bucket/models/echo", environ=environ, is_ready=False) as server, server.client() as client:
            assert server.url
            silent.accept()[0].close()  # it is asked: the models are being looked for
            answer = client.get("/ping")
            assert (answer.status_code, answer.json()) == (status, {"stage": "check configuration"})
            assert server.post({"inputs": "abc"}).json()["error"] == "model.loading"


def test_health_tells_the_state_of_model_and_worker(echo: ServerProcess) -> None:
    health = echo.health()
    assert health["stage"] == "ready"
    [model] = health["models"]
    assert (model["name"], model["state"], model["backend"]) == ("model", "ready", "echo")
    assert "rolling_batch=echo" in model["chosen_because"]
    assert (model["failure"], model["n_worker_deaths"]) == (None, 0)
    [worker] = model["workers"]
    assert (worker["label"], worker["state"]) == ("model/0", "ready")
    assert psutil.Process(worker["pid"]).ppid() == echo.process.pid


def test_health_counts_running_and_waiting_requests_and_what_they_reserve(slow: ServerProcess) -> None:
    running = send(slow, stream=True, max_new_tokens=4000)
    waiting = send(slow, stream=False, max_new_tokens=7)
    [worker] = eventually(lambda: [w for w in slow.workers() if (w["n_running"], w["n_waiting"]) == (1, 1)])
    assert (worker["n_requests"], worker["n_reserved_tokens"]) == (2, 3 + 4000 + 3 + 7)
    running.close()
    waiting.close()
    names = ("n_requests", "n_reserved_tokens", "n_running", "n_waiting")
    eventually(lambda: [slow.workers()[0][name] for name in names] == [0, 0, 0, 0])


def test_steps_are_counted_while_a_request_runs(slow: ServerProcess) -> None:
    stream = slow.stream("abc", max_new_tokens=4000)
    next(stream)
    before = slow.workers()[0]["n_steps"]
    eventually(lambda: slow.workers()[0]["n_steps"] > before + 2)
    stream.close()


def test_metrics_are_prometheus_text(echo: ServerProcess) -> None:
    with echo.client() as client:
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE lmi_requests_total counter" in response.text


def test_metrics_count_requests_tokens_and_times() -> None:
    with serve_echo() as server:
        server.generate("abc", max_new_tokens=5)
        server.generate("abcd", max_new_tokens=6)
        assert len(list(server.stream("ab", max_new_tokens=7))) == 7
        assert server.post({"inputs": ""}).status_code == 400
        metrics = metrics_of(server)
        assert metrics["lmi_requests_total/ok"] == 3
        assert metrics["lmi_prompt_tokens_total"] == 3 + 4 + 2
        assert metrics["lmi_output_tokens_total"] == 5 + 6 + 7
        assert metrics["lmi_request_seconds_count"] == 3
        assert metrics["lmi_time_to_first_token_seconds_count"] == 3
        assert 0 < metrics["lmi_time_to_first_token_seconds_sum"] <= metrics["lmi_request_seconds_sum"]
        assert 1 <= metrics["lmi_stream_writes_total"] <= 7
        assert metrics["lmi_running_requests"] == 0
        assert metrics["lmi_worker_deaths_total"] == 0
        eventually(lambda: metrics_of(server)["lmi_engine_steps"] >= 5 + 6 + 7)


def test_metrics_tell_cancelled_requests_from_finished_ones(slow: ServerProcess) -> None:
    stream = slow.stream("abc", max_new_tokens=4000)
    next(stream)
    eventually(lambda: metrics_of(slow)["lmi_running_requests"] == 1)
    stream.close()
    eventually(lambda: metrics_of(slow).get("lmi_requests_total/cancelled") == 1)
    assert "lmi_requests_total/ok" not in metrics_of(slow)
    eventually(lambda: metrics_of(slow)["lmi_running_requests"] == 0)


def test_metrics_of_several_copies_are_told_apart() -> None:
    with serve_echo(minWorkers=2) as server:
        eventually(lambda: [w["state"] for w in server.workers()] == ["ready", "ready"])
        with server.client() as client:
            text = client.get("/metrics").text
    assert 'lmi_running_requests{model="model",worker="model/0"} 0.0' in text
    assert 'lmi_running_requests{model="model",worker="model/1"} 0.0' in text
