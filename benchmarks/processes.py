# SPDX-License-Identifier: Apache-2.0
"""Programs under measurement: started, found ready, priced in CPU seconds, ended with all they started."""

from __future__ import annotations

import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

STOP_LIMIT_S = 10.0
_QUIET_SHARE = 0.06
_P = TypeVar("_P", bound="Program")
_T = TypeVar("_T")


class Program:
    """A running program and all processes under it; a context manager that ends them.

    Args:
        name: for messages.
        command: argv.
        environ: the whole environment; None inherits.
        cwd: working directory; None inherits.
        is_told: whether ``tell`` is used; otherwise the program finds its stdin empty.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        is_told: bool = False,
    ) -> None:
        self.name = name
        stdin = subprocess.PIPE if is_told else subprocess.DEVNULL
        self._log = tempfile.NamedTemporaryFile("w+", prefix=f"bench-{name}-", suffix=".log", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, cwd=cwd, env=environ, stdin=stdin, stdout=self._log, stderr=subprocess.STDOUT
        )
        self.root = psutil.Process(self._process.pid)

    def __enter__(self: _P) -> _P:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the program, politely first, and everything it started."""
        processes = self.tree()
        self._process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=STOP_LIMIT_S)
        for process in alive:
            process.kill()
        self._process.wait()
        self._log.close()

    def tree(self) -> list[psutil.Process]:
        """The program's process and all its living descendants."""
        try:
            return [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """User and system seconds of the whole tree so far, ended children included."""
        return sum(cpu_s(process) for process in self.tree())

    def tell(self, line: str) -> None:
        """Write a line to the program's stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def log(self) -> str:
        """What the program has written to stdout and stderr."""
        return Path(self._log.name).read_text(errors="replace")

    def wait_for_line(self, pattern: str, limit_s: float) -> re.Match[str]:
        """The first match of the pattern in the program's output; ends the benchmark when there is none in time."""
        end_s = time.monotonic() + limit_s
        while True:
            match = re.search(pattern, self.log())
            if match:
                return match
            self._fail_if_over(end_s, limit_s)
            time.sleep(0.05)

    def wait_for_answer(self, url: str, limit_s: float) -> None:
        """Wait until the URL answers anything below 500."""
        end_s = time.monotonic() + limit_s
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                return
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    return
            except OSError:
                pass
            self._fail_if_over(end_s, limit_s)
            time.sleep(0.1)

    def _fail_if_over(self, end_s: float, limit_s: float) -> None:
        code = self._process.poll()
        if code is None and time.monotonic() < end_s:
            return
        what = f"is not ready after {limit_s:.0f} s" if code is None else f"ended with exit code {code}"
        raise SystemExit(f"{self.name} {what}; its output:\n{self.log()[-4000:]}")


class Lmi(Program):
    """A ready ``lmi serve`` of this Python's environment.

    Args:
        arguments: of ``lmi serve``: a model, ``-o key=value``.
        load_limit_s: longest load.
        environ: the whole environment; None inherits.
    """

    def __init__(self, *arguments: str, load_limit_s: float = 300, environ: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "lmi", "serve", "--host", "127.0.0.1", "--port", "0", *arguments]
        super().__init__("lmi", command, environ=environ)
        try:
            self.url = self.wait_for_line(r"is ready: (http://\S+)/invocations", load_limit_s)[1]
            self.worker = psutil.Process(self.health()["models"][0]["workers"][0]["pid"])
        except BaseException:
            self.stop()
            raise

    def health(self) -> Any:
        return json.loads(get(f"{self.url}/health"))

    def counter(self, name: str) -> float:
        """A counter of ``/metrics``, summed over its labels."""
        values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", get(f"{self.url}/metrics"), re.MULTILINE)
        return sum(map(float, values))


class Noise:
    """What programs that are not ours take of the machine, from now on."""

    def __init__(self) -> None:
        self._started_s, self._others_s = time.monotonic(), self._read()

    def share(self) -> float:
        """Of all cores, from 0 to 1, since the start."""
        wall_s = time.monotonic() - self._started_s
        return max(0.0, (self._read() - self._others_s) / wall_s / (psutil.cpu_count() or 1))

    def _read(self) -> float:
        times, own = psutil.cpu_times(), psutil.Process()
        idle_s = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0)
        return float(sum(times) - idle_s - sum(map(cpu_s, [own, *own.children(recursive=True)])))


def quietest(measure: Callable[[], _T], others: Callable[[_T], float], patience_s: float) -> _T:
    """Measure until other programs leave the machine alone; the least disturbed result.

    Args:
        measure: measures once.
        others: tells from a result which share of the machine other programs used.
        patience_s: how long to wait and to measure again; 0 takes the first result.
    """
    end_s = time.monotonic() + patience_s
    best: _T | None = None
    while best is None or (others(best) > _QUIET_SHARE and time.monotonic() < end_s):
        while time.monotonic() < end_s and psutil.cpu_percent(interval=1.0) / 100 > _QUIET_SHARE:
            pass
        result = measure()
        if best is None or others(result) < others(best):
            best = result
    return best


def cpu_s(process: psutil.Process) -> float:
    """User and system seconds of one process and of its children that have ended; 0 when it is gone."""
    try:
        return sum(process.cpu_times()[:4])
    except psutil.NoSuchProcess:
        return 0.0


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        text: str = response.read().decode()
        return text


def post(url: str, body: Mapping[str, Any]) -> str:
    """Send JSON and return the whole answer, streamed or not."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        text: str = response.read().decode()
        return text


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def demo_model() -> str:
    """The folder of the demo model, which is made where it is missing."""
    script = Path(__file__).parents[1] / "examples" / "demo_model.py"
    made = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=True)
    return made.stdout.strip().splitlines()[-1]


def exit_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this program as Ctrl-C does: with everything it started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def machine() -> str:
    """One line about the machine and how busy it is without us: noise to know of when reading the numbers."""
    busy = psutil.cpu_percent(interval=1.0)
    return f"{psutil.cpu_count()} cores, {busy:.0f}% busy before the start; Python {sys.version.split()[0]}"


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def verdict(value: float, bar: float, *, at_most: bool = False) -> str:
    """The value beside its bar, and whether it keeps it."""
    keeps = value <= bar if at_most else value >= bar
    return f"{value:.2f} (bar {'<=' if at_most else '>='} {bar:g}: {'kept' if keeps else 'MISSED'})"
