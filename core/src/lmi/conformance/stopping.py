# SPDX-License-Identifier: Apache-2.0
"""What can be seen from outside while a server stops that has requests in flight."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property

import psutil

from lmi.client import Target
from lmi.conformance.bodies import Body
from lmi.conformance.life import Life
from lmi.conformance.rules import NotApplicable, Skipped
from lmi.conformance.starting import asked
from lmi.conformance.streams import Streams
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Answer, Line
from lmi.sagemaker_limits import PING_S, STOP_S, STREAM_S

_IN_FLIGHT_S = 3.0
_SETTLES_S = 0.5
_ASK_EVERY_S = 0.2
_AFTER_ITS_END_S = 2.0


@dataclass
class Stop:
    """How a server stopped.

    Args:
        exit_code: None where it had to be killed.
        began_s: when SIGTERM was sent (time.monotonic).
        seconds: from then to the end.
        stream, whole: answers that were begun before, as far as they came.
        new: answers to requests that were sent later, and when.
        left: processes and ports that were there after the end.
        why_idle: why nothing was in flight; empty if something was.
    """

    exit_code: int | None = None
    began_s: float = 0.0
    seconds: float = 0.0
    stream: Answer | None = None
    whole: Answer | None = None
    new: list[tuple[float, Answer]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    why_idle: str = ""

    @property
    def in_flight(self) -> list[Answer]:
        """Those that had not ended when SIGTERM came."""
        return [each for each in (self.stream, self.whole) if each is not None and each.ended_s > self.began_s]


class Stopping:
    """The end of the server that is judged: it is stopped once, for all rules about that.

    Args:
        subject: the server.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @cached_property
    def stop(self) -> Stop:
        """How it went.

        Raises:
            Skipped: there is no command, or it never became ready.
        """
        life = self._subject.start.life
        target = self._subject.target
        stop = Stop()
        try:
            with self._subject.of(Streams).long(self._subject.span_s(_IN_FLIGHT_S)) as (line, stream, n_tokens):
                body = self._subject.of(Streams).whole_body(n_tokens)
                stop.stream = stream
                self._end_busy(life, target, stop, line, body)
        except (NotApplicable, Skipped) as error:
            stop.why_idle = str(error)
            self._terminate(life, stop)
        self._look_around(life, target, stop)
        return stop

    def _end_busy(self, life: Life, target: Target, stop: Stop, line: Line, body: Body) -> None:
        stream = stop.stream
        assert stream is not None  # noqa: S101 - it was begun

        def whole() -> None:
            stop.whole = asked(target, body, self._subject.s(STREAM_S))

        reader = threading.Thread(target=line.rest, args=(stream,), daemon=True)
        threads = [threading.Thread(target=whole, daemon=True), reader]
        for thread in threads:
            thread.start()
        time.sleep(_SETTLES_S)
        new = (life, target, stop, self._subject.body)
        asker = threading.Thread(target=self._ask_new, args=new, daemon=True)
        self._terminate(life, stop, asker)
        for thread in (*threads, asker):
            thread.join(self._subject.s(PING_S))

    def _terminate(self, life: Life, stop: Stop, asker: threading.Thread | None = None) -> None:
        life.processes()
        stop.began_s = time.monotonic()
        life.terminate()
        if asker is not None:
            asker.start()
        stop.exit_code = life.wait(self._subject.s(STOP_S))
        stop.seconds = time.monotonic() - stop.began_s

    def _ask_new(self, life: Life, target: Target, stop: Stop, body: Body) -> None:
        """Send short requests from a moment after SIGTERM until the end."""
        began_s = time.monotonic()
        limit_s = self._subject.s(PING_S)
        time.sleep(self._subject.s(_SETTLES_S))
        while life.exit_code is None and time.monotonic() - began_s < self._subject.s(STOP_S):
            at_s = time.monotonic() - began_s
            stop.new.append((at_s, asked(target, body, limit_s)))
            time.sleep(_ASK_EVERY_S)

    def _look_around(self, life: Life, target: Target, stop: Stop) -> None:
        """Note what is left of it."""
        if stop.exit_code is None:
            life.kill()
            return
        _, alive = psutil.wait_procs(life.processes(), self._subject.s(_AFTER_ITS_END_S))
        for each in alive:
            with contextlib.suppress(psutil.Error):
                if each.status() != psutil.STATUS_ZOMBIE:
                    stop.left.append(f"process {each.pid} ({' '.join(each.cmdline())[:80]})")
        with Line(target, self._subject.s(PING_S)) as line, contextlib.suppress(OSError):
            line.connect()
            stop.left.append(f"somebody listens on port {target.port}")
