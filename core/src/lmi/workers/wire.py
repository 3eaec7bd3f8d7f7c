# SPDX-License-Identifier: Apache-2.0
"""The wire between server and worker: length-prefixed msgpack frames over a local socket.

Two kinds of frame. The *stream* frames are the hot ones, at most one a step in each direction: Commands to the worker,
a list of (request id, chunk) to the server. Everything else is a tagged message.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import msgspec

from lmi.api import errors
from lmi.api.artifacts import ModelArtifacts
from lmi.api.engine import EngineLimits, EngineStats
from lmi.api.errors import EngineDeadError, LmiError, Problem, ProblemsError
from lmi.api.requests import GenerationRequest, TokenChunk
from lmi.custom.model_file import ModelFile

_HEADER = struct.Struct("<IB")
_STREAM = 1
_MESSAGE = 0


class ErrorReport(msgspec.Struct, frozen=True, kw_only=True):
    """An LmiError on its way between processes."""

    type: str
    code: str
    message: str
    hint: str = ""
    problems: list[Problem] = []

    @classmethod
    def of(cls, error: BaseException) -> ErrorReport:
        """Describe any exception; one that is no LmiError becomes an EngineDeadError with its type and text."""
        if isinstance(error, LmiError):
            problems = list(error.problems) if isinstance(error, ProblemsError) else []
            # A plugin's own kind of error crosses as the nearest one that both sides know.
            known = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
            return cls(type=known.__name__, code=error.code, message=error.message, hint=error.hint, problems=problems)
        text = f"{type(error).__name__}: {error}"
        return cls(type="EngineDeadError", code="engine.failed", message=text)

    def error(self) -> LmiError:
        """The exception this report describes."""
        kind: Any = getattr(errors, self.type, None)
        if not (isinstance(kind, type) and issubclass(kind, LmiError)):
            kind = EngineDeadError
        details = (self.problems, self.hint) if issubclass(kind, ProblemsError) else (self.hint,)
        error: LmiError = kind(self.code, self.message, *details)
        return error


# ---------------------------------------------------------------------------------------------- worker to server


class Hello(msgspec.Struct, frozen=True, tag=True):
    """First message of a worker; the server refuses another contract version."""

    contract_version: int
    core_version: str
    pid: int
    python: str


class Loading(msgspec.Struct, frozen=True, tag=True):
    """How far the load is; ``adapter`` is the one that is being loaded, if it is one."""

    stage: str
    fraction: float | None = None
    adapter: str = ""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The engine is loaded. ``lost_adapters`` are those that were asked for and could not be loaded, and why."""

    limits: EngineLimits
    abilities: list[str]
    lost_adapters: dict[str, ErrorReport] = {}


class Failed(msgspec.Struct, frozen=True, tag=True):
    """One request failed; the others go on."""

    request_id: str
    error: ErrorReport


class Dying(msgspec.Struct, frozen=True, tag=True):
    """The worker cannot load or the engine died; it exits right after this."""

    error: ErrorReport


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    stats: EngineStats


class Reply(msgspec.Struct, frozen=True, tag=True):
    """The result of a call, or one of many: only the last one of a stream has ``is_last``, and no result."""

    call_id: int
    result: Any = None
    error: ErrorReport | None = None
    is_last: bool = True


# ---------------------------------------------------------------------------------------------- server to worker


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What to load. ``options`` are plain values for the backend's configuration class; ``model_file`` is the model's
    own Python file, where something of it runs in the worker. ``adapters`` are loaded before the worker is ready, name
    -> folder; one that cannot be loaded ends the load if ``needs_adapters``."""

    model: str
    backend: str
    artifacts: ModelArtifacts
    options: dict[str, Any]
    heartbeat_interval_s: float
    model_file: ModelFile | None = None
    adapters: dict[str, str] = {}
    needs_adapters: bool = True


class Call(msgspec.Struct, frozen=True, tag=True):
    """Call a method of an ability; answered by a Reply with the same id, or by many if the method streams."""

    call_id: int
    ability: str
    method: str
    args: list[Any]


class CancelCall(msgspec.Struct, frozen=True, tag=True):
    """Nobody waits for this call any more; its last Reply says that it ended."""

    call_id: int


class Close(msgspec.Struct, frozen=True, tag=True):
    """Close the engine and exit with 0."""


_JOINED_BYTES = 1 << 16
"""Below this a copy costs less than a second write."""


class Commands(msgspec.Struct, frozen=True, array_like=True):
    """What the server wants since its last frame: groups of requests that arrived together, and cancellations."""

    groups: list[list[GenerationRequest]]
    cancelled_ids: list[str]


FromWorker: TypeAlias = Hello | Loading | Ready | Failed | Dying | Heartbeat | Reply
FromServer: TypeAlias = Load | Call | CancelCall | Close
Chunks: TypeAlias = list[tuple[str, TokenChunk]]


class Channel(asyncio.Protocol):
    """One end of the wire.

    Args:
        message_type: union of the tagged messages that come in.
        stream_type: type of the stream frames that come in.
        on_message, on_stream: called with each, in order, from the event loop.
        on_closed: called once when the other end is gone, with the reason if there is one.
    """

    def __init__(
        self,
        message_type: Any,
        stream_type: Any,
        *,
        on_message: Callable[[Any], None],
        on_stream: Callable[[Any], None],
        on_closed: Callable[[Exception | None], None],
    ) -> None:
        self._decode_message = msgspec.msgpack.Decoder(message_type).decode
        self._decode_stream = msgspec.msgpack.Decoder(stream_type).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._on_message = on_message
        self._on_stream = on_stream
        self._on_closed = on_closed
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def send(self, message: FromWorker | FromServer) -> None:
        self._write(_MESSAGE, message)

    def send_stream(self, frame: Commands | Chunks) -> None:
        self._write(_STREAM, frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _write(self, kind: int, value: Any) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        body = self._encode(value)
        header = _HEADER.pack(len(body), kind)
        if len(body) < _JOINED_BYTES:
            self._transport.write(header + body)
        else:
            self._transport.write(header)
            self._transport.write(body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_closed(exc)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        view = memoryview(buffer)
        while end - start >= _HEADER.size:
            size, kind = _HEADER.unpack_from(buffer, start)
            body = start + _HEADER.size
            if end - body < size:
                break
            frame = view[body : body + size]
            if kind == _STREAM:
                self._on_stream(self._decode_stream(frame))
            else:
                self._on_message(self._decode_message(frame))
            frame.release()
            start = body + size
        view.release()
        del buffer[:start]
