# SPDX-License-Identifier: Apache-2.0
"""Requests that cross as they came: how they wait, die and cross the wire."""

from __future__ import annotations

import msgspec
import pytest

from lmi.api import BackendInfo, DeadlineError, EngineDeadError, FinishReason, LmiError, Resume, TaskPart, TaskRequest
from lmi.workers.flight import TaskFlight
from lmi.workers.suspects import Suspects
from lmi.workers.wire import Call, CancelCall, FromServer, FromWorker, Reply


def flight(errors: list[LmiError], deadline_s: float | None = None) -> TaskFlight:
    task = TaskRequest(request_id="r", headers={"a": "b"}, query="q=1", body=b"\x00\xff")
    return TaskFlight(task, lambda part: None, errors.append, deadline_s=deadline_s)


@pytest.mark.parametrize("resume", Resume)
def test_a_task_whose_worker_died_is_never_tried_again_whatever_the_backend_can(resume: Resume) -> None:
    errors: list[LmiError] = []
    suspects = Suspects(BackendInfo(name="acme", summary="", resume=resume))
    suspects.add([flight(errors)], EngineDeadError("engine.died", "the cable was pulled"))
    assert not suspects
    assert [error.code for error in errors] == ["engine.died"]
    assert "the cable was pulled" in str(errors[0])


def test_a_task_that_runs_out_of_time_fails_with_its_limit() -> None:
    errors: list[LmiError] = []
    flight(errors, deadline_s=2.5).end(FinishReason.DEADLINE)
    assert isinstance(errors[0], DeadlineError)
    assert "time of 2.5 s" in str(errors[0])


def test_a_task_is_stuck_only_when_it_has_a_deadline_that_is_long_past() -> None:
    assert not flight([]).is_stuck
    assert not flight([], deadline_s=3600).is_stuck
    late = flight([], deadline_s=1)
    late.started_s -= 3600
    assert (late.is_expired, late.is_stuck) == (True, True)


def test_tasks_cross_the_wire_whole() -> None:
    task = flight([]).task
    call = msgspec.msgpack.decode(msgspec.msgpack.encode(Call(1, "tasks", "run_task", [task])), type=FromServer)
    assert isinstance(call, Call)
    assert msgspec.convert(call.args[0], TaskRequest) == task
    part = TaskPart(body=b"\x00", status=418, headers={"x": "ü"}, is_stream=True)
    reply = msgspec.msgpack.decode(msgspec.msgpack.encode(Reply(1, part, is_last=False)), type=FromWorker)
    assert isinstance(reply, Reply)
    assert (msgspec.convert(reply.result, TaskPart), reply.is_last) == (part, False)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(CancelCall(1)), type=FromServer) == CancelCall(1)
