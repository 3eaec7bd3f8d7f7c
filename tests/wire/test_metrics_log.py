# SPDX-License-Identifier: Apache-2.0
"""Metrics of real servers in their log: on standard output alone, and all of them when the server ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmi.testing import write_tiny, write_tiny_adapter
from tests.emf_documents import documents, metrics_of
from tests.faults.conftest import FaultyServer
from tests.limits import limit_s
from tests.servers import ServerProcess, eventually
from tests.wire.conftest import send, serve_echo

EMF = {"SERVING_METRICS_LOG": "emf", "SERVING_METRICS_NAMESPACE": "LMI/test"}
ONCE_A_SECOND = {**EMF, "SERVING_METRICS_LOG_INTERVAL": "1"}


def told(server: ServerProcess) -> list[dict[str, Any]]:
    return documents(server.output)


@pytest.fixture(scope="module")
def adapted(serve_faulty: FaultyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with an adapter, which tells once a second."""
    folder = write_tiny("llama", tmp_path_factory.mktemp("models") / "llama")
    write_tiny_adapter(folder / "adapters" / "fr", folder)
    options = ("-o", "step_s=0.01", "-o", "offset=-33", "-o", "heartbeat_interval=0.05")
    with serve_faulty(str(folder), *options, **ONCE_A_SECOND) as server:
        yield server


def post(url: str, body: dict[str, Any]) -> int:
    return httpx.post(f"{url}/invocations", json=body, headers={"x-request-id": "a-1"}, trust_env=False).status_code


def test_requests_of_a_model_and_of_its_adapter_are_told(adapted: ServerProcess) -> None:
    adapted.generate("abc", max_new_tokens=40)
    assert adapted.post({"inputs": "abc", "adapters": "fr", "parameters": {"max_new_tokens": 20}}).status_code == 200
    lines = eventually(lambda: told(adapted) if any("Adapter" in each for each in told(adapted)) else None)
    [adapter] = [each for each in lines if "Adapter" in each]
    assert (adapter["Adapter"], metrics_of(adapter)["OutputTokens"]) == ("fr", [20])
    assert adapter["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "LMI/test"
    outputs = [n for each in lines if "Adapter" not in each for n in metrics_of(each).get("OutputTokens", [])]
    assert outputs == [40, 20], "the model's own lines have all of them"
    per_token_ms = metrics_of(adapter)["TimePerOutputToken"]
    assert 5 <= per_token_ms[0] < limit_s(200)  # 10, unless the first token was long on its way
    assert metrics_of(adapter)["RequestLatency"][0] >= 20 * 10 - 1
    assert 10 <= metrics_of(adapter)["TimeToFirstToken"][0] <= metrics_of(adapter)["RequestLatency"][0]


def test_what_runs_is_told_while_it_runs() -> None:
    with serve_echo(step_delay_ms=20, max_rolling_batch_size=2, environ=ONCE_A_SECOND) as server:
        waiting = [send(server, stream=True, max_new_tokens=400) for _ in range(3)]

        def running() -> list[dict[str, Any]]:
            return [each for each in map(metrics_of, told(server)) if each.get("BatchSize") == [2]]

        found = eventually(running)[-1]
        assert (found["RequestsRunning"], found["RequestsWaiting"], found["Requests"]) == ([2], [1], 0)
        for connection in waiting:
            connection.close()
        eventually(lambda: sum(metrics_of(each)["CancelledRequests"] for each in told(server)) == 3)


def test_when_the_server_ends_the_rest_is_told_on_standard_output_and_the_log_is_elsewhere(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    command = [sys.executable, "-m", "lmi", "serve", "--host", "127.0.0.1", "--port", "0", "-o", "rolling_batch=echo"]
    with out.open("w") as stdout, log.open("w") as stderr:
        process = subprocess.Popen(command, env={**os.environ, **EMF}, stdout=stdout, stderr=stderr)
        try:
            eventually(lambda: "is ready: " in out.read_text(), 60)
            url = out.read_text().split("is ready: ")[1].split("/invocations")[0]
            for _ in range(3):
                assert post(url, {"inputs": "secret words"}) == 200
            assert post(url, {"inputs": "", "parameters": {"seed": "secret words"}}) == 400
            process.terminate()
            assert process.wait(limit_s(30)) == 0
        finally:
            process.kill()
    [found] = documents(out.read_text())
    assert (metrics_of(found)["Requests"], metrics_of(found)["RefusedRequests"]) == (3, 1)
    assert len(metrics_of(found)["TimeToFirstToken"]) == 3
    assert "_aws" not in log.read_text()
    assert "secret words" not in out.read_text() + log.read_text()
    assert re.search(r"INFO ready after \d+\.\d s: start server \d", log.read_text())
    assert re.search(r"INFO request a-1 failed: 400 request\.invalid$", log.read_text(), re.MULTILINE)
