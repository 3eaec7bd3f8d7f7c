# SPDX-License-Identifier: Apache-2.0
"""A model that cannot be loaded ends the server with cause, evidence and remedy as its last lines."""

from pathlib import Path

import pytest

from tests.faults.conftest import FaultyServer
from tests.servers import eventually


def test_ping_answers_503_with_the_stage_while_the_model_loads(serve_faulty: FaultyServer) -> None:
    with serve_faulty("-o", "load=slow", is_ready=False) as server, server.client() as client:

        def loading() -> bool:
            response = client.get("/ping")
            assert response.status_code == 503
            return response.json() == {"model": {"status": "PENDING", "stage": "read weights", "fraction": 0.5}}

        eventually(loading)
        early = server.post({"inputs": "hello"})
        assert (early.status_code, early.json()["error"]) == (503, "model.loading")
        assert "read weights" in early.json()["message"]


@pytest.mark.parametrize(
    ("load", "cause", "remedy"),
    [
        ("raise", "RuntimeError: the weights are made of cheese", "traceback"),
        ("refuse", "engine.no-device: there is no device for this model", "Plug one in"),
        ("segfault", "killed by SIGSEGV", "about to fall over"),
        ("half", "'FaultyEngine' object has no attribute 'limits'", "remedy"),
    ],
)
def test_a_failed_load_ends_the_server_with_a_digest(
    serve_faulty: FaultyServer, load: str, cause: str, remedy: str
) -> None:
    with serve_faulty("-o", f"load={load}", is_ready=False) as server:
        assert server.wait_for_end() == 1
        digest = server.output[server.output.index("LMI could not start") :]
        assert cause in digest
        assert "in stage '" in digest
        assert remedy in digest


def test_a_load_that_overruns_ends_with_the_stage_the_limit_and_its_source(serve_faulty: FaultyServer) -> None:
    with serve_faulty("-o", "load=slow", "-o", "model_loading_timeout=5", is_ready=False) as server:
        assert server.wait_for_end() == 1
        digest = server.output[server.output.index("LMI could not start") :]
        assert "worker.load-timeout" in digest
        assert "stage 'read weights'" in digest
        assert "option.model_loading_timeout=5 (command line -o model_loading_timeout)" in digest


def test_a_python_that_is_not_there_is_named(serve_faulty: FaultyServer) -> None:
    with serve_faulty("-o", "pythonExecutable=/no/such/python", is_ready=False) as server:
        assert server.wait_for_end() == 1
        assert "worker.no-python: '/no/such/python' cannot be started" in server.output


def test_a_python_without_lmi_is_named_with_what_it_said(serve_faulty: FaultyServer, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"No module named 'lmi'\" >&2\nexit 1\n")
    python.chmod(0o755)
    with serve_faulty("-o", f"pythonExecutable={python}", is_ready=False) as server:
        assert server.wait_for_end() == 1
        assert "exited with code 1" in server.output
        assert "No module named 'lmi'" in server.output[server.output.index("evidence") :]


def test_files_of_the_current_folder_are_not_imported_by_the_worker(
    serve_faulty: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('a file of the model was run')")
    monkeypatch.chdir(tmp_path)
    with serve_faulty() as server:
        assert server.generate("abc", max_new_tokens=3)["generated_text"] == "abc"
