# SPDX-License-Identifier: Apache-2.0
"""A container without a network, as with EnableNetworkIsolation, and with a model folder that cannot be written."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests import isolation
from tests.limits import limit_s
from tests.servers import ServerProcess, serve
from tests.tiny import write_tiny

SCRIPT = str(Path(isolation.__file__))


def _can_isolate() -> bool:
    command = [sys.executable, SCRIPT, "/dev/null", "/tmp", "true"]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


pytestmark = pytest.mark.skipif(not _can_isolate(), reason="no network of its own can be made here")


class Isolated:
    """Servers without a network, and what they asked of it.

    Args:
        folder: for its files; the model's folder in it cannot be written by the server.
    """

    def __init__(self, folder: Path) -> None:
        self.model = folder / "model"
        self.model.mkdir()
        self._notes, self._socket = folder / "notes.txt", folder / "lmi.sock"

    def serve(self, *args: str, is_ready: bool = True) -> AbstractContextManager[ServerProcess]:
        """A server on a unix socket, which other networks reach; as SageMaker's."""
        environ = {
            "SERVING_INFERENCE_ADDRESS": f"unix:{self._socket}",
            "SAGEMAKER_MULTI_MODEL": "false",
            "HF_HUB_OFFLINE": "",
        }
        within = (sys.executable, SCRIPT, str(self._notes), str(self.model))
        return serve(*args, environ=environ, address=(), within=within, is_ready=is_ready)

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self._socket))
        return httpx.Client(transport=transport, base_url="http://lmi", timeout=limit_s(60))

    @property
    def asked(self) -> set[str]:
        """What was asked of the world outside; it was watched."""
        first, *rest = self._notes.read_text().splitlines()
        assert first == "watching"
        return set(rest)


@pytest.fixture
def isolated(tmp_path: Path) -> Isolated:
    return Isolated(tmp_path)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.mark.long
def test_a_model_is_served_without_a_network_and_without_a_file_beside_it(isolated: Isolated) -> None:
    write_tiny("llama", isolated.model)
    before = contents(isolated.model)
    with isolated.serve(str(isolated.model), "-o", "dtype=fp32") as server, isolated.client() as client:
        body = {"inputs": "abc", "parameters": {"max_new_tokens": 4}}
        assert client.post("/invocations", json=body).status_code == 200
        server.terminate()
        assert server.wait_for_end() == 0
    assert isolated.asked == set()
    assert contents(isolated.model) == before
    for word in ("resol", "unreachable", "telemetry", "huggingface.co", "retry", "Read-only"):
        assert word.lower() not in server.output.lower()


@pytest.mark.parametrize(
    ("model", "host", "code"),
    [
        ("org/name", "huggingface.co", "model.unreachable"),
        pytest.param("s3://bucket/model/", "s3.amazonaws.com", "model.access-denied", marks=pytest.mark.long),
        pytest.param("https://example.com/model.tar.gz", "example.com", "model.unreachable", marks=pytest.mark.long),
    ],
)
def test_a_model_elsewhere_ends_the_start_within_seconds_and_says_what_to_do(
    isolated: Isolated, monkeypatch: pytest.MonkeyPatch, model: str, host: str, code: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    started_s = time.monotonic()
    with isolated.serve(model, is_ready=False) as server:
        assert server.wait_for_end() in (1, 2)
    assert time.monotonic() - started_s < limit_s(20)
    assert f"lookup {host}" in isolated.asked
    digest = server.output[server.output.index("LMI could not start") :]
    assert code in digest
    assert "With network isolation (EnableNetworkIsolation) nothing outside of the container can be reached" in digest
