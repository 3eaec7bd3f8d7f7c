# SPDX-License-Identifier: Apache-2.0
"""What a start spent its time on, and how workers started and ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lmi.serving import history as history_module, timeline as module
from lmi.serving.history import History
from lmi.serving.timeline import READY, Timeline, in_words, of_this_process
from lmi.workers.process import Exit
from lmi.workers.worker import WorkerState


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(history_module, "time", clock)
    return clock


def test_stages_have_their_seconds_in_the_order_in_which_they_began(clock: Clock) -> None:
    timeline = Timeline("start server")
    for stage, seconds in [("check", 2), ("fetch", 3), ("fetch", 4), ("check", 1), ("load", 5)]:
        clock.now_s += seconds
        timeline.enter(stage)
    clock.now_s += 6
    assert timeline.stages == {"start server": 2, "check": 3 + 5, "fetch": 4 + 1, "load": 6}
    assert (timeline.seconds, timeline.is_over) == (21, False)


def test_after_ready_nothing_is_added(clock: Clock) -> None:
    timeline = Timeline("load", began_s=990)
    timeline.enter(READY)
    clock.now_s += 60
    timeline.enter("load an adapter")
    assert (timeline.stages, timeline.seconds, timeline.is_over) == ({"load": 10}, 10, True)


def test_a_clock_that_is_set_back_makes_no_stage_negative(clock: Clock) -> None:
    timeline = Timeline("check")
    clock.now_s -= 100
    timeline.enter("load")
    clock.now_s += 5
    assert timeline.stages == {"check": 0, "load": 5}
    assert timeline.seconds == 0


def test_the_servers_begins_with_its_process() -> None:
    assert 0 < of_this_process("start").seconds < 24 * 3600


def test_stages_that_took_no_time_are_not_told() -> None:
    assert in_words({"check": 0.04, "fetch": 12.14, "load weights": 20.26}) == "fetch 12.1, load weights 20.3"


def worker(**changes: Any) -> Any:
    said = {
        "label": "llama/0", "started_at_s": 1000.0, "state": WorkerState.STARTING, "stage": "load weights",
        "is_retired": False, "reason": "", "error": None, "exit": None,
    }  # fmt: skip
    return SimpleNamespace(**{**said, **changes})


def test_a_workers_start_is_told_from_its_process_on(clock: Clock) -> None:
    history = History()
    clock.now_s = 1002
    history.note(worker())
    clock.now_s = 1009
    history.note(worker(state=WorkerState.READY, stage="ready"))
    assert history.starts["llama/0"].stages == {"start process": 2, "load weights": 7}
    history.note(worker(started_at_s=1020.0))
    assert history.starts["llama/0"].began_s == 1020, "the next one's start takes its place"


def test_of_several_starts_the_last_to_be_over_is_the_slowest(clock: Clock) -> None:
    history = History()
    assert history.slowest is None
    for label, seconds in [("a/0", 3), ("a/1", 2)]:
        history.note(worker(label=label))
        clock.now_s += seconds
        history.note(worker(label=label, state=WorkerState.READY))
    history.note(worker(label="a/2"))
    assert history.slowest is history.starts["a/1"]


def test_the_end_of_a_worker_is_kept_with_its_last_lines(clock: Clock) -> None:
    history = History()
    exit_ = Exit(code=3, last_lines=("CUDA error",))
    history.note(worker(state=WorkerState.DEAD, reason="exited with code 3", exit=exit_, error=ValueError("broken")))
    loss = history.losses["llama/0"]
    assert (loss.at_s, loss.stage, loss.reason, loss.error, loss.last_lines) == (
        1000, "load weights", "exited with code 3", "broken", ("CUDA error",),
    )  # fmt: skip


def test_a_copy_that_is_not_needed_any_more_is_no_loss(clock: Clock) -> None:
    history = History()
    history.note(worker())
    history.note(worker(state=WorkerState.DEAD, is_retired=True))
    assert (history.starts, history.losses) == ({}, {})
