# SPDX-License-Identifier: Apache-2.0
"""What can be seen from outside while a server starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lmi.client import Target
from lmi.conformance.bodies import Body
from lmi.conformance.life import Life
from lmi.conformance.talking import Answer, Line
from lmi.sagemaker_limits import PING_S

_LOOK_EVERY_S = 0.1
_LOOK_FOR_PORTS_EVERY_S = 2.0
_LIES_FOR_S = 10.0
"""How long a request is tried again after the first good /ping, to tell a lie from a body nobody knows."""


@dataclass(frozen=True)
class Look:
    """One try to connect and ask.

    Args:
        at_s: since the start of the command.
        connect_s: what the connection took; None where it was refused.
        ping: the answer of /ping, if there was a connection.
    """

    at_s: float
    connect_s: float | None
    ping: Answer | None


@dataclass
class Start:
    """How a start went.

    Args:
        life: the command.
        target: where it answers.
        looks: in order.
        ready_s: when /ping was first 200; None: never.
        first: the answer to the first request after that, of the body that is answered if one is.
        is_first_try: whether that request was good at once.
        known_body: the body that is answered with 200.
        tried: every answer to a body that was tried.
    """

    life: Life
    target: Target
    looks: list[Look] = field(default_factory=list)
    ready_s: float | None = None
    is_first_try: bool = True
    known_body: Body | None = None
    tried: list[Answer] = field(default_factory=list)

    @property
    def bound_s(self) -> float | None:
        """When a connection was first accepted."""
        return next((each.at_s for each in self.looks if each.connect_s is not None), None)

    @property
    def while_loading(self) -> list[Look]:
        """Looks from the first accepted connection up to the first good /ping."""
        first = next((n for n, each in enumerate(self.looks) if each.connect_s is not None), len(self.looks))
        return [each for each in self.looks[first:] if each.ping is None or not each.ping.is_ok]

    @property
    def is_elsewhere(self) -> bool:
        """Whether it answers on another port than it was told."""
        return self.target.port != self.life.port


def watched(life: Life, *, limit_s: float, ping_s: float, bodies: Sequence[Body], ask_s: float) -> Start:
    """Look at a start until it is ready, ended, or took too long.

    Args:
        life: the command, just started.
        limit_s: until /ping must be 200.
        ping_s: for one /ping.
        bodies: tried when it is ready; none: /ping is believed.
        ask_s: for one request.
    """
    start = Start(life, Target(host="127.0.0.1", port=life.port))
    next_search_s = _LOOK_FOR_PORTS_EVERY_S
    while life.age_s < limit_s and life.exit_code is None:
        look = _look(life, start.target, ping_s)
        start.looks.append(look)
        if look.ping is not None and look.ping.is_ok:
            start.ready_s = life.age_s
            _try_bodies(start, bodies, ask_s)
            break
        if look.connect_s is None and life.age_s > next_search_s:
            next_search_s = life.age_s + _LOOK_FOR_PORTS_EVERY_S
            start.target = _elsewhere(life, ping_s) or start.target
        time.sleep(_LOOK_EVERY_S)
    life.processes()
    return start


def _look(life: Life, target: Target, ping_s: float) -> Look:
    at_s = life.age_s
    with Line(target, ping_s) as line:
        try:
            connect_s = line.connect()
        except OSError:
            return Look(at_s, None, None)
        ping = line.ask("GET", "/ping")
    ping.connect_s = connect_s
    return Look(at_s, connect_s, ping)


def _elsewhere(life: Life, ping_s: float) -> Target | None:
    """Where else the command answers, if it does not listen on the port that it was told."""
    ports = {port for _, port in life.listening()}
    if life.port in ports:
        return None
    for port in sorted(ports):
        target = Target(host="127.0.0.1", port=port)
        with Line(target, min(ping_s, PING_S)) as line:
            if line.ask("GET", "/ping").is_ok:
                return target
    return None


def _try_bodies(start: Start, bodies: Sequence[Body], ask_s: float) -> None:
    """Send each body until one is answered, for a while."""

    def is_answered(body: Body) -> bool:
        start.tried.append(asked(start.target, body, ask_s))
        return start.tried[-1].is_ok

    end_s = time.monotonic() + _LIES_FOR_S
    start.known_body = _first(is_answered, bodies)
    while bodies and start.known_body is None and time.monotonic() < end_s and start.life.exit_code is None:
        if all(400 <= each.status < 500 for each in start.tried[-len(bodies) :]):
            return  # it answers, and takes none of them
        start.is_first_try = False
        time.sleep(_LOOK_EVERY_S * 5)
        start.known_body = _first(is_answered, bodies)


def _first(is_so: Callable[[Body], bool], bodies: Sequence[Body]) -> Body | None:
    return next(filter(is_so, bodies), None)


def asked(target: Target, body: Body, limit_s: float) -> Answer:
    """The answer to one body."""
    with Line(target, limit_s) as line:
        return line.ask("POST", "/invocations", body.content, {"Content-Type": body.content_type})
