# SPDX-License-Identifier: Apache-2.0
"""Real server processes for tests: started as a user starts them, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.limits import limit_s

_QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class ServerProcess:
    """One ``lmi serve`` process, or one of another command that serves; its output is collected line by line."""

    def __init__(
        self,
        *args: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        address: Sequence[str] = ("--host", "127.0.0.1", "--port", "0"),
        command: str = "serve",
        within: Sequence[str] = (),
    ) -> None:
        words = [*within, sys.executable, str(Path(sys.executable).with_name("lmi")), command, *address, *args]
        self.process = subprocess.Popen(
            words,
            env={**os.environ, **_QUIET, **(environ or {})},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._new_lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._url: str | None = None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._new_lines.put(line)
        self._new_lines.put(None)

    def wait_for_line(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """The first line, from the start, that matches."""
        end_s = time.monotonic() + limit_s(seconds)
        for line in list(self.lines):
            if match := re.search(pattern, line):
                return match
        while True:
            try:
                line = self._new_lines.get(timeout=max(0.01, end_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line like {pattern!r} in time:\n{self.output}") from None
            if line is None:
                raise AssertionError(f"the server ended without a line like {pattern!r}:\n{self.output}")
            if match := re.search(pattern, line):
                return match

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        if self._url is None:
            self._url = self.wait_for_line(r"listening on (https?://\S+|unix:\S+)")[1]
        return self._url

    def wait_until_ready(self, seconds: float = 120) -> ServerProcess:
        self.wait_for_line(r"is ready: ", seconds)
        return self

    def wait_for_end(self, seconds: float = 30) -> int:
        code = self.process.wait(limit_s(seconds))
        self._reader.join(limit_s(5))
        return code

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(limit_s(5))
        if self.process.stdout is not None:
            self.process.stdout.close()

    # ------------------------------------------------------------------------------------------------------- talking

    def client(self, **options: Any) -> httpx.Client:
        # A stream is silent for as long as a worker that replaces its own loads.
        return httpx.Client(base_url=self.url, timeout=limit_s(180), trust_env=False, **options)

    def post(self, body: Any, path: str = "/invocations", **options: Any) -> httpx.Response:
        with self.client() as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return client.post(path, content=content, **options)

    def generate(self, prompt: str, **parameters: Any) -> dict[str, Any]:
        response = self.post({"inputs": prompt, "parameters": parameters})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def stream(self, prompt: str, **parameters: Any) -> Generator[dict[str, Any], None, None]:
        """The lines of a streamed answer, as they come."""
        body = {"inputs": prompt, "parameters": parameters, "stream": True}
        with self.client() as client, client.stream("POST", "/invocations", json=body) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                yield json.loads(line)

    def health(self) -> dict[str, Any]:
        with self.client() as client:
            answer: dict[str, Any] = client.get("/health").json()
            return answer

    def workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self.health()["models"][0]["workers"]
        return workers

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.workers()]


@contextlib.contextmanager
def serve(
    *args: str, environ: Mapping[str, str] | None = None, is_ready: bool = True, **more: Any
) -> Iterator[ServerProcess]:
    """A server for the length of a block; killed at its end if it still runs."""
    server = ServerProcess(*args, environ=environ, **more)
    try:
        yield server.wait_until_ready() if is_ready else server
    finally:
        server.kill()


def eventually(check: Callable[[], Any], seconds: float = 10) -> Any:
    """Ask again and again until the answer is true; the answer."""
    end_s = time.monotonic() + limit_s(seconds)
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < end_s, f"not true in time: {check}"
        time.sleep(0.02)


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """Results of calls made at the same time, in order; an exception is raised."""
    results: list[Any] = [None] * len(calls)
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = calls[index]()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit_s(120))
        assert not thread.is_alive(), "a call did not come back in time"
    if failures:
        raise failures[0]
    return results


Victim = Callable[[list[dict[str, Any]]], int | None]
"""Whom to kill now, of workers as ``/health`` tells them; None for nobody yet."""


def busy(n_requests: int, count: str = "n_requests", *, instead: int | None = None) -> Victim:
    """A worker that has so many requests, or another process in place of it."""
    return lambda workers: next((instead or each["pid"] for each in workers if each[count] >= n_requests), None)


def killed_under(server: ServerProcess, calls: list[Callable[[], Any]], victim: Victim) -> tuple[list[Any], int]:
    """Results of calls made at the same time, in order, and the process that was killed while they ran.

    Calls that all ended before there was a victim, as they may on a busy machine, are made again.
    """
    for _ in range(20):
        *results, killed = _with_a_kill(server, calls, victim)
        if killed is not None:
            return results, killed
    raise AssertionError("the calls ended before there was anybody to kill, each time")


def _with_a_kill(server: ServerProcess, calls: list[Callable[[], Any]], victim: Victim) -> list[Any]:
    """Results of calls made at the same time, and at last the process that was killed; None if they ended before."""
    unfinished = set(range(len(calls)))

    def run(index: int) -> Any:
        try:
            return calls[index]()
        finally:
            unfinished.remove(index)

    def kill() -> int | None:
        while unfinished:
            pid = victim(server.workers())
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                return pid
            time.sleep(0.01)
        return None

    return in_threads([*(lambda i=index: run(i) for index in range(len(calls))), kill])


def ranks_of(server: ServerProcess) -> list[psutil.Process]:
    """The processes of the only worker's ranks, in the order of their numbers; none where mpirun started none."""
    [mpirun] = server.worker_pids()
    found = {}
    for process in psutil.Process(mpirun).children():
        rank = process.environ().get("OMPI_COMM_WORLD_RANK")
        if rank is not None:
            found[int(rank)] = process
    return [found[rank] for rank in sorted(found)]


def with_descendants(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started."""
    return [process, *process.children(recursive=True)]


def wait_for_ends(processes: list[psutil.Process], seconds: float = 10) -> None:
    """Fail if one of them still runs after a while."""
    _, alive = psutil.wait_procs(processes, limit_s(seconds))
    alive = [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"still there: {alive}"


def shared_memory() -> set[str]:
    """What ranks keep where all processes see it: of Open MPI, of DeepSpeed."""
    names = ("ompi", "vader", "sm_segment", "pmix", "psm", "deepspeed")
    return {each.name for each in Path("/dev/shm").iterdir() if each.name.startswith(names)}
