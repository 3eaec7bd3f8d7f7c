# SPDX-License-Identifier: Apache-2.0
"""One run of the command that starts the server, with all processes that come of it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from lmi.api.errors import ConfigError

SAFE_PORTS = (21000, 21999)
"""``SAGEMAKER_SAFE_PORT_RANGE`` of every run: away from what servers choose by themselves."""

_KEPT_LINES = 400
_PORT_MARK = "{port}"


class Life:
    """The command, started; it has a session of its own and ends with ``kill`` at the latest.

    Args:
        words: the command.
        port: what it is told to bind.
        environ: further variables.
    Raises:
        ConfigError: there is no such program.
    """

    def __init__(self, words: Sequence[str], port: int, environ: Mapping[str, str] | None = None) -> None:
        self.words = [each.replace(_PORT_MARK, str(port)) for each in words]
        self.port = port
        variables = {"SAGEMAKER_BIND_TO_PORT": str(port), "SAGEMAKER_SAFE_PORT_RANGE": "{}-{}".format(*SAFE_PORTS)}
        try:
            self.process = subprocess.Popen(
                self.words,
                env={**os.environ, **variables, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            hint = "Write the command as in a shell, without its operators; for those: sh -c 'exec ...'"
            raise ConfigError("conformance.no-command", f"{shlex.join(self.words)!r}: {error}", (), hint) from error
        self.began_s = time.monotonic()
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._seen: dict[int, psutil.Process] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @staticmethod
    def names_its_port(words: Sequence[str]) -> bool:
        """Whether a command says by itself where the port goes."""
        return any(_PORT_MARK in each for each in words)

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - it was started with a pipe
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.decode("utf-8", "replace").rstrip())

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.began_s

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal; None while it runs."""
        return self.process.poll()

    def last_lines(self, n_lines: int) -> list[str]:
        """Of the output, empty lines left out."""
        return [line for line in list(self.lines) if line.strip()][-n_lines:]

    def processes(self) -> list[psutil.Process]:
        """Those that live, of all in its session and all ever seen below it: one that lost its parent, too."""
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.process.pid)
            for each in (root, *root.children(recursive=True)):
                self._seen.setdefault(each.pid, each)
        for pid in psutil.pids():
            with contextlib.suppress(psutil.Error, OSError):
                if pid not in self._seen and os.getsid(pid) == self.process.pid:
                    self._seen[pid] = psutil.Process(pid)
        return [each for each in self._seen.values() if _is_alive(each)]

    def listening(self) -> set[tuple[str, int]]:
        """Addresses on which its processes listen; empty where they cannot be seen."""
        found = set()
        for each in self.processes():
            with contextlib.suppress(psutil.Error):
                found |= {(at.laddr.ip, at.laddr.port) for at in _connections(each) if at.status == psutil.CONN_LISTEN}
        return found

    def terminate(self) -> None:
        """SIGTERM to the command alone, as a container's first process gets it."""
        self.processes()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None where it still runs after so long."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(min(1.0, seconds))
        return code

    def kill(self) -> None:
        """End whatever is left of it."""
        for each in self.processes():
            with contextlib.suppress(psutil.Error):
                each.kill()
        self.process.wait()
        self._reader.join(1)


def _connections(process: psutil.Process) -> list[Any]:
    ask = getattr(process, "net_connections", None) or process.connections
    return list(ask(kind="tcp"))


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder -> its size and the time of its last change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(OSError):
            stat = path.lstat()
            found[str(path.relative_to(folder))] = (stat.st_size, stat.st_mtime_ns)
    return found
