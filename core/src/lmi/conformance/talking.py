# SPDX-License-Identifier: Apache-2.0
"""One HTTP connection to the server that is judged; every exchange on it is evidence."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmi.client import Target
from lmi.conformance.rules import Broken

_MOST_SHOWN = 400
_PART_BYTES = 1 << 16
_OK = 200


class Unanswered(Broken):
    """There was no answer, or not a whole one, in time."""


def excerpt(content: bytes) -> str:
    """The beginning of a body, for people."""
    text = content[: _MOST_SHOWN * 4].decode("utf-8", "replace")
    return text if len(content) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(content)} bytes)"


@dataclass(kw_only=True)
class Answer:
    """What came back, when.

    Args:
        request: method, path, and what of the headers matters.
        sent: beginning of the body that was sent.
        status, headers: of HTTP; names in lower case. Status 0: there was no answer.
        parts: seconds since the request was begun, and the bytes that came then.
        connect_s: what the connection took; 0 for one that was there.
        began_s: when the request was begun (time.monotonic).
        seconds: from then to the end of the answer.
        is_http_1_1: whether the answer says so.
        failure: why it is not whole; empty if it is.
    """

    request: str
    sent: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    connect_s: float = 0.0
    began_s: float = 0.0
    seconds: float = 0.0
    is_http_1_1: bool = True
    failure: str = ""

    @property
    def ended_s(self) -> float:
        return self.began_s + self.seconds

    @property
    def is_ok(self) -> bool:
        return self.status == _OK and not self.failure

    @property
    def body(self) -> bytes:
        return b"".join(part for _, part in self.parts)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def content_type(self) -> str:
        """Without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            Broken: it is none.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Broken(f"{self.told()}, which is not JSON: {error}") from None

    def told(self) -> str:
        """In words: what was asked, and what came back."""
        if not self.status:
            return f"{self.request} was not answered: {self.failure}"
        body = " ".join(excerpt(self.body).split())
        whole = f", not whole: {self.failure}" if self.failure else ""
        told = f"{self.request} was answered {self.status} after {self.seconds:.2f} s{whole}"
        return told + (f": {body}" if body else "")

    def as_evidence(self) -> dict[str, Any]:
        shown = {"request": self.request, "sent": self.sent, "status": self.status, "seconds": round(self.seconds, 3),
                 "headers": self.headers, "answer": excerpt(self.body), "failure": self.failure}  # fmt: skip
        return {key: value for key, value in shown.items() if value not in ("", {})}


