# SPDX-License-Identifier: Apache-2.0
"""How the container starts."""

from __future__ import annotations

from lmi.conformance import sources
from lmi.conformance.life import SAFE_PORTS, Life
from lmi.conformance.rules import Level, NotApplicable, Skipped, expect, rule
from lmi.conformance.starting import Start
from lmi.conformance.subject import Subject
from lmi.sagemaker_limits import CONNECT_S, PING_S

BINDS_WITHIN_S = 5.0
_LOOPBACK = ("127.", "::1", "::ffff:127.")


def _ready(subject: Subject) -> Start:
    start = subject.start
    if start.ready_s is None:
        raise Skipped("the server never became ready")
    return start


@rule("process.becomes-ready", "/ping becomes 200 in the time that the platform waits", Level.MUST, sources.HOSTING)
def becomes_ready(subject: Subject) -> None:
    """Within --start-s, 480 s if left out; a process that ends before has failed."""
    start = subject.start
    if start.ready_s is None:
        lines = " | ".join(start.life.last_lines(3))
        code = start.life.exit_code
        ended = "it still runs" if code is None else f"it ended with {code}"
        expect(False, f"/ping was not 200 after {start.life.age_s:.1f} s; {ended}; its last lines: {lines}")
    bound = "never" if start.bound_s is None else f"after {start.bound_s:.2f} s"
    subject.note(f"a connection was accepted {bound}, /ping was 200 after {start.ready_s:.2f} s")


@rule("process.binds-the-port-it-is-told", "it listens on SAGEMAKER_BIND_TO_PORT", Level.SHOULD, sources.OTHER_PORT)
def binds_the_port_it_is_told(subject: Subject) -> None:
    """The variable names a free port; a command that says {port} by itself is not judged."""
    if Life.names_its_port(subject.command):
        raise NotApplicable("the command names its port by {port}")
    start = _ready(subject)
    if start.is_elsewhere:
        subject.note(f"SAGEMAKER_BIND_TO_PORT={start.life.port}; it listens on {start.target.port}")
    expect(not start.is_elsewhere, f"it was told {start.life.port}, and listens on {start.target.port}")


@rule("process.binds-early", "its port is open 5 s after the start", Level.SHOULD,
      sources.ours("a port that opens after the load looks like a container that does not start"))  # fmt: skip
def binds_early(subject: Subject) -> None:
    """A connection to the port is tried every 100 ms."""
    bound_s = subject.start.bound_s
    if bound_s is None:
        raise Skipped("the port was never open")
    subject.note(f"the first connection was accepted after {bound_s:.2f} s")
    limit_s = subject.s(BINDS_WITHIN_S)
    expect(bound_s <= limit_s, f"the port was open after {bound_s:.1f} s; {limit_s:g} s are enough to bind it")


@rule("process.connects-while-loading", "a connection is accepted within 250 ms while it loads", Level.MUST,
      sources.HOSTING)  # fmt: skip
def connects_while_loading(subject: Subject) -> None:
    """Every try from the first that was accepted until /ping is 200."""
    start, limit_s = _ready(subject), subject.s(CONNECT_S)
    looks = start.while_loading
    subject.note(f"{len(looks)} connections from {start.bound_s or 0:.2f} s to {start.ready_s:.2f} s")
    for each in looks:
        expect(each.connect_s is not None, f"after {each.at_s:.1f} s the open port refused a connection")
        expect((each.connect_s or 0) <= limit_s, f"after {each.at_s:.1f} s a connection took {each.connect_s:.3f} s")


@rule("process.answers-while-loading", "/ping says within 2 s that the model still loads", Level.SHOULD,
      sources.ours("an owner who can see that it loads does not wait for a container that hangs"))  # fmt: skip
def answers_while_loading(subject: Subject) -> None:
    """Every /ping over a connection that was accepted before the first 200 has a status of 400 or more."""
    looks = [each for each in _ready(subject).while_loading if each.ping is not None]
    if not looks:
        raise NotApplicable("it was ready before it could be asked")
    limit_s = subject.s(PING_S)
    for each in looks:
        assert each.ping is not None  # noqa: S101 - chosen above
        expect(not each.ping.failure, f"after {each.at_s:.1f} s, {each.ping.told()}")
        expect(each.ping.seconds <= limit_s, f"after {each.at_s:.1f} s, {each.ping.told()}")
        expect(each.ping.status >= 400, f"after {each.at_s:.1f} s, {each.ping.told()}; expected 503")
    assert looks[-1].ping is not None  # noqa: S101 - as above
    subject.show(looks[-1].ping)


@rule("process.is-ready-when-it-says-so", "a request is answered as soon as /ping is 200", Level.MUST, sources.HOSTING)
def is_ready_when_it_says_so(subject: Subject) -> None:
    """The request that follows the first 200 is answered with 200, not only a later one."""
    start = _ready(subject)
    if start.known_body is None:
        raise Skipped("no body is answered with 200: give one with --body")
    subject.show(start.tried[-1])
    expect(start.is_first_try, f"right after /ping was 200, {start.tried[0].told()}")


@rule("process.opens-no-other-ports", "its other ports are on loopback, or in SAGEMAKER_SAFE_PORT_RANGE", Level.SHOULD,
      sources.convention("the platform sets the variable for containers that share an instance"))  # fmt: skip
def opens_no_other_ports(subject: Subject) -> None:
    """What its processes listen on when it is ready."""
    start = _ready(subject)
    found = start.life.listening()
    if start.target.port not in {port for _, port in found}:
        raise NotApplicable("its processes cannot be seen from here")
    low, high = SAFE_PORTS
    subject.note(f"it listens on {_listed(found)}; SAGEMAKER_SAFE_PORT_RANGE={low}-{high}")
    others = {(host, port) for host, port in found if port != start.target.port and not low <= port <= high}
    public = {each for each in others if not each[0].startswith(_LOOPBACK)}
    expect(not public, f"it listens on {_listed(public)}, too")


def _listed(addresses: set[tuple[str, int]]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in sorted(addresses))
