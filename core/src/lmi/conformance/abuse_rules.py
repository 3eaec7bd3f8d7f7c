# SPDX-License-Identifier: Apache-2.0
"""Requests to ``/invocations`` that are wrong; after each one /ping is looked at."""

from __future__ import annotations

import threading

from lmi.conformance import sources
from lmi.conformance.bodies import Body
from lmi.conformance.rules import Broken, Level, NotApplicable, expect, rule
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Answer
from lmi.sagemaker_limits import BODY_BYTES, ERROR_TEXT_CHARS, PING_S

_NOT_RETRIED = sources.ours(
    "callers and the platform read 5xx as a server that is ill, and try again; 200 as an answer"
)
_BAD_REQUEST = (400, 422)
_BAD_TYPE = (400, 415, 422)
_LONG_TEXT_BYTES = 4 << 20
_DEPTH = 100_000
_PARAMETER = "temperature"


def refused(answer: Answer, allowed: tuple[int, ...] = _BAD_REQUEST) -> None:
    """Raise Broken unless a request was refused as it has to be."""
    expected = " or ".join(map(str, allowed))
    expect(answer.status in allowed, f"{answer.told()}; expected {expected}")


def not_a_fault(answer: Answer) -> None:
    """Raise Broken where a request was answered as if the server were ill."""
    expect(200 <= answer.status < 500, answer.told())


