# SPDX-License-Identifier: Apache-2.0
"""How the container stops, and how it ends when it cannot start."""

from __future__ import annotations

import re

from lmi.conformance import sources
from lmi.conformance.life import listing
from lmi.conformance.rules import Level, NotApplicable, Skipped, expect, rule
from lmi.conformance.stopping import Stop, Stopping
from lmi.conformance.streams import CUT, end_of, finish_of
from lmi.conformance.subject import Subject
from lmi.sagemaker_limits import STOP_S

BROKEN_ENDS_WITHIN_S = 120.0
N_LAST_LINES = 20
_REFUSED = 503
_READS_LIKE_A_FAILURE = re.compile(
    r"error|fail|cannot|could not|unable|invalid|missing|not found|no such|not supported", re.IGNORECASE
)
_EARLIEST_S = 0.3
_LATEST_S = 30.0
_LOSES_WORK = sources.ours("every update and every scale-in would lose what runs")


def _stopped(subject: Subject) -> Stop:
    stop = subject.of(Stopping).stop
    subject.note(f"it ended {stop.seconds:.2f} s after SIGTERM, with exit code {stop.exit_code}")
    return stop


def _stopped_busy(subject: Subject) -> Stop:
    stop = _stopped(subject)
    if stop.why_idle:
        raise NotApplicable(f"nothing could be in flight: {stop.why_idle}")
    if not stop.in_flight:
        raise NotApplicable("the stream and the request had ended before SIGTERM came")
    return stop


def _stopped_by_itself(subject: Subject) -> Stop:
    stop = _stopped(subject)
    if stop.exit_code is None:
        raise Skipped("it had to be killed")
    return stop


@rule("process.ends-on-sigterm", "it ends within 30 s of SIGTERM, with requests in flight", Level.MUST, sources.HOSTING)
def ends_on_sigterm(subject: Subject) -> None:
    """SIGTERM to the command while a stream and a request of about three seconds run; later the platform kills."""
    stop = _stopped(subject)
    expect(stop.exit_code is not None, f"it still ran {stop.seconds:.0f} s after SIGTERM, and was killed")


@rule("process.finishes-requests", "what runs at SIGTERM is finished", Level.SHOULD, _LOSES_WORK)
def finishes_requests(subject: Subject) -> None:
    """The same stream and request come to their ends: no connection is cut, and no answer says that it is an error, or
    was aborted."""
    stop = _stopped_busy(subject)
    subject.show(*stop.in_flight)
    expect(stop.whole is not None, "the request that was in flight was never answered")
    for each in stop.in_flight:
        n_bytes = len(each.body)
        end = end_of(each.body) if each is stop.stream else finish_of(each.body) or "nothing that tells"
        subject.note(f"{n_bytes} bytes came {each.ended_s - stop.began_s:.2f} s after SIGTERM; the end says {end!r}")
        which = "the stream" if each is stop.stream else "the request"
        expect(not each.failure, f"{which} was cut after {n_bytes} bytes: {each.failure}")
        expect(each.is_ok, f"{which}: {each.told()}")
        expect(end and not CUT.search(end), f"{which} was ended after {n_bytes} bytes, and says {end!r}")


@rule("process.refuses-new-requests", "requests that come after SIGTERM are refused", Level.SHOULD,
      sources.ours("the platform sends them elsewhere once they are refused"))  # fmt: skip
def refuses_new_requests(subject: Subject) -> None:
    """Requests from half a second after SIGTERM on: 503, or no connection; never 200, and none is left waiting."""
    stop = _stopped_busy(subject)
    if not stop.new:
        raise NotApplicable("it had ended before another request was sent")
    subject.note(f"{len(stop.new)} requests were sent after SIGTERM")
    for at_s, answer in stop.new:
        is_closed = not answer.status and "nothing came" not in answer.failure
        expect(answer.status == _REFUSED or is_closed, f"{at_s:.1f} s after SIGTERM, {answer.told()}")
    subject.show(stop.new[-1][1])


@rule("process.exits-with-0", "its exit code after SIGTERM is 0", Level.SHOULD,
      sources.convention("a process that stopped as it was told has not failed"))  # fmt: skip
def exits_with_0(subject: Subject) -> None:
    """The exit code of the command; a negative one is the number of a signal."""
    stop = _stopped_by_itself(subject)
    expect(stop.exit_code == 0, f"its exit code is {stop.exit_code}")


@rule("process.leaves-nothing-behind", "no process and no port of it is left", Level.SHOULD,
      sources.ours("what is left holds the accelerator, and the next start fails"))  # fmt: skip
