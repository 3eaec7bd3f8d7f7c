# SPDX-License-Identifier: Apache-2.0
"""The servers that the network face is priced beside; each runs a file of ``peers/`` over the same fake engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from processes import Program, free_ports, post

N_PLAIN_TOKENS, N_STREAM_TOKENS = 16, 128
INSTALLED = ("kserve", "mlserver", "litserve")
"""Each has an environment of its own; the hand-written ones run in LMI's."""

_FILES = Path(__file__).parent / "peers"
_START_LIMIT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One kind of request to one running server.

    Args:
        server: name in the table.
        mode: ``plain`` (one JSON answer) or ``stream`` (a line or an event a token).
        program: what is priced.
        url, body: of the request.
        n_tokens: of the answer.
    """

    server: str
    mode: str
    program: Program
    url: str
    body: dict[str, Any]
    n_tokens: int

    def check(self) -> None:
        """Ask once; end the benchmark when the answer is not what is priced."""
        try:
            answer = post(self.url, self.body)
        except OSError as error:
            said = error.read() if isinstance(error, HTTPError) else b""
            raise SystemExit(f"{self.server} {self.mode}: {error}: {said[:300]!r}") from error
        n_lines = sum("{" in line for line in answer.splitlines())
        if n_lines != (self.n_tokens if self.mode == "stream" else 1):
            raise SystemExit(f"{self.server} {self.mode}: {n_lines} lines for {self.n_tokens} tokens: {answer[:300]!r}")


def lmi_body(n_tokens: int, *, stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"inputs": "Hello there", "parameters": {"max_new_tokens": n_tokens}}
    return {**body, "stream": True} if stream else body


def both_jobs(server: str, program: Program, url: str, stream_url: str = "") -> list[Job]:
    """The plain and the stream job of a server that takes LMI's bodies."""
    plain = Job(
        server=server,
        mode="plain",
        program=program,
        url=url,
        body=lmi_body(N_PLAIN_TOKENS, stream=False),
        n_tokens=N_PLAIN_TOKENS,
    )
    stream = Job(
        server=server,
        mode="stream",
        program=program,
        url=stream_url or url,
        body=lmi_body(N_STREAM_TOKENS, stream=True),
        n_tokens=N_STREAM_TOKENS,
    )
    return [plain, stream]


def install(folder: Path) -> None:
    """Make the environments that are missing."""
    for name in INSTALLED:
        python = folder / name / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        print(f"pip install {name} into {folder / name}", flush=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", name, "uvloop", "httptools"], check=True)


def start_peers(folder: Path, running: ExitStack) -> list[Job]:
    """Start every peer there is and return what to ask them; ``running`` stops the programs."""
    jobs: list[Job] = []
    for name in ("fastapi", "starlette"):
        jobs += _uvicorn(name, running)
    starters = {"kserve": _kserve, "mlserver": _mlserver, "litserve": _litserve}
    for name in INSTALLED:
        python = folder / name / "bin" / "python"
        if python.exists():
            jobs += starters[name](python, running)
        else:
            print(f"left out: {name} (no {python}; --install makes it)")
    return jobs


def _uvicorn(name: str, running: ExitStack) -> list[Job]:
    (port,) = free_ports(1)
    arguments = ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--lifespan", "off"]
    command = [sys.executable, "-m", "uvicorn", f"{name}_app:app", *arguments]
    program = _started(running, name, command, f"http://127.0.0.1:{port}/")
    return both_jobs(name, program, f"http://127.0.0.1:{port}/invocations")


def _kserve(python: Path, running: ExitStack) -> list[Job]:
    (port,) = free_ports(1)
    # KServe reads the command line for itself too; a port it does not know of is no option to it.
    program = _started(running, "kserve", [str(python), "kserve_app.py", str(port)], f"http://127.0.0.1:{port}/")
    return both_jobs("kserve", program, f"http://127.0.0.1:{port}/v1/models/fake:predict")


def _mlserver(python: Path, running: ExitStack) -> list[Job]:
    http, grpc, metrics = free_ports(3)
    folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="bench-mlserver-")))
    for file in ("fake_engine.py", "mlserver_runtime.py"):
        shutil.copy(_FILES / file, folder)
    settings = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "debug": False, "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text('{"name": "fake", "implementation": "mlserver_runtime.Fake"}')
    base = f"http://127.0.0.1:{http}/v2"
    command = [str(python.parent / "mlserver"), "start", "."]
    program = _started(running, "mlserver", command, f"{base}/health/ready", cwd=folder)
    jobs = []
    for mode, route, n_tokens in (("plain", "infer", N_PLAIN_TOKENS), ("stream", "infer_stream", N_STREAM_TOKENS)):
        prompt = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["Hello there"]}
        body = {"inputs": [prompt], "parameters": {"max_new_tokens": n_tokens}}
        url = f"{base}/models/fake/{route}"
        jobs.append(Job(server="mlserver", mode=mode, program=program, url=url, body=body, n_tokens=n_tokens))
    return jobs


def _litserve(python: Path, running: ExitStack) -> list[Job]:
    """Two servers: one of them streams, the other does not."""
    jobs = []
    for number, mode in enumerate(("plain", "stream")):
        (port,) = free_ports(1)
        command = [str(python), "litserve_app.py", mode, str(port)]
        program = _started(running, f"litserve-{mode}", command, f"http://127.0.0.1:{port}/health")
        jobs.append(both_jobs("litserve", program, f"http://127.0.0.1:{port}/invocations")[number])
    return jobs


def _started(running: ExitStack, name: str, command: Sequence[str], ready_url: str, cwd: Path = _FILES) -> Program:
    environ = {**os.environ, "PYTHONPATH": str(cwd), "PYTHONDONTWRITEBYTECODE": "1"}
    program = running.enter_context(Program(name, command, cwd=cwd, environ=environ))
    program.wait_for_answer(ready_url, _START_LIMIT_S)
    return program
