# SPDX-License-Identifier: Apache-2.0
"""Answers that come piece by piece."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from lmi.conformance import sources
from lmi.conformance.rules import Broken, Level, NotApplicable, expect, rule
from lmi.conformance.streams import EVENTS, LATEST_BEGIN, LINES, Streams, begins_early, end_of, kind_of, pieces_of
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Answer, sample_sum

_TYPES = {
    EVENTS: ("text/event-stream",),
    LINES: ("application/jsonlines", "application/x-ndjson", "application/ndjson", "application/jsonl",
              "application/x-jsonlines", "application/json-seq"),
}  # fmt: skip
_LEAST_EARLY = 0.1
_LONG_ENOUGH_S = 0.5
_STOPS_WITHIN_S = 2.0
_OLDEST_METRIC_S = 10.0
_RUNNING = re.compile(r"(running|active|in_?flight)\w*req|req\w*(running|active|in_?flight)", re.IGNORECASE)


def _heard(subject: Subject) -> Answer:
    answer = subject.of(Streams).heard
    subject.note(
        f"a stream of {len(answer.body)} bytes came in {len(answer.parts)} parts, the first after "
        f"{answer.parts[0][0]:.3f} s, the last after {answer.parts[-1][0]:.3f} s"
    )
    return answer


@rule("streaming.comes-piece-by-piece", "the first bytes come before the last token is made", Level.MUST,
      sources.ours("a stream that comes at once has every cost of one, and counts as no progress"))  # fmt: skip
def comes_piece_by_piece(subject: Subject) -> None:
    """Streams of 16 to 1024 tokens, until one takes half a second and is clear: it has several parts, the first of them
    in the first four fifths of the time, and a tenth of all bytes, too."""
    answer = _heard(subject)
    expect(len(answer.parts) > 1, f"all {len(answer.body)} bytes came in one part, after {answer.seconds:.2f} s")
    first_s, last_s = answer.parts[0][0], answer.parts[-1][0]
    if last_s >= _LONG_ENOUGH_S:
        latest_s = LATEST_BEGIN * last_s
        expect(begins_early(answer), f"the first part came after {first_s:.2f} of {last_s:.2f} s")
        n_early = sum(len(part) for at_s, part in answer.parts if at_s <= latest_s)
        told = f"after {latest_s:.2f} of {last_s:.2f} s {n_early} of its bytes had come, of {len(answer.body)}"
        expect(n_early >= _LEAST_EARLY * len(answer.body), told)


@rule("streaming.says-its-content-type", "events are called text/event-stream, lines by a type for lines",
      Level.SHOULD, sources.convention("clients choose their parser by it"))  # fmt: skip
def says_its_content_type(subject: Subject) -> None:
    """The Content-Type of the same stream."""
    answer = _heard(subject)
    subject.show(answer)
    allowed = _TYPES[kind_of(answer)]
    expect(
        answer.content_type in allowed, f"{kind_of(answer)} are called {answer.content_type!r}; {allowed[0]} is usual"
    )


@rule("streaming.keeps-characters-whole", "every event and line is valid UTF-8 and JSON by itself", Level.MUST,
      sources.convention("JSON lines and server-sent events are UTF-8"))  # fmt: skip
def keeps_characters_whole(subject: Subject) -> None:
    """Each piece of a stream whose prompt has characters of two to four bytes, decoded alone."""
    streams = subject.of(Streams)
    _ = streams.heard
    answer = subject.invoke(streams.body(64).with_text("日本語 🙂 naïve"))
    expect(answer.is_ok, answer.told())
    for piece in pieces_of(answer.body):
        try:
            json.loads(piece.decode("utf-8"))
        except ValueError as error:  # UnicodeDecodeError is one
            raise Broken(f"the piece {piece[:80]!r} is not whole: {error}") from None


@rule("streaming.refuses-with-a-status", "an error before the first token is told by the status", Level.SHOULD,
      sources.ours("after 200 a caller takes what follows for an answer"))  # fmt: skip
def refuses_with_a_status(subject: Subject) -> None:
    """A temperature that is a text, with stream: true."""
    streams = subject.of(Streams)
    _ = streams.heard
    answer = subject.invoke(streams.body(16).with_parameter("temperature", "hot"))
    expect(400 <= answer.status < 500, f"{answer.told()}; expected 400")


@rule("streaming.marks-its-end", "the end of a stream can be told from a connection that broke", Level.SHOULD,
      sources.convention("data: [DONE], or a last piece with finish_reason or the whole text"))  # fmt: skip
def marks_its_end(subject: Subject) -> None:
    """The last line of the same stream."""
    answer = _heard(subject)
    subject.note(f"its last line is {answer.body.rstrip().splitlines()[-1][-200:]!r}")
    expect(end_of(answer.body), "its last line is like any other")


@rule("streaming.stops-for-nobody", "work stops within 2 s when the client leaves", Level.SHOULD,
      sources.ours("abandoned answers take the place of others until their last token"))  # fmt: skip
def stops_for_nobody(subject: Subject) -> None:
    """A stream that would go on for half a minute is left: the number of running requests in /metrics is back 12 s
    later at most, as metrics may be 10 s old."""
    streams = subject.of(Streams)
    _ = streams.heard
    name, _ = _n_running(subject)
    seen_s = subject.span_s(_OLDEST_METRIC_S)
    before = _wait_for(subject, lambda n: n == 0, seen_s)  # it may tell of requests that have ended
    gone_s = seen_s + subject.s(_STOPS_WITHIN_S)
    with streams.long(seen_s + 1.5 * gone_s):
        n_seen = _wait_for(subject, lambda n: n > before, seen_s)
        if n_seen <= before:
            raise NotApplicable(f"{name} does not count the stream that runs")
    left_s = time.monotonic()
    n_left = _wait_for(subject, lambda n: n <= before, gone_s)
    after_s = time.monotonic() - left_s
    subject.note(f"{name} was {before:g}, then {n_seen:g}, and {n_left:g} {after_s:.2f} s after the client had left")
    expect(
        n_left <= before, f"{name} is still {n_left:g} {after_s:.1f} s after the client left; it was {before:g} before"
    )


def _n_running(subject: Subject) -> tuple[str, float]:
    with subject.line() as line:
        answer = line.ask("GET", "/metrics")
    found = sample_sum(answer.text, _RUNNING) if answer.is_ok else None
    if found is None:
        raise NotApplicable("there are no /metrics with a number of running requests")
    return found


def _wait_for(subject: Subject, is_so: Callable[[float], bool], seconds: float) -> float:
    end_s = time.monotonic() + seconds
    while True:
        _, n_running = _n_running(subject)
        if is_so(n_running) or time.monotonic() > end_s:
            return n_running
        time.sleep(0.05)
