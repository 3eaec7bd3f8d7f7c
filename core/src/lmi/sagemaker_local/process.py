# SPDX-License-Identifier: Apache-2.0
"""A container's process: started as the platform starts it, told to stop as it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_BLOCK_BYTES = 1 << 16
_PORT = re.compile(r"\$(?:PORT|SAGEMAKER_BIND_TO_PORT)\b|\$\{(?:PORT|SAGEMAKER_BIND_TO_PORT)\}")
_LEFT_OUT = (
    "OPTION_", "SERVING_", "SAGEMAKER_", "SM_", "MODEL_SERVER_", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "HF_MODEL_",
    "HF_TASK", "TENSOR_PARALLEL_DEGREE",
)  # fmt: skip
"""Beginnings of variables that configure a server, and that an endpoint has only from its own definition."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a container is started.

    Args:
        command: words; ``$PORT`` and ``$SAGEMAKER_BIND_TO_PORT`` in them are filled in.
        environ: what the endpoint's definition says.
        folder: where it runs.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    folder: Path


def environment(own: Mapping[str, str], port: int) -> dict[str, str]:
    """What a container finds in its environment: this machine's, without what configures a server, and its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}
    return {**kept, "SAGEMAKER_BIND_TO_PORT": str(port), "PORT": str(port), **own}


class Process:
    """One that runs; its output is shown, each line behind its name.

    Args:
        child: the process.
        name: shown before its lines.
    """

    def __init__(self, child: asyncio.subprocess.Process, name: str) -> None:
        self._child = child
        self._name = name
        self._relay = asyncio.create_task(self._show())

    @classmethod
    async def start(cls, launch: Launch, port: int, name: str) -> Process:
        """Start it.

        Raises:
            OSError: there is no such program.
        """
        words = [_PORT.sub(str(port), word) for word in launch.command]
        child = await asyncio.create_subprocess_exec(
            *words,
            env=environment(launch.environ, port),
            cwd=launch.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the emulator, which stops it as the platform does
        )
        return cls(child, name)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._child.returncode is None

    async def ended(self) -> str:
        """Wait for its end; how it ended."""
        code = await self._child.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def stop(self, stop_s: float) -> bool:
        """SIGTERM, and SIGKILL for what is left; whether the process itself ended in time.

        Args:
            stop_s: between the two.
        """
        family = self._family()
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()
        ended = asyncio.ensure_future(self._child.wait())
        done, _ = await asyncio.wait({ended}, timeout=stop_s)
        self.kill()
        for process in family:  # the end of a container's first process is that of all others
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await ended
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._relay, 1)
        return bool(done)

    def kill(self) -> None:
        """SIGKILL, at once, for all in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._child.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    async def _show(self) -> None:
        assert self._child.stdout is not None  # noqa: S101
        left = b""
        while block := await self._child.stdout.read(_BLOCK_BYTES):
            *lines, left = (left + block).split(b"\n")
            self._print(lines)
        self._print([left] if left else [])

    def _print(self, lines: list[bytes]) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more; the container may go on
            for line in lines:
                print(f"{self._name} | {line.decode(errors='replace')}")
            sys.stdout.flush()
