# SPDX-License-Identifier: Apache-2.0
"""One operating-system process: start it, relay what it prints, and say why it ended."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOG = logging.getLogger("lmi.worker")
CGROUP_EVENTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
"""Where the kernel counts them: cgroup v2, and v1."""
_N_LAST_LINES = 30
_LINE_LIMIT_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
_SHELLS_SIGNAL = 128
_ASKED_S = 4.0
"""What a process that is asked to end gets for it."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """Why a process ended.

    Args:
        code: exit code, None when a signal ended it.
        signal_name: ``SIGSEGV``, ``SIGKILL``, ...; empty when it exited by itself.
        is_out_of_memory: the kernel's out-of-memory killer struck in this container meanwhile.
        last_lines: the last lines it printed.
    """

    code: int | None
    signal_name: str = ""
    is_out_of_memory: bool = False
    last_lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.is_out_of_memory:
            return f"killed by {self.signal_name}: the kernel's out-of-memory killer struck"
        if self.signal_name:
            return f"killed by {self.signal_name}"
        return f"exited with code {self.code}"


def n_oom_kills() -> int:
    """How often the out-of-memory killer struck in this container; 0 where it cannot be read."""
    for file in CGROUP_EVENTS:
        try:
            fields = dict(line.split() for line in file.read_text().splitlines())
            return int(fields["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return 0


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


def signal_at_parents_death(number: signal.Signals) -> None:
    """Ask the kernel to send this process a signal when the thread that started it is gone (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _begin_until_parents_death() -> None:
    os.setpgrp()
    signal_at_parents_death(signal.SIGTERM)


class Process:
    """A child process whose output is relayed line by line to the log, under a label."""

    def __init__(self, process: asyncio.subprocess.Process, label: str, *, is_asked_to_end: bool = False) -> None:
        self._process = process
        self._label = label
        self._is_asked_to_end = is_asked_to_end
        self._last_lines: deque[str] = deque(maxlen=_N_LAST_LINES)
        self._n_oom_kills = n_oom_kills()
        self._relay = asyncio.create_task(self._relay_lines())

    @classmethod
    async def start(
        cls, command: Sequence[str], *, label: str, environ: Mapping[str, str], is_asked_to_end: bool = False
    ) -> Process:
        """Start it in a process group of its own.

        Args:
            command, environ: what is run, in which variables.
            label: for the log.
            is_asked_to_end: whether it ends what it started by SIGTERM, and gets that when it is killed, and when this
                process is gone; else it has to find out by itself.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environ),
            limit=_LINE_LIMIT_BYTES,
            # A group of its own: Ctrl-C reaches the server alone, which drains, and the whole group can be ended.
            preexec_fn=_begin_until_parents_death if is_asked_to_end else os.setpgrp,
        )
        return cls(process, label, is_asked_to_end=is_asked_to_end)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End the process and everything it started."""
        if self._is_asked_to_end:
            self._is_asked_to_end = False
            asyncio.get_running_loop().call_later(_ASKED_S, self.kill)
            self._signal(signal.SIGTERM)
        else:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:  # afterwards the number may be somebody else's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def wait(self) -> Exit:
        """Wait until it ended; then end what it may have left running."""
        code = await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await asyncio.wait([self._relay], timeout=1)
        self._relay.cancel()
        lines = tuple(self._last_lines)
        # What started others tells of a child's death by a signal as shells do.
        was_killed = code in (-signal.SIGKILL, _SHELLS_SIGNAL + signal.SIGKILL)
        struck = was_killed and n_oom_kills() > self._n_oom_kills
        if code >= 0:
            name = signal_name(signal.SIGKILL) if struck else ""
            return Exit(code=code, signal_name=name, is_out_of_memory=struck, last_lines=lines)
        return Exit(code=None, signal_name=signal_name(-code), is_out_of_memory=struck, last_lines=lines)

    async def _relay_lines(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - asked for above
        while True:
            try:
                line = await stdout.readline()
            except ValueError:  # a line longer than the limit was dropped
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text:
                self._last_lines.append(text)
                _LOG.info("[%s] %s", self._label, text)
