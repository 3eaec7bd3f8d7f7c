# SPDX-License-Identifier: Apache-2.0
"""How ranks know of each other's end: a connection from each to rank 0, with a beat every second.

A rank that dies closes it, one that hangs is silent, one that fails says why, and one whose rank 0 is gone ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from lmi.api.errors import EngineDeadError, LmiError
from lmi.workers.wire import ErrorReport

_BEAT_S = 1.0
_SILENT_S = 15.0
_LATE_S = 0.5
"""What rank 0 gets to fail by itself, in words of its own, before a failure of another rank ends it."""
_MPIRUN_S = 0.5
"""What mpirun gets to see that rank 0 ended, and to end the others, before they end themselves."""
_CONNECT_S = 30.0


class Here(msgspec.Struct, frozen=True, tag=True):
    """The first message of a rank."""

    token: str
    rank: int
    pid: int
    host: str


class Beat(msgspec.Struct, frozen=True, tag=True):
    """A rank is alive."""


class RankFailed(msgspec.Struct, frozen=True, tag=True):
    """A rank cannot go on."""

    error: ErrorReport


_Message: TypeAlias = Here | Beat | RankFailed
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Message).decode


class RankWatch:
    """Rank 0's end, in its event loop.

    Args:
        n_ranks: how many there are, rank 0 included.
        on_lost: told once, why the group cannot go on.
        silent_s: seconds without a beat after which a rank counts as hung.
    """

    def __init__(self, n_ranks: int, on_lost: Callable[[LmiError], None], *, silent_s: float = _SILENT_S) -> None:
        self.token = secrets.token_hex(16)
        self._n_ranks = n_ranks
        self._on_lost = on_lost
        self._silent_s = silent_s
        self._server: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None
        self._beats_s: dict[int, float] = {}
        self._names: dict[int, str] = {}
        self._is_closing = False

    async def start(self, *, is_on_one_machine: bool) -> int:
        """Listen for the others, and return the port."""
        self._server = await asyncio.start_server(self._hear, "127.0.0.1" if is_on_one_machine else None)
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """From here on the others may end."""
        self._is_closing = True

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rank = 0
        with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
            while line := await reader.readline():
                message = _decode(line)
                if isinstance(message, Here):
                    if not hmac.compare_digest(message.token, self.token):
                        break
                    rank = message.rank
                    self._names[rank] = f"rank {rank} of {self._n_ranks} (pid {message.pid} on {message.host})"
                elif not rank:
                    break
                self._beats_s[rank] = time.monotonic()
                if isinstance(message, RankFailed):
                    self._failed(rank, message.error.error())
                    return
        writer.close()
        if rank:
            self._lost(EngineDeadError("engine.rank-died", f"{self._names[rank]} is gone"), _LATE_S)

    def _failed(self, rank: int, error: LmiError) -> None:
        error.message = f"{self._names[rank]}: {error.message}"
        error.args = (str(error),)
        self._lost(error, _LATE_S)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            now_s = time.monotonic()
            for rank, beat_s in self._beats_s.items():
                if now_s - beat_s > self._silent_s:
                    text = f"{self._names[rank]} hangs: it was silent for {now_s - beat_s:.0f} s"
                    self._lost(EngineDeadError("engine.rank-hung", text), 0.0)
                    return

    def _lost(self, error: LmiError, late_s: float) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_later(late_s, self._on_lost, error)


class RankLink:
    """The end of any other rank, in a thread of its own.

    Args:
        rank: of this process.
        address, port: where rank 0 listens.
        token: shows that this is one of its ranks.
    """

    def __init__(self, rank: int, address: str, port: int, token: str) -> None:
        self._socket = socket.create_connection((address, port), timeout=_CONNECT_S)
        self._lock = threading.Lock()
        self._is_closing = False
        self._send(Here(token, rank, os.getpid(), socket.gethostname()))
        threading.Thread(target=self._run, name="lmi-link", daemon=True).start()

    def fail(self, error: BaseException) -> None:
        """Say why this rank cannot go on."""
        self._send(RankFailed(ErrorReport.of(error)))

    def close(self) -> None:
        """From here on rank 0 may end."""
        self._is_closing = True

    def _send(self, message: _Message) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(_encode(message) + b"\n")

    def _run(self) -> None:
        self._socket.settimeout(_BEAT_S)
        while True:
            try:
                if not self._socket.recv(1):
                    break
            except TimeoutError:
                self._send(Beat())
            except OSError:
                break
        if not self._is_closing:
            time.sleep(_MPIRUN_S)  # mpirun tells of the rank that it saw end first: let that be rank 0, not this one
            os.killpg(0, signal.SIGKILL)  # nobody can be answered any more
