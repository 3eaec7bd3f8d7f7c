# SPDX-License-Identifier: Apache-2.0
"""The bare ASGI conversation of an inference request: read the body, notice a client that leaves, answer.

Plain ASGI instead of Request and Response objects: this is the one path every request and every token takes.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from lmi.api.errors import LmiError, TooLargeError
from lmi.serving.attributes import HEADER
from lmi.serving.errors import body_of, headers_of, openai_body_of, status_of
from lmi.serving.timings import LONGEST, Measured, are_asked, told

if TYPE_CHECKING:
    from lmi.serving.sessions import Session

JSON = b"application/json"
JSON_LINES = b"application/jsonlines"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
"""With its charset, which is always this one: clients such as requests take Latin-1 for a text that names none."""
_DRAINED_BYTES = 1 << 30
_LIMIT = "max_request_size"
_LESS = f"Send less, or raise {_LIMIT}"
_INFERENCE_ID = "x-amzn-sagemaker-inference-id"
_WATCH_AFTER_S = 0.02
_LONGEST_ID = 128
_ID_PREFIX = secrets.token_hex(4)
_ids = itertools.count(1)


class ClientGoneError(LmiError):
    """The client closed its connection; nobody reads the answer."""


async def whole_body(receive: Receive, limit_bytes: int, *, named: str = _LIMIT, hint: str = _LESS) -> bytes:
    """The whole body of a request.

    Args:
        receive: as ASGI gives it.
        limit_bytes: most it may have.
        named, hint: what the limit is called, and what to do about it.
    Raises:
        TooLargeError: it is longer than the limit; what came of it is dropped, never collected.
        ClientGoneError: the client left before the end.
    """
    parts: list[bytes] = []
    n_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("client.gone", "the client closed the connection while sending")
        part = message.get("body", b"")
        n_bytes += len(part)
        if n_bytes <= limit_bytes:
            parts.append(part)
        elif n_bytes > _DRAINED_BYTES:
            break
        if not message.get("more_body", False):
            break
    refuse_too_large(n_bytes, limit_bytes, named=named, hint=hint)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def refuse_too_large(n_bytes: int, limit_bytes: int, *, named: str = _LIMIT, hint: str = _LESS) -> None:
    """Refuse a body that is longer than its limit.

    Args:
        n_bytes: what it has.
        limit_bytes, named, hint: as in ``whole_body``.
    Raises:
        TooLargeError: with both numbers.
    """
    if n_bytes > limit_bytes:
        message = f"the body has {n_bytes} bytes, the limit {named} is {limit_bytes}"
        raise TooLargeError("request.too-large", message, hint)


@dataclass(frozen=True, kw_only=True)
class Form:
    """How the answers of a schema look on the wire.

    Args:
        stream_type: content type of a stream.
        framed: one piece of a stream, from its JSON.
        last: what a whole stream ends with.
        error_body: an error as JSON, with its HTTP status.
        status: HTTP status of an error.
    """

    stream_type: bytes
    framed: Callable[[bytes], bytes]
    error_body: Callable[[LmiError, int], bytes]
    last: bytes = b""
    status: Callable[[LmiError], int] = status_of


_BREAKS = tuple((each.encode(), f"\\u{ord(each):04x}".encode()) for each in "\x85\u2028\u2029")


def unbroken(lines: bytes) -> bytes:
    """Lines of JSON, in which nothing but their ends is the end of a line, whoever reads them.

    Many clients take U+0085, U+2028 and U+2029 for ends of lines, too (all that go by Python's ``splitlines``); so they
    are escaped, as JSON allows.
    """
    for written, escaped in _BREAKS:
        if written in lines:
            lines = lines.replace(written, escaped)
    return lines


def _as_line(piece: bytes) -> bytes:
    return unbroken(piece) + b"\n"


def _as_event(piece: bytes) -> bytes:
    return b"data: " + unbroken(piece) + b"\n\n"


DONE = b"data: [DONE]\n\n"
"""What OpenAI's streams end with."""

LINES = Form(stream_type=JSON_LINES, framed=_as_line, error_body=body_of)
"""LMI's own: a line a piece."""

LMI_EVENTS = Form(stream_type=EVENT_STREAM, framed=_as_event, error_body=body_of)
"""LMI's own as server-sent events."""

EVENTS = Form(stream_type=EVENT_STREAM, framed=_as_event, last=DONE, error_body=openai_body_of)
"""OpenAI's: server-sent events."""


def with_attributes(headers: list[tuple[bytes, bytes]], text: bytes) -> list[tuple[bytes, bytes]]:
    """Headers with further custom attributes; without them where there is no room beside those that are there."""
    name = HEADER.encode()
    before = [value for each, value in headers if each.lower() == name]
    attributes = b";".join([*before, text])
    if len(attributes) > LONGEST:
        return headers
    return [*(each for each in headers if each[0].lower() != name), (name, attributes)]


class Exchange:
    """One HTTP request and its answer.

    Args:
        scope, receive, send: as ASGI gives them.
        form: how errors look; a route may set another one when it knows the model.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, form: Form = LINES) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_started = False
        self._peeked: bytes | None = None
        self.form = form
        self.arrived_s = time.monotonic()
        """When the whole body was there."""
        self.model_name = ""
        """The model that answers, once it is known."""
        self.measured: Sequence[Measured] = ()
        """What answers, once it was admitted."""
        self.n_bytes = 0
        """Of the body, when it was there."""
        self.session: Session | None = None
        """The one that the request belongs to."""
        self.more_headers: list[tuple[bytes, bytes]] = []
        """Those of the answer, whichever it will be."""
        self._watch: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self.headers: Mapping[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        number = f"{next(_ids):x}"
        given = (self.headers.get("x-request-id") or self.headers.get(_INFERENCE_ID, ""))[:_LONGEST_ID]
        self.request_id = given or f"{_ID_PREFIX}-{number}"
        # Callers may send one id twice; inside, each request has an id of its own.
        self.unique_id = f"{given}#{number}" if given else self.request_id

    @property
    def wanted_model(self) -> str | None:
        """The model that a request for no path of one names, in its query or a header. Source: DJL Serving."""
        query = self._scope.get("query_string", b"")
        asked = parse_qs(query.decode("latin-1")).get("model_name", [""])[-1] if query else ""
        return asked or self.headers.get("model_name") or None

    @property
    def accept(self) -> str:
        """The content types that the caller takes, as its header has them."""
        return self.headers.get("accept", "")

    async def body(self, limit_bytes: int) -> bytes:
        """The whole request body, as ``whole_body`` reads it; only once, so that nobody keeps it."""
        body, self._peeked = self._peeked, None
        if body is None:
            body = await whole_body(self._receive, limit_bytes)
            self.arrived_s, self.n_bytes = time.monotonic(), len(body)
        refuse_too_large(len(body), limit_bytes)
        return body

    async def peek(self, limit_bytes: int) -> bytes:
        """The whole request body, which ``body`` gives once more."""
        self._peeked = await self.body(limit_bytes)
        return self._peeked

    def watch(self, on_gone: Callable[[LmiError], None]) -> None:
        """Call ``on_gone`` as soon as the client closes its connection."""
        # Most plain answers are there before this: they are spared the task.
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(_WATCH_AFTER_S, self._start_watch, on_gone)

    def _start_watch(self, on_gone: Callable[[LmiError], None]) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._wait_for_end(on_gone))

    async def _wait_for_end(self, on_gone: Callable[[LmiError], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        on_gone(ClientGoneError("client.gone", "the client closed the connection"))

    def unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            # A task keeps the frames that its cancellation went through, and with them the request and its body.
            self._watch = None

    async def start(
        self,
        status: int,
        content_type: bytes,
        extra: list[tuple[bytes, bytes]] | None = None,
        *,
        is_whole: bool = False,
    ) -> None:
        """Send the head of the answer; ``is_whole`` where all of it is there."""
        headers = [(b"content-type", content_type), (b"x-request-id", self.request_id.encode("latin-1"))]
        headers += [*self.more_headers, *(extra or ())]
        if self.measured and are_asked(self.headers):
            text = told(self.measured, self.arrived_s, self.request_id, is_whole=is_whole)
            headers = with_attributes(headers, text.encode("ascii"))
        self._is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, is_last: bool = False) -> None:
        message: MutableMapping[str, Any] = {"type": "http.response.body", "body": body, "more_body": not is_last}
        await self._send(message)

    async def answer(self, body: bytes, content_type: bytes = JSON) -> None:
        """One whole answer."""
        await self.start(200, content_type, [(b"content-length", b"%d" % len(body))], is_whole=True)
        await self.write(body, is_last=True)

    async def fail(self, error: LmiError) -> None:
        """Answer with the error: as a status before the first byte, as the last line of a stream after it."""
        status = self.form.status(error)
        body = self.form.error_body(error, status)
        if self._is_started:
            await self.write(self.form.framed(body), is_last=True)
        else:
            length = (b"content-length", b"%d" % len(body))
            await self.start(status, JSON, [length, *headers_of(error)], is_whole=True)
            await self.write(body, is_last=True)
