# SPDX-License-Identifier: Apache-2.0
"""``/ping``."""

from __future__ import annotations

import time

from lmi.conformance import sources
from lmi.conformance.rules import Level, expect, rule
from lmi.conformance.subject import Subject
from lmi.conformance.talking import Answer
from lmi.sagemaker_limits import CONNECT_S, PING_S

N_PINGS = 20
N_CLIENTS = 16
MOST_BODY_BYTES = 4096
_PAUSE_S = 0.05


@rule("ping.answers-within-2s", "GET /ping is 200 within 2 s", Level.MUST, sources.HOSTING)
def answers(subject: Subject) -> None:
    """One GET on a server that is ready and has nothing to do."""
    answer = subject.ping()
    expect(answer.is_ok, answer.told())


@rule("ping.takes-post", "POST /ping is 200, too", Level.SHOULD,
      sources.convention("older copies of the hosting page say POST; engines' servers answer both"))  # fmt: skip
def takes_post(subject: Subject) -> None:
    """One POST without a body."""
    answer = subject.ping("POST")
    expect(answer.is_ok, answer.told())


@rule("ping.takes-head", "HEAD /ping is 200, without a body", Level.MAY,
      sources.ours("load balancers in front of a container ask like this"))  # fmt: skip
def takes_head(subject: Subject) -> None:
    """One HEAD, and one GET over the same connection, whose answer comes next."""
    with subject.line(PING_S) as line:
        for method in ("HEAD", "GET"):
            answer = line.ask(method, "/ping")
            subject.show(answer)
            expect(answer.is_ok, answer.told())
            expect(method != "HEAD" or not answer.body, f"a body came behind the answer to HEAD: {answer.told()}")


@rule("ping.is-small", "the answer of /ping is small", Level.SHOULD,
      sources.ours("it is asked for every few seconds; the platform reads its status alone"))  # fmt: skip
def is_small(subject: Subject) -> None:
    """The body of one GET has 4096 bytes at most."""
    n_bytes = len(subject.ping().body)
    expect(n_bytes <= MOST_BODY_BYTES, f"its body has {n_bytes} bytes, {MOST_BODY_BYTES} are enough")


class LoadedPings:
    """Pings of a server on which clients put load."""

    def __init__(self, subject: Subject) -> None:
        self.answers: list[Answer] = []
        with subject.under_load(N_CLIENTS) as load:
            for _ in range(N_PINGS):
                with subject.line(PING_S) as line:
                    self.answers.append(line.ask("GET", "/ping"))
                time.sleep(_PAUSE_S)
            self.n_requests = len(load)

    def note(self, subject: Subject) -> None:
        slowest = max(self.answers, key=lambda each: each.seconds)
        subject.show(slowest)
        subject.note(
            f"{len(self.answers)} pings while {N_CLIENTS} clients got {self.n_requests} answers; the slowest took "
            f"{slowest.seconds:.3f} s, the slowest connection {max(each.connect_s for each in self.answers):.3f} s"
        )


@rule("ping.answers-under-load", "/ping is 200 within 2 s while requests run", Level.MUST, sources.HOSTING)
def answers_under_load(subject: Subject) -> None:
    """20 times GET while 16 clients send one request after the other."""
    pings = subject.of(LoadedPings)
    pings.note(subject)
    for each in pings.answers:
        expect(each.is_ok and not each.failure, each.told())


@rule("ping.connects-under-load", "a connection is accepted within 250 ms while requests run",
      Level.MUST, sources.HOSTING)  # fmt: skip
def connects_under_load(subject: Subject) -> None:
    """The connections of the same 20 pings."""
    pings = subject.of(LoadedPings)
    pings.note(subject)
    limit_s = subject.s(CONNECT_S)
    for each in pings.answers:
        expect(each.status or each.connect_s, f"no connection: {each.told()}")
        expect(each.connect_s <= limit_s, f"a connection took {each.connect_s:.3f} s; the platform waits {CONNECT_S} s")
