# SPDX-License-Identifier: Apache-2.0
"""Good requests to ``/invocations``."""

from __future__ import annotations

import json

from lmi.conformance import sources
from lmi.conformance.rules import Broken, Level, Skipped, expect, rule
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Answer
from lmi.sagemaker_limits import CUSTOM_ATTRIBUTES_CHARS, INFERENCE_ID_CHARS

N_AT_ONCE = 32
_SAYS_BUSY = (429, 503)
_JSON = "application/json"
UNICODE = "naïve Ünïcödé 日本語 العربية é 👩‍👩‍👧 🙂 \t\n\u200b end"


def answered(subject: Subject, headers: dict[str, str] | None = None) -> Answer:
    """The answer to the usual body, which has to be good."""
    answer = subject.invoke(subject.body, headers)
    expect(answer.is_ok, answer.told())
    return answer


@rule("invocations.answers-within-60s", "a valid request is answered with 200 within 60 s", Level.MUST, sources.HOSTING)
def answers(subject: Subject) -> None:
    """The body given, or the first that is answered of LMI's schema, OpenAI's chat and completions."""
    try:
        body = subject.body
    except Skipped:
        tried = subject.tried or (subject.start.tried if subject.wishes.command else ())
        subject.show(*tried)
        if not tried:
            raise
        raise Broken("; ".join(each.told() for each in tried)) from None
    subject.note(f"the body that is answered is in {body.schema}")
    answered(subject)


@rule("invocations.says-its-content-type", "an answer says what its body is", Level.SHOULD, sources.HOSTING)
def says_its_content_type(subject: Subject) -> None:
    """There is a Content-Type; what calls itself application/json, or something+json, is JSON; the type of an object or
    an array has json in it."""
    answer = answered(subject)
    named = answer.content_type
    expect(named, "the answer has no Content-Type, which callers get as it is")
    try:
        is_json, is_structured = True, isinstance(json.loads(answer.body), (dict, list))
    except ValueError:
        is_json = is_structured = False
    says_json = named == _JSON or named.endswith("+json")
    expect(is_json or not says_json, f"the answer is no JSON and is called {named!r}")
    expect("json" in named or not is_structured, f"the answer is JSON and is called {named!r}")


@rule("invocations.honours-accept", "a request that accepts application/json gets it", Level.SHOULD, sources.INVOKE)
def honours_accept(subject: Subject) -> None:
    """The usual body with Accept: application/json."""
    answer = answered(subject, {"Accept": _JSON})
    expect(answer.content_type == _JSON, f"Accept: {_JSON} was answered with {answer.content_type!r}")


@rule("invocations.ignores-unknown-headers", "headers that it does not know change nothing", Level.MUST,
      sources.HOSTING)  # fmt: skip
def ignores_unknown_headers(subject: Subject) -> None:
    """Three headers that nobody knows, one of them with the platform's prefix."""
    answered(subject, {"X-Amzn-SageMaker-Something-New": "1", "X-Request-Thing": "a b; c", "X-Empty": ""})


@rule("invocations.takes-custom-attributes", "1024 characters of Custom-Attributes are taken", Level.MUST,
      sources.INVOKE)  # fmt: skip
def takes_custom_attributes(subject: Subject) -> None:
    """X-Amzn-SageMaker-Custom-Attributes with as much printable ASCII as the platform lets through."""
    printable = "".join(map(chr, range(0x21, 0x7F)))
    attributes = ("trace=" + printable * 11)[:CUSTOM_ATTRIBUTES_CHARS]
    answered(subject, {"X-Amzn-SageMaker-Custom-Attributes": attributes})


@rule("invocations.takes-inference-id", "an Inference-Id of 64 characters is taken", Level.MUST, sources.INVOKE)
def takes_inference_id(subject: Subject) -> None:
    """X-Amzn-SageMaker-Inference-Id of the greatest length."""
    answered(subject, {"X-Amzn-SageMaker-Inference-Id": ("id-%:/ " * 10)[:INFERENCE_ID_CHARS]})


@rule("invocations.takes-unicode", "text of any script is answered, in valid UTF-8", Level.MUST,
      sources.convention("JSON is UTF-8 (RFC 8259)"))  # fmt: skip
def takes_unicode(subject: Subject) -> None:
    """A prompt of several scripts, with joined emoji and white space, as bytes and as escapes."""
    body = subject.body.with_text(UNICODE)
    escaped = type(body)(json.dumps(body.fields).encode())
    for each in (body, escaped):
        answer = subject.invoke(each)
        expect(answer.is_ok, answer.told())
        try:
            answer.body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Broken(f"the answer is no UTF-8: {error}") from None


@rule("invocations.takes-chunked-bodies", "a body without a Content-Length is taken", Level.SHOULD,
      sources.convention("Transfer-Encoding: chunked is part of HTTP/1.1 (RFC 9112)"))  # fmt: skip
def takes_chunked_bodies(subject: Subject) -> None:
    """The usual body, sent in chunks."""
    answer = subject.invoke(subject.body, is_chunked=True)
    expect(answer.is_ok, answer.told())


@rule("invocations.speaks-http-1-1", "it answers HTTP/1.1", Level.SHOULD,
      sources.convention("streams need chunked answers, which HTTP/1.0 has not"))  # fmt: skip
def speaks_http_1_1(subject: Subject) -> None:
    """The version in the first line of an answer."""
    expect(answered(subject).is_http_1_1, "the answer is HTTP/1.0")


@rule("invocations.keeps-connections", "a connection is kept for the next request", Level.SHOULD,
      sources.ours("a connection per request costs time, and ports of who asks"))  # fmt: skip
def keeps_connections(subject: Subject) -> None:
    """Two requests over one connection."""
    body = subject.body
    with subject.line() as line:
        for which in ("first", "second"):
            answer = line.ask("POST", "/invocations", body.content, {"Content-Type": body.content_type})
            subject.show(answer)
            expect(not answer.failure, f"the {which} request: {answer.told()}")
            expect(which == "first" or not answer.connect_s, "the connection was closed after one answer")
            expect(answer.is_ok, answer.told())


@rule("invocations.answers-many-at-once", "32 requests at the same time are all answered", Level.MUST,
      sources.ours("the platform sends what comes; it has no queue of its own"))  # fmt: skip
def answers_many_at_once(subject: Subject) -> None:
    """Every answer is 200, or says by 429 or 503 that there is too much to do; one at least is 200."""
    body = subject.body
    got = subject.at_once([lambda: subject.invoke(body)] * N_AT_ONCE)
    del subject.evidence[3:]
    for each in got:
        if isinstance(each, Broken):
            raise Broken(f"one of {N_AT_ONCE} requests: {each}")
        expect(each.is_ok or each.status in _SAYS_BUSY, f"one of {N_AT_ONCE} requests: {each.told()}")
    n_good = sum(isinstance(each, Answer) and each.is_ok for each in got)
    subject.note(f"{n_good} of {N_AT_ONCE} were answered with 200")
    expect(n_good, f"none of {N_AT_ONCE} was answered with 200")