def leaves_nothing_behind(subject: Subject) -> None:
    """Two seconds after the command has ended, every process of its session and every other that was seen below it is
    gone, and its port is closed."""
    stop = _stopped_by_itself(subject)
    expect(not stop.left, f"left behind: {'; '.join(stop.left)}")


@rule("process.leaves-the-model-alone", "nothing is written below the model's folder", Level.SHOULD,
      sources.ours("/opt/ml/model is shared between containers, and may be read-only"))  # fmt: skip
def leaves_the_model_alone(subject: Subject) -> None:
    """Names, sizes and times of change below --model-folder before the start and after everything."""
    folder = subject.wishes.model_folder
    if folder is None:
        raise Skipped("it needs --model-folder")
    _ = subject.command
    _ = subject.start
    after, before = listing(folder), subject.files_before
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    subject.note(f"{len(after)} files and folders below {folder}")
    expect(not changed, f"changed: {', '.join(changed[:5])}")


@rule("process.ends-while-loading", "it ends within 30 s of SIGTERM while it loads", Level.MUST, sources.HOSTING)
def ends_while_loading(subject: Subject) -> None:
    """A second start gets SIGTERM at half the time that the first one took to be ready."""
    ready_s = subject.start.ready_s
    at_s = min(max(_EARLIEST_S, (ready_s or _LATEST_S) / 2), _LATEST_S)
    life = subject.begin_life(subject.command)
    code = life.wait(at_s)
    if code is not None:
        raise Skipped(f"it ended by itself, with {code}, before SIGTERM")
    life.terminate()
    code = life.wait(subject.s(STOP_S))
    subject.note(f"SIGTERM came {at_s:.2f} s after the start; the end came after {life.age_s:.2f} s, with {code}")
    expect(code is not None, f"it still ran {STOP_S:g} s after SIGTERM")


@rule("process.takes-serve", "it starts with the argument serve", Level.MUST, sources.HOSTING)
def takes_serve(subject: Subject) -> None:
    """The platform runs the image as `docker run IMAGE serve`. A command without that word is started once more, with
    it at its end, and has to become ready."""
    words = subject.command
    if any("serve" in each.split() for each in words):  # a word of its own, or of a script for a shell
        expect(subject.start.ready_s is not None, "the command has the argument, and never became ready")
        return
    start = subject.watch(subject.begin_life([*words, "serve"]), ())
    lines = " | ".join(start.life.last_lines(3))
    expect(start.ready_s is not None, f"with serve it did not become ready; its last lines: {lines}")


@rule("process.broken-model-ends", "it ends, not with 0, when its model cannot be loaded", Level.SHOULD,
      sources.ours("the platform waits for a container that runs, for up to an hour"))  # fmt: skip
def broken_model_ends(subject: Subject) -> None:
    """--broken-command ends by itself within 120 s."""
    start = subject.of(BrokenStart)
    life = start.life
    subject.note(f"it ran for {start.seconds:.1f} s; its exit code is {life.exit_code}")
    expect(life.exit_code is not None, f"it still ran after {subject.s(BROKEN_ENDS_WITHIN_S):g} s")
    expect(life.exit_code != 0, "its exit code is 0")


@rule("process.broken-model-is-named", "its last lines say why it could not start", Level.SHOULD,
      sources.ours("the end of the log is what an owner sees of it"))  # fmt: skip
def broken_model_is_named(subject: Subject) -> None:
    """The last 20 lines of --broken-command have the text of --broken-cause, or else anything that reads like a
    failure."""
    life = subject.of(BrokenStart).life
    lines = life.last_lines(N_LAST_LINES)
    cause = subject.wishes.broken_cause
    subject.note("its last lines: " + " | ".join(lines[-5:]))
    text = "\n".join(lines)
    is_told = cause.lower() in text.lower() if cause else _READS_LIKE_A_FAILURE.search(text)
    missing = f"{cause!r} is not in" if cause else "no cause is in"
    expect(is_told, f"{missing} its last {len(lines)} lines: {' | '.join(lines[-3:])}")


class BrokenStart:
    """The command whose model cannot be loaded, ended or left for too long.

    Args:
        subject: the server.
    """

    def __init__(self, subject: Subject) -> None:
        words = subject.wishes.broken_command
        if not words:
            raise Skipped("it needs --broken-command")
        self.life = subject.begin_life(words)
        self.life.wait(subject.s(BROKEN_ENDS_WITHIN_S))
        self.seconds = self.life.age_s
