# SPDX-License-Identifier: Apache-2.0
"""``--command 'docker run …'``: what comes through to a container that is no child of the command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from tests.sagemaker.emulators import QUICK, Emulator, emulator
from tests.servers import eventually, in_threads

DOCKER = Path(__file__).with_name("docker.py")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """With a ``docker`` on the path."""
    program = tmp_path / "docker"
    program.write_text(f"#!{sys.executable}\n{DOCKER.read_text()}".replace("__file__", repr(str(DOCKER))))
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "OPTION_TASK": "of this shell"}


def test_a_container_in_docker_gets_its_port_its_variables_and_sigterm(environ: dict[str, str]) -> None:
    command = "docker run --rm -p 127.0.0.1:$PORT:8080 -e OPTION_DTYPE -e OPTION_TASK -e A=b IMAGE serve"
    with emulator("--command", command, "-e", "OPTION_DTYPE=bf16", *QUICK, environ=environ) as local:
        told = local.told()
        assert {name: told["environ"].get(name) for name in ("OPTION_DTYPE", "A", "OPTION_TASK", "PORT")} == {
            "OPTION_DTYPE": "bf16", "A": "b", "OPTION_TASK": None, "PORT": None
        }  # fmt: skip
        container = psutil.Process(told["pid"])
        assert local.get("/endpoints")["Endpoints"][0]["copies"][0]["pid"] != container.pid

        def stop() -> None:
            eventually(lambda: "asleep" in local.told()["log"])
            local.terminate()

        def ask() -> bytes:
            content: bytes = local.invoke("sleep", seconds=2)["Body"].read()
            return content

        assert in_threads([ask, stop])[0] == b"awake"
        assert local.wait_for_end() == 0
        assert not container.is_running() or container.status() == psutil.STATUS_ZOMBIE
        assert local.lines[-1] == "no violations"


def test_a_container_in_docker_that_ends_is_started_again(environ: dict[str, str]) -> None:
    with emulator("--command", "docker run --rm -p $PORT:8080 IMAGE serve", *QUICK, environ=environ) as local:
        pid = local.told()["pid"]
        with pytest.raises(local.runtime.exceptions.ModelError):
            local.invoke("die")
        eventually(lambda: local.violations("process.ended"))
        message = local.violations("process.ended")[0]["message"]
        assert message == "model/0: it ended with exit code 4; it is started again"
        eventually(lambda: _is_healthy(local))
        assert local.told()["pid"] != pid


def _is_healthy(local: Emulator) -> bool:
    return bool(local.get("/endpoints")["Endpoints"][0]["copies"][0]["state"] == "Healthy")