class Line:
    """One connection. Use it as a context; it is not opened again by itself.

    Args:
        target: the server.
        limit_s: for one answer, whole.
    """

    def __init__(self, target: Target, limit_s: float) -> None:
        self._prefix = target.prefix
        self._limit_s = limit_s
        if target.is_tls:
            context = ssl.create_default_context()
            self._http: http.client.HTTPConnection = http.client.HTTPSConnection(
                target.host, target.port, timeout=limit_s, context=context
            )
        else:
            self._http = http.client.HTTPConnection(target.host, target.port, timeout=limit_s)
        self._http.auto_open = 0
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._n_left: int | None = None
        self._began_s = 0.0

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, whether or not an answer is whole, and though another thread may wait for its next part."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket = None
        if self._response is not None:
            self._response.close()
            self._response = None
        self._http.close()

    def connect(self) -> float:
        """Be connected; the seconds that took, 0 if it was already.

        Raises:
            OSError: nobody is there.
        """
        if self._http.sock is not None:
            return 0.0
        began_s = time.monotonic()
        self._http.connect()
        self._socket = self._http.sock
        return time.monotonic() - began_s

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        is_chunked: bool = False,
    ) -> Answer:
        """Send a request and wait for the whole answer; one that did not come has a ``failure``."""
        answer = self.begin(method, path, body, headers, is_chunked=is_chunked)
        self.rest(answer)
        return answer

    def begin(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        is_chunked: bool = False,
    ) -> Answer:
        """Send a request and wait for the head of the answer; ``part`` and ``rest`` read what follows it."""
        self._began_s = time.monotonic()
        answer = Answer(request=_shown(method, path, headers), sent=excerpt(body), began_s=self._began_s)
        try:
            answer.connect_s = self.connect()
            self._send(method, path, body, {**(headers or {})}, is_chunked=is_chunked)
            response = self._http.getresponse()
            self._expect_in_time()
        except (OSError, http.client.HTTPException) as error:
            self._fail(answer, error)
            return answer
        self._response, self._n_left = response, response.length
        answer.status, answer.is_http_1_1 = response.status, response.version == 11
        answer.headers = {name.lower(): value for name, value in response.getheaders()}
        answer.seconds = time.monotonic() - self._began_s
        if method == "HEAD" and (behind := self._behind_head(response)):
            answer.parts.append((answer.seconds, behind))
        return answer

    def _behind_head(self, response: http.client.HTTPResponse) -> bytes:
        """What came with an answer that has no body; what comes later stands before the next answer."""
        assert self._socket is not None  # noqa: S101 - it was answered
        self._socket.settimeout(0)
        try:
            return response.fp.peek()
        except OSError:
            return b""
        finally:
            self._socket.settimeout(self._limit_s)

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str], *, is_chunked: bool) -> None:
        if is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        pieces = (body[start : start + _PART_BYTES] for start in range(0, len(body), _PART_BYTES))
        try:
            sent: Any = pieces if is_chunked else (body or None)
            self._http.request(method, self._prefix + path, sent, headers, encode_chunked=is_chunked)
        except (BrokenPipeError, ConnectionResetError):
            if self._http.sock is None:
                raise
            # It may have been answered before it was read, as a body too large is: then the answer is there.

    def rest(self, answer: Answer) -> None:
        """Read the body of an answer to its end."""
        while self.part(answer):
            pass

    def part(self, answer: Answer) -> bytes:
        """The next part of an answer's body when it comes, which is in the answer, too; empty at the end."""
        if self._response is None:
            return b""
        try:
            part = self._read(self._response)
            answer.seconds = time.monotonic() - self._began_s
            if part:
                answer.parts.append((answer.seconds, part))
            self._expect_in_time()
            if part:
                return part
            if self._n_left:
                raise ConnectionError(f"the connection was closed {self._n_left} bytes before the end of the answer")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._fail(answer, error)
        except AttributeError:  # another thread closed the line: http.client has dropped its file
            self._fail(answer, ConnectionError("this side closed the connection"))
        if self._response is not None:
            self._response.close()
            self._response = None
        return b""

    def _expect_in_time(self) -> None:
        """Raise TimeoutError if the limit is over: each wait for bytes has it alone, and none of them was as long."""
        if time.monotonic() - self._began_s > self._limit_s:
            raise TimeoutError(f"its end had not come after {self._limit_s:g} s")

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        if self._n_left is None:
            return response.read1(_PART_BYTES)
        # Counted here: read1 of older Pythons does not know where a body of known length ends.
        part = response.read1(min(_PART_BYTES, self._n_left)) if self._n_left else b""
        self._n_left -= len(part)
        return part

    def _fail(self, answer: Answer, error: Exception) -> None:
        answer.seconds = time.monotonic() - self._began_s
        reason = str(error) or type(error).__name__
        if isinstance(error, (TimeoutError, socket.timeout)) and "after" not in reason:
            reason = f"nothing came for {self._limit_s:g} s"
        answer.failure = f"{reason} ({answer.seconds:.2f} s after it was sent)"
        self.close()


def _shown(method: str, path: str, headers: Mapping[str, str] | None) -> str:
    kept = [f"{name}: {value[:80]}" for name, value in (headers or {}).items() if value != "application/json"]
    return f"{method} {path}" + (f" ({', '.join(kept)})" if kept else "")


def sample_sum(exposition: str, name: re.Pattern[str]) -> tuple[str, float] | None:
    """The first metric of Prometheus' text format whose name matches, and the sum of its samples."""
    found: dict[str, float] = {}
    for line in exposition.splitlines():
        match = re.match(r"([a-zA-Z_:][\w:]*)(?:\{.*\})?\s+([-+0-9.eE]+)", line)
        if match and name.search(match[1]):
            found[match[1]] = found.get(match[1], 0.0) + float(match[2])
    return next(iter(found.items()), None)
