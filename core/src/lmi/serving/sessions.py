# SPDX-License-Identifier: Apache-2.0
"""Stateful sessions: requests of one caller that belong together, and the conversation that they may keep here.

Source: SageMaker's stateful sessions; ``requestType`` in the body as DJL Serving and AWS's hosting library have it.
"""

from __future__ import annotations

import datetime
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lmi.api.errors import NotFoundError, OutOfMemoryError, RequestError, UnsupportedError

if TYPE_CHECKING:
    from lmi.config.options import ModelOptions
    from lmi.serving.streaming import Exchange

ID = "x-amzn-sagemaker-session-id"
NEW_ID = b"x-amzn-sagemaker-new-session-id"
CLOSED_ID = b"x-amzn-sagemaker-closed-session-id"
NEW = "NEW_SESSION"
CLOSE = "CLOSE"

_LOG = logging.getLogger(__name__)
_TYPE = "requestType"
_QUOTED_TYPE = b'"requestType"'
_MOST_TYPE_BYTES = 4096
_OVERHEAD_BYTES = 1024
"""What a session takes that keeps nothing."""
_MB = 10**6


class Session:
    """One session.

    Args:
        lasts_s: from its last use to its end.
    """

    def __init__(self, lasts_s: float) -> None:
        self.id = str(uuid.uuid4())
        self.messages: list[dict[str, Any]] = []
        self.n_bytes = _OVERHEAD_BYTES
        self._lasts_s = lasts_s
        self.use()

    def use(self) -> None:
        """It goes on from now."""
        self.ends_s = time.time() + self._lasts_s

    @property
    def header(self) -> bytes:
        """What its caller is told: the id, and when it ends."""
        end = datetime.datetime.fromtimestamp(self.ends_s, datetime.timezone.utc)
        return f"{self.id}; Expires={end:%Y-%m-%dT%H:%M:%SZ}".encode()


class Sessions:
    """The sessions of one model.

    Args:
        options: of the model.
    """

    def __init__(self, options: ModelOptions) -> None:
        self._is_on = options.enable_stateful_sessions
        self._lasts_s = options.sessions_expiration
        self._most_bytes = options.sessions_memory_mb * _MB
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # the one that ends first is the first
        self._n_bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self) -> Session:
        """A new session.

        Raises:
            UnsupportedError: the model has none.
            OutOfMemoryError: there are too many.
        """
        if not self._is_on:
            message = "a session was asked for, and option.enable_stateful_sessions of this model is off"
            raise UnsupportedError("request.unsupported", message, "Send requests without X-Amzn-SageMaker-Session-Id")
        self._make_room(_OVERHEAD_BYTES)
        session = Session(self._lasts_s)
        self._sessions[session.id] = session
        self._n_bytes += session.n_bytes
        return session

    def use(self, session_id: str) -> Session:
        """The session of an id, which lasts longer now.

        Raises:
            NotFoundError: there is none, or it has ended.
        """
        session = self._sessions.get(session_id)
        if session is not None and session.ends_s < time.time():
            self._drop(session)
            session = None
        if session is None:
            raise NotFoundError(
                "session.unknown", "there is no session of that id; it was closed, or it has ended",
                f"Open one: send {NEW} as the session's id",
            )  # fmt: skip
        session.use()
        self._sessions.move_to_end(session_id)
        return session

    def close(self, session_id: str) -> None:
        """End a session.

        Raises:
            NotFoundError: there is none, or it has ended.
        """
        self._drop(self.use(session_id))

    def refuse_full(self, messages: Sequence[dict[str, Any]]) -> None:
        """Refuse to keep messages for which there is no room, before they are answered.

        Raises:
            OutOfMemoryError: there is none.
        """
        self._make_room(len(msgspec.json.encode(messages)))

    def keep(self, session: Session, messages: Sequence[dict[str, Any]]) -> None:
        """Add messages to what a session keeps; one that was closed meanwhile keeps nothing."""
        if self._sessions.get(session.id) is not session:
            return
        n_bytes = len(msgspec.json.encode(messages))
        session.messages += messages
        session.n_bytes += n_bytes
        self._n_bytes += n_bytes

    def _make_room(self, n_bytes: int) -> None:
        if self._n_bytes + n_bytes <= self._most_bytes:
            return
        now_s = time.time()
        while self._sessions and (first := next(iter(self._sessions.values()))).ends_s < now_s:
            self._drop(first)
        if self._n_bytes + n_bytes > self._most_bytes:
            raise OutOfMemoryError(
                "session.no-room",
                f"{len(self._sessions)} sessions hold {self._n_bytes} bytes, and {n_bytes} more would be over "
                f"option.sessions_memory_mb={self._most_bytes // _MB}",
                "Close sessions that are over, or raise the limit",
            )

    def _drop(self, session: Session) -> None:
        del self._sessions[session.id]
        self._n_bytes -= session.n_bytes


async def begun(sessions: Sessions, exchange: Exchange, body: bytes) -> bool:
    """Open, find or close the session of a request; whether that was all it asked for, and it was answered.

    Args:
        sessions: of the model.
        exchange: the request; it gets its session, and its answer the header that tells of it.
        body: of the request.
    Raises:
        NotFoundError, OutOfMemoryError, UnsupportedError: as ``Sessions`` has them.
        RequestError: a session is to be closed, and none is named.
    """
    asked, kind = exchange.headers.get(ID, ""), ""
    if asked or (len(body) <= _MOST_TYPE_BYTES and _QUOTED_TYPE in body):
        kind = _type_of(body)
    if not asked and not kind:
        return False
    if kind == CLOSE:
        if not asked or asked == NEW:
            raise RequestError("request.invalid", "no session is named that is to be closed", f"Send its id as {ID}")
        sessions.close(asked)
        exchange.more_headers.append((CLOSED_ID, asked.encode("latin-1")))
        await exchange.answer(msgspec.json.encode({"session_id": asked, "status": "closed"}))
        return True
    session = join(sessions, exchange, NEW if kind == NEW else asked)
    if kind == NEW:
        await exchange.answer(msgspec.json.encode({"session_id": session.id, "status": "open"}))
    return kind == NEW


def join(sessions: Sessions, exchange: Exchange, asked: str) -> Session:
    """Give a request the session that it asks for, a new one where it wants that.

    Raises:
        NotFoundError, OutOfMemoryError, UnsupportedError: as ``Sessions`` has them.
    """
    if asked == NEW:
        exchange.session = session = sessions.open()
        exchange.more_headers.append((NEW_ID, session.header))
    else:
        exchange.session = session = sessions.use(asked)
    return session


def _type_of(body: bytes) -> str:
    """What a body asks of its session and nothing else; empty where it is a request for the model."""
    if len(body) > _MOST_TYPE_BYTES:
        return ""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    is_alone = isinstance(data, Mapping) and set(data) == {_TYPE}
    return data[_TYPE] if is_alone and data[_TYPE] in (NEW, CLOSE) else ""
