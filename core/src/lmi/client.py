# SPDX-License-Identifier: Apache-2.0
"""A client of one HTTP connection: bytes are handed on in the moment in which they come.

It costs a fraction of what a general client costs, so that a load of many streams measures the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from lmi.api.errors import ConfigError

_FINAL_STATUS, _ERROR_STATUS = 200, 400


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a server is.

    Args:
        host, port: of a TCP socket.
        is_tls: whether it is https.
        socket_path: of a unix socket; then host and port say nothing.
        prefix: what stands before every path.
    """

    host: str = "localhost"
    port: int = 80
    is_tls: bool = False
    socket_path: str = ""
    prefix: str = ""

    @property
    def authority(self) -> str:
        """Host and port as a URL has them. Source: RFC 3986, 3.2.2."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def target_of(url: str) -> Target:
    """The server a URL names: ``http://``, ``https://`` or ``unix:PATH``.

    Raises:
        ConfigError: it names none.
    """
    if socket_path := url.removeprefix("unix:").removeprefix("//") if url.startswith("unix:") else "":
        return Target(socket_path=socket_path)
    with contextlib.suppress(ValueError):
        parts = urlsplit(url if "://" in url or url.startswith("unix:") else f"http://{url}")
        if parts.scheme in ("http", "https") and parts.hostname and not parts.query:
            is_tls = parts.scheme == "https"
            port = (443 if is_tls else 80) if parts.port is None else parts.port
            return Target(host=parts.hostname, port=port, is_tls=is_tls, prefix=parts.path.rstrip("/"))
    raise ConfigError(
        "client.bad-url", f"{url!r} names no server", (), "Write it like http://localhost:8080 or unix:/run/lmi.sock"
    )


@dataclass(kw_only=True)
class Answer:
    """What came back.

    Args:
        status: of HTTP.
        headers: names in lower case.
        body: whole; empty where somebody took the parts of a good answer as they came.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    @property
    def is_error(self) -> bool:
        """Whether it says that something is wrong."""
        return self.status >= _ERROR_STATUS


class AnswerTooLongError(ConnectionError):
    """An answer has more bytes than wanted; the rest is not waited for."""


class Connection(asyncio.Protocol):
    """One connection, kept for the next request as long as the server keeps it.

    Args:
        target: the server.
        headers: sent with every request, names in lower case; one without a value is left out.
        most_bytes: of the body of an answer that nobody takes as it comes; None for any number.
    """

    def __init__(
        self, target: Target, headers: Mapping[str, str] | None = None, *, most_bytes: int | None = None
    ) -> None:
        self._target = target
        self._most_bytes = most_bytes
        self._headers = {"host": target.authority, **(headers or {})}
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._done: asyncio.Future[None] | None = None
        self._answer = Answer()
        self._on_head: Callable[[Answer], None] | None = None
        self._on_part: Callable[[bytes], None] | None = None
        self._has_bytes = False

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        on_head: Callable[[Answer], None] | None = None,
        on_part: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Send a request and wait for the end of its answer.

        Args:
            method, path: of the request; the path comes after the target's prefix.
            body: JSON, unless ``content-type`` is among the headers.
            headers: of this request alone, before the connection's of the same name.
            on_head: called with status and headers of the answer, when they come.
            on_part: called with each part of the body of an answer that is no error, when it comes.
        Raises:
            AnswerTooLongError: it has more bytes than wanted.
            OSError: the server cannot be reached, or has cut the connection.
        """
        was_kept = self._transport is not None
        self._on_head, self._on_part = on_head, on_part
        try:
            return await self._ask(method, path, body, headers or {})
        except OSError:
            if not was_kept or self._has_bytes:
                raise
        # The server closed what it had kept open before it saw the request: that is no answer.
        return await self._ask(method, path, body, headers or {})

    async def connect(self) -> None:
        """Be connected, so that a request measured next does not pay for it.

        Raises:
            OSError: the server cannot be reached.
        """
        if self._transport is not None:
            return
        loop, target = asyncio.get_running_loop(), self._target
        made: Any
        if target.socket_path:
            made, _ = await loop.create_unix_connection(lambda: self, target.socket_path)
        else:
            context = ssl.create_default_context() if target.is_tls else None
            made, _ = await loop.create_connection(lambda: self, target.host, target.port, ssl=context)
        self._transport = cast(asyncio.Transport, made)

    async def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        self._has_bytes = False
        await self.connect()
        assert self._transport is not None  # noqa: S101
        self._answer = Answer()
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        fields = {"content-type": "application/json", **self._headers, **headers, "content-length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        self._transport.write(f"{method} {self._target.prefix}{path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        try:
            await self._done
        except BaseException:
            self.close()  # the rest of this answer is not the beginning of the next one
            raise
        return self._answer

    def close(self) -> None:
        """Leave, whether or not an answer is whole."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    # ------------------------------------------------------------------------------------- called by asyncio, httptools

    def data_received(self, data: bytes) -> None:
        self._has_bytes = True
        if self._parser is None or self._done is None or self._done.done():
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._done.done():
                self._done.set_exception(ConnectionError(f"the answer is no HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._done is None or self._done.done():
            return
        if exc is None and self._ends_with_connection():
            self._done.set_result(None)
            return
        cut = "the server closed the connection before its answer ended"
        self._done.set_exception(ConnectionError(f"{cut}: {exc}" if exc else cut))

    def _ends_with_connection(self) -> bool:
        """Whether an answer has begun whose end nothing else tells. Source: RFC 9112, 6.3."""
        return bool(self._answer.status) and not {"content-length", "transfer-encoding"} & set(self._answer.headers)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None  # noqa: S101
        status = self._parser.get_status_code()
        if status < _FINAL_STATUS:
            self._answer.headers.clear()
            return
        self._answer.status = status
        if self._on_head is not None:
            self._on_head(self._answer)

    def on_body(self, part: bytes) -> None:
        if self._on_part is not None and not self._answer.is_error:
            self._on_part(part)
        else:
            self._answer.body += part
            if self._most_bytes is not None and len(self._answer.body) > self._most_bytes and self._done is not None:
                self._answer.body.clear()
                if not self._done.done():
                    self._done.set_exception(AnswerTooLongError(f"an answer of more than {self._most_bytes} bytes"))

    def on_message_complete(self) -> None:
        assert self._parser is not None  # noqa: S101
        if self._parser.get_status_code() < _FINAL_STATUS:
            return  # the answer comes behind it. Source: RFC 9110, 15.2
        if not self._parser.should_keep_alive():
            self.close()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def error_of(body: Any, status: int) -> tuple[str, str]:
    """Code and message of an error, as LMI, OpenAI and others write it; LMI's code is not in its message again.

    Args:
        body: decoded, or its bytes.
        status: of HTTP; the code, as ``http.503``, where the body has none.
    """
    told: Any = body
    if isinstance(body, (bytes, bytearray)):
        try:
            told = json.loads(body)
        except ValueError:
            told = body.decode(errors="replace")
    code, message = f"http.{status}", told
    if isinstance(told, dict):
        error = told.get("error")
        if isinstance(error, dict):
            code, message = error.get("code") or error.get("type") or code, error.get("message", error)
        else:
            named = error if isinstance(error, str) and " " not in error else None
            code, message = named or code, told.get("message") or told.get("detail") or error or told
    text = message if isinstance(message, str) else json.dumps(message)
    return str(code), text.removeprefix(f"{code}: ")
