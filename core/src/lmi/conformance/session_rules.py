# SPDX-License-Identifier: Apache-2.0
"""Stateful sessions."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from functools import cached_property

from lmi.conformance import sources
from lmi.conformance.bodies import Body
from lmi.conformance.rules import Broken, Level, NotApplicable, expect, rule
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Answer
from lmi.sagemaker_limits import NEW_SESSION_CHARS, NEW_SESSION_PATTERN

_ID = "X-Amzn-SageMaker-Session-Id"
_NEW, _CLOSED = "x-amzn-sagemaker-new-session-id", "x-amzn-sagemaker-closed-session-id"
_OPEN = Body(b'{"requestType": "NEW_SESSION"}')
_CLOSE = Body(b'{"requestType": "CLOSE"}')
_CLOSE_SYNTAX = sources.convention('DJL Serving and AWS\'s model-hosting-container-standards: {"requestType": "CLOSE"}')


class Sessions:
    """What rules about sessions share: one that is used, and another one that is closed.

    Args:
        subject: the server.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def begin(self) -> Answer:
        """The answer that tells a new session's id.

        Raises:
            NotApplicable: none does.
        """
        for body in (self._subject.body, _OPEN):
            answer = self._subject.invoke(body, {_ID: "NEW_SESSION"})
            if answer.is_ok and _NEW in answer.headers:
                return answer
        raise NotApplicable("NEW_SESSION is not answered with X-Amzn-SageMaker-New-Session-Id")

    @cached_property
    def opened(self) -> str:
        """What was told of the session that is used."""
        return self.begin().headers[_NEW]

    @property
    def id(self) -> str:
        return self.opened.partition(";")[0]

    def use(self, session: str, body: Body | None = None) -> Answer:
        return self._subject.invoke(body or self._subject.body, {_ID: session})

    @cached_property
    def closed(self) -> tuple[str, Answer]:
        """The id of another session, and the answer to closing it."""
        session = self.begin().headers[_NEW].partition(";")[0]
        return session, self.use(session, _CLOSE)


@rule("sessions.tells-id-and-end", "a new session's header has an id and when it expires", Level.MUST, sources.SESSIONS)
def tells_id_and_end(subject: Subject) -> None:
    """X-Amzn-SageMaker-New-Session-Id has botocore's pattern, "ID; Expires=YYYY-MM-DDTHH:MM:SSZ", and 256 characters
    at most; the time, which is UTC, is to come."""
    told = subject.of(Sessions).opened
    expect(
        re.fullmatch(NEW_SESSION_PATTERN, told), f"the header is {told!r}; expected 'ID; Expires=YYYY-MM-DDTHH:MM:SSZ'"
    )
    expect(len(told) <= NEW_SESSION_CHARS, f"the header has {len(told)} characters, of {NEW_SESSION_CHARS}")
    try:
        end = datetime.strptime(told.rpartition("=")[2], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise Broken(f"the header is {told!r}, and there is no such day or time") from None
    expect(end > datetime.now(timezone.utc), f"the header is {told!r}, which is over")


@rule("sessions.can-be-used", "a request with the id of a session is answered", Level.MUST, sources.SESSIONS)
def can_be_used(subject: Subject) -> None:
    """The usual body with X-Amzn-SageMaker-Session-Id."""
    sessions = subject.of(Sessions)
    answer = sessions.use(sessions.id)
    expect(answer.is_ok, answer.told())


@rule("sessions.can-be-closed", "a session is closed, and its end told by a header", Level.SHOULD, _CLOSE_SYNTAX)
def can_be_closed(subject: Subject) -> None:
    """{"requestType": "CLOSE"} is answered with 200 and X-Amzn-SageMaker-Closed-Session-Id: the id, and
    nothing else."""
    session, answer = subject.of(Sessions).closed
    subject.show(answer)
    expect(answer.is_ok, answer.told())
    told = answer.headers.get(_CLOSED, "")
    expect(told == session, f"the header is {told!r}; the session is {session!r}")


@rule("sessions.closed-is-closed", "a closed session is refused", Level.SHOULD, _CLOSE_SYNTAX)
def closed_is_closed(subject: Subject) -> None:
    """The usual body with the id of a closed session: 4xx."""
    sessions = subject.of(Sessions)
    session, answer = sessions.closed
    if not answer.is_ok:
        raise NotApplicable("sessions cannot be closed")
    after = sessions.use(session)
    expect(400 <= after.status < 500, f"{after.told()}; expected 4xx")


@rule("sessions.unknown-is-refused", "an unknown session is refused", Level.MUST,
      sources.ours("an answer without the context it was asked for is a wrong answer"))  # fmt: skip
def unknown_is_refused(subject: Subject) -> None:
    """The usual body with an id that was never given out: 4xx."""
    sessions = subject.of(Sessions)
    _ = sessions.opened
    answer = sessions.use("0b1f8c6e-0000-4000-8000-000000000000")
    expect(400 <= answer.status < 500, f"{answer.told()}; expected 4xx")


@rule("sessions.ids-are-no-paths", "an id that is a path is refused, also for closing", Level.MUST,
      sources.ours("ids end in paths of files; who sends one must not choose the folder"))  # fmt: skip
def ids_are_no_paths(subject: Subject) -> None:
    """../../x as an id, used and closed: 4xx, and no header that calls it closed."""
    sessions = subject.of(Sessions)
    _ = sessions.opened
    for body in (None, _CLOSE):
        answer = sessions.use("../../x", body)
        expect(400 <= answer.status < 500, f"{answer.told()}; expected 4xx")
        expect(_CLOSED not in answer.headers, f"it is called closed: {answer.headers.get(_CLOSED)!r}")