@rule("invocations.refuses-broken-json", "a body that is no JSON is refused with 400", Level.MUST, _NOT_RETRIED)
def refuses_broken_json(subject: Subject) -> None:
    """The first half of the usual body, called application/json; 422 is taken for 400."""
    content = subject.body.content
    _ = subject.body.fields
    refused(subject.abuse(Body(content[: len(content) // 2])))


@rule("invocations.refuses-arrays", "a JSON array is refused with 400", Level.MUST, _NOT_RETRIED)
def refuses_arrays(subject: Subject) -> None:
    """The body [1, "a", null], where the body that is answered is an object; 422 is taken for 400."""
    _ = subject.body.fields
    refused(subject.abuse(Body(b'[1, "a", null]')))


@rule("invocations.refuses-empty-bodies", "an empty body is refused with 400", Level.MUST, _NOT_RETRIED)
def refuses_empty_bodies(subject: Subject) -> None:
    """No bytes, and an object without fields; 411, 415 and 422 are taken for 400."""
    _ = subject.body.fields
    for content in (b"", b"{}"):
        refused(subject.abuse(Body(content)), (*_BAD_TYPE, 411))


@rule("invocations.refuses-wrong-types", "a field of a wrong type is refused with 400", Level.MUST, _NOT_RETRIED)
def refuses_wrong_types(subject: Subject) -> None:
    """A number where the text or the messages belong, and a text where the temperature does; 422 is taken for 400."""
    for body in _with_wrong_types(subject):
        refused(subject.abuse(body))


@rule("invocations.names-the-wrong-field", "the refusal names the field that is wrong", Level.SHOULD,
      sources.ours("the caller has nothing but this text"))  # fmt: skip
def names_the_wrong_field(subject: Subject) -> None:
    """The name of the field is in the body of the same two answers."""
    for body, name in zip(_with_wrong_types(subject), (subject.body.text_field, _PARAMETER), strict=True):
        answer = subject.abuse(body)
        _refused_at_all(answer)
        expect(name in answer.text, f"{answer.told()}; it does not name {name!r}")


def _with_wrong_types(subject: Subject) -> tuple[Body, Body]:
    body = subject.body
    return body.with_fields(**{body.text_field: 7}), body.with_parameter(_PARAMETER, "hot")


def _refused_at_all(answer: Answer) -> None:
    if not 400 <= answer.status < 500:
        raise NotApplicable(f"it is not refused: {answer.told()}")


@rule("invocations.tells-errors-first", "what is wrong stands in the first 2048 characters of an error", Level.SHOULD,
      sources.convention("the endpoint cuts a container's error there (OriginalMessage of ModelError)"))  # fmt: skip
def tells_errors_first(subject: Subject) -> None:
    """A temperature of 100000 characters: its name is in what is left of the answer."""
    answer = subject.abuse(subject.body.with_parameter(_PARAMETER, "x" * 100_000))
    _refused_at_all(answer)
    expect(
        _PARAMETER in answer.text[:ERROR_TEXT_CHARS],
        f"{_PARAMETER!r} is not in the first {ERROR_TEXT_CHARS} of {len(answer.text)} characters: {answer.told()}",
    )


@rule("invocations.refuses-unknown-types", "a content type that it does not know is refused with 415 or 400",
      Level.SHOULD, _NOT_RETRIED)  # fmt: skip
def refuses_unknown_types(subject: Subject) -> None:
    """Bytes that are no text, called application/x-nothing; 422 is taken for 415."""
    _ = subject.body
    refused(subject.abuse(Body(bytes(range(256)), "application/x-nothing")), _BAD_TYPE)


@rule("invocations.survives-lone-surrogates", "half a character in a text is no fault of the server", Level.SHOULD,
      _NOT_RETRIED)  # fmt: skip
def survives_lone_surrogates(subject: Subject) -> None:
    r"""The text \ud83d, as an escape: answered or refused, never with 5xx."""
    body = subject.body.with_text("MARK")
    not_a_fault(subject.abuse(Body(body.content.replace(b"MARK", rb"\ud83d"))))


@rule("invocations.survives-deep-json", "a body nested 100000 deep is refused", Level.SHOULD, _NOT_RETRIED)
def survives_deep_json(subject: Subject) -> None:
    """As many opening brackets, and nothing else: a refusal, never 5xx or a connection that is cut."""
    _ = subject.body
    answer = subject.abuse(Body(b"[" * _DEPTH))
    expect(400 <= answer.status < 500, answer.told())


@rule("invocations.takes-25-mb", "a body of 25 MB is answered, or refused with 413", Level.MUST, sources.FAQ)
def takes_25_mb(subject: Subject) -> None:
    """The usual body, with white space up to 25 MB: its text is short, so no limit of the model is meant."""
    body = subject.body
    answer = subject.abuse(Body(body.content.ljust(BODY_BYTES), body.content_type))
    expect(answer.is_ok or answer.status == 413, answer.told())


@rule("invocations.survives-long-texts", "a text of 4 MB holds up nothing", Level.SHOULD,
      sources.ours("one such request must not make the platform replace the instance"))  # fmt: skip
def survives_long_texts(subject: Subject) -> None:
    """It is answered or refused within 60 s, never with 5xx, and /ping is 200 within 2 s all the while."""
    body = subject.body.with_text("many words " * (_LONG_TEXT_BYTES // 11))
    is_over = threading.Event()

    def send() -> Answer:
        try:
            return subject.abuse(body)
        finally:
            is_over.set()

    def look() -> Answer:
        while True:
            with subject.line(PING_S) as line:
                ping = line.ask("GET", "/ping")
            if not ping.is_ok or is_over.wait(0.1):
                return ping

    ping, answer = subject.at_once([look, send])
    if isinstance(ping, Answer):
        expect(ping.is_ok, f"while the text was read, {ping.told()}")
    for each in (ping, answer):
        if isinstance(each, Broken):
            raise each
        not_a_fault(each)


@rule("invocations.knows-no-other-routes", "a route that is not there is answered with 404", Level.SHOULD,
      sources.convention("HTTP; probing for abilities relies on it"))  # fmt: skip
def knows_no_other_routes(subject: Subject) -> None:
    """GET and POST of a path that nobody has."""
    for method in ("GET", "POST"):
        answer = subject.ask(method, "/no/such/route-1b9f")
        expect(answer.status == 404, f"{answer.told()}; expected 404")


@rule("invocations.stays-healthy", "/ping is 200 after every wrong request", Level.MUST, sources.HOSTING)
def stays_healthy(subject: Subject) -> None:
    """One GET after each request of the rules above that no client should send."""
    if not subject.insults.n:
        raise NotApplicable("no wrong request was sent")
    subject.note(f"/ping was looked at after {subject.insults.n} wrong requests")
    expect(not subject.insults.hurt, "; ".join(subject.insults.hurt[:3]))
