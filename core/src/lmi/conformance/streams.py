# SPDX-License-Identifier: Apache-2.0
"""Streamed answers: what one looks like, and how long ones are had."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from lmi.conformance.bodies import Body
from lmi.conformance.rules import NotApplicable
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Answer, Line
from lmi.sagemaker_limits import STREAM_S

EVENTS, LINES = "events", "lines"
_LENGTHS = (16, 64, 256, 1024)
_LONG_ENOUGH_S = 0.5
_DONE = b"[DONE]"

LATEST_BEGIN = 0.8
"""Share of a stream's time in which it has to begin."""

CUT = re.compile(r"error|abort|cancel|drain|shut", re.IGNORECASE)
"""Reasons of an answer that has not come to its end."""


class Streams:
    """What rules about streams share.

    Args:
        subject: the server.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @cached_property
    def heard(self) -> Answer:
        """A whole stream that took long enough to look at, or the longest of a few.

        Raises:
            NotApplicable: it does not stream, as far as can be told.
        """
        best: Answer | None = None
        shorter_s = math.inf
        for n_tokens in _LENGTHS:
            answer = self._subject.invoke(self.body(n_tokens))
            if not answer.is_ok:
                break
            best = answer
            # One that begins late may still come piece by piece: more tokens tell, unless the time grows with them.
            is_clear = begins_early(answer) or answer.seconds >= 2 * shorter_s
            if answer.seconds >= _LONG_ENOUGH_S and is_clear:
                break
            shorter_s = answer.seconds
        if best is None:
            raise NotApplicable(f"streams are refused: {answer.told()}")
        if not kind_of(best):
            raise NotApplicable(f"stream: true is answered with one {best.content_type or 'body without a type'}")
        return best

    def body(self, n_tokens: int) -> Body:
        """The usual request as a stream of so many tokens, whatever the model says if the server can do that."""
        return self._long(n_tokens).streamed()

    def whole_body(self, n_tokens: int) -> Body:
        """As ``body``, answered at once."""
        return self._long(n_tokens)

    def _long(self, n_tokens: int) -> Body:
        return self._subject.body.with_tokens(n_tokens, ignores_eos=self._can_ignore_eos)

    @cached_property
    def _can_ignore_eos(self) -> bool:
        body = self._subject.body
        with self._subject.line() as line:
            content = body.with_tokens(2, ignores_eos=True).content
            return line.ask("POST", "/invocations", content, {"Content-Type": body.content_type}).is_ok

    @cached_property
    def _token_s(self) -> float:
        """What one token takes, about."""
        heard = self.heard
        n_pieces = max(len(pieces_of(heard.body)), 1)
        return max(heard.seconds / n_pieces, 1e-6)

    @contextlib.contextmanager
    def long(self, seconds: float) -> Iterator[tuple[Line, Answer, int]]:
        """A stream that goes on for so long, of which the first part was read: its line, its answer, its length.

        Raises:
            NotApplicable: no answer of this server takes so long.
        """
        n_tokens = max(int(1.5 * seconds / self._token_s) + 1, _LENGTHS[0])
        while n_tokens * self._token_s >= seconds:
            with self._subject.line(STREAM_S) as line:
                body = self.body(n_tokens)
                answer = line.begin("POST", "/invocations", body.content, {"Content-Type": body.content_type})
                if answer.is_ok:
                    line.part(answer)
                    yield line, answer, n_tokens
                    return
            n_tokens = int(n_tokens * 0.8)
        raise NotApplicable(f"the longest answer of this server takes less than {seconds:g} s")


def begins_early(answer: Answer) -> bool:
    """Whether the first part of a stream came well before its end."""
    return bool(answer.parts) and answer.parts[0][0] <= LATEST_BEGIN * answer.parts[-1][0]


def kind_of(answer: Answer) -> str:
    """Events, or lines of JSON; empty for an answer that is neither."""
    body = answer.body.lstrip()
    if body.startswith((b"data:", b"event:", b"id:", b":")):
        return EVENTS
    pieces = [line for line in body.splitlines() if line.strip()]
    return LINES if len(pieces) > 1 and all(_is_json_object(each) for each in pieces[:2]) else ""


def pieces_of(body: bytes) -> list[bytes]:
    """The data of each event, or each line, without the mark of the end."""
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    if any(line.startswith(b"data:") for line in lines):
        lines = [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]
    return [line for line in lines if line != _DONE]


def end_of(body: bytes) -> str:
    """How a stream ends, in its own words: a reason, ``error``, or the mark of the end; empty where nothing tells."""
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    for piece in reversed(pieces_of(body)[-2:]):  # usage may follow the last piece
        if said := finish_of(piece):
            return said
    return _DONE.decode() if lines and lines[-1].removeprefix(b"data:").strip() == _DONE else ""


def finish_of(content: bytes) -> str:
    """Why an answer, or a piece of one, says that it is finished: ``error``, the finish reason, or ``whole text`` where
    it has that and no reason; empty where it says nothing."""
    try:
        fields = json.loads(content)
    except ValueError:
        return ""
    for part in (fields, _first(fields, "details"), _first(fields, "choices")):
        if not isinstance(part, dict):
            continue
        if part.get("error") is not None:
            return "error"
        if isinstance(reason := part.get("finish_reason"), str):
            return reason
    return "whole text" if isinstance(fields, dict) and fields.get("generated_text") is not None else ""


def _first(fields: Any, name: str) -> Any:
    found = fields.get(name) if isinstance(fields, dict) else None
    return found[0] if isinstance(found, list) and found else found


def _is_json_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
