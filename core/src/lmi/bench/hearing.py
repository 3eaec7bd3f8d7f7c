# SPDX-License-Identifier: Apache-2.0
"""One streamed answer while it comes, as JSON lines or as server-sent events."""

from __future__ import annotations

import json
import time
from typing import Any

from lmi.client import error_of

_OK = 200


class Hearing:
    """What one client hears.

    Attributes:
        sent_s: when it was asked for (time.perf_counter).
        arrivals_s: moments at which tokens came; those of one read have one moment.
        n_pieces: lines and events with text.
        n_told_tokens, n_prompt_tokens: what the server says of it; None where it says nothing.
        has_token_lines: whether each piece is one token, as in LMI's schema.
        ended_s: when its end was there.
        error: code and message, if it failed.
    """

    def __init__(self) -> None:
        self.sent_s = time.perf_counter()
        self.arrivals_s: list[float] = []
        self.n_pieces = 0
        self.n_told_tokens: int | None = None
        self.n_prompt_tokens: int | None = None
        self.has_token_lines = False
        self.ended_s = 0.0
        self.error: tuple[str, str] | None = None
        self._rest = b""

    @property
    def n_tokens(self) -> int:
        """Tokens of the answer, or its pieces where the server does not count."""
        return self.n_pieces if self.n_told_tokens is None else self.n_told_tokens

    def add(self, part: bytes) -> None:
        """Hear the next bytes."""
        now_s = time.perf_counter()
        *lines, self._rest = (self._rest + part).split(b"\n")
        n_before = self.n_pieces
        for line in lines:
            self._hear(line)
        if self.n_pieces > n_before:
            self.arrivals_s.append(now_s)

    def fail(self, code: str, message: str) -> None:
        """Note that it failed, now."""
        self.error, self.ended_s = (code, message), time.perf_counter()

    def end(self) -> None:
        """Note that nothing more comes."""
        if self._rest:
            self.add(b"\n")  # the last line of JSON lines need not have an end
        self.ended_s = time.perf_counter()
        if self.error is None and not self.n_pieces:
            self.fail("client.no-tokens", "the answer had no text that came as a stream")

    def _hear(self, line: bytes) -> None:
        """Hear one line: JSON, or a field of an event of which only ``data`` counts. Source: WHATWG, HTML, 9.2.6."""
        text = line.strip()
        if text.startswith(b"data:"):
            text = text[5:].strip()
        if not text.startswith(b"{"):
            return
        try:
            found = json.loads(text)
        except ValueError:
            self.fail("client.not-json", text[:80].decode(errors="replace"))
            return
        self._understand(found)

    def _understand(self, found: dict[str, Any]) -> None:
        if "token" in found:
            self.n_pieces += 1
            self.has_token_lines = True
        elif found.get("error"):
            self.fail(*error_of(found, found["code"] if isinstance(found.get("code"), int) else _OK))
        for choice in found.get("choices") or ():
            self.n_pieces += any(_texts(choice))
        if usage := found.get("usage"):
            self.n_told_tokens = usage.get("completion_tokens")
            self.n_prompt_tokens = usage.get("prompt_tokens")


def _texts(choice: dict[str, Any]) -> list[Any]:
    delta = choice.get("delta") or {}
    return [choice.get("text"), *(delta.get(key) for key in ("content", "reasoning_content", "tool_calls"))]
