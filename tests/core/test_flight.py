# SPDX-License-Identifier: Apache-2.0
"""What the server remembers of a request, and how the request goes on after its worker died."""

from __future__ import annotations

from typing import Any

import pytest

from lmi.api import GenerationRequest, SamplingParams
from lmi.workers import flight as module
from lmi.workers.flight import Flight


def flight(**fields: Any) -> Flight:
    request = GenerationRequest(
        request_id="r", prompt_ids=[1, 2], sampling=SamplingParams(max_tokens=9, seed=5), adapter="french", **fields
    )
    return Flight(request, lambda chunk: None, lambda error: None)


def test_a_request_that_has_produced_nothing_goes_on_as_it_was() -> None:
    one = flight()
    assert one.resumed_request() == one.request


def test_ids_that_were_produced_are_resumed_ids_and_all_else_stays() -> None:
    one = flight()
    one.ids += [7, 8]
    resumed = one.resumed_request()
    assert resumed.resumed_ids == [7, 8]
    assert (resumed.request_id, resumed.prompt_ids, resumed.adapter) == ("r", [1, 2], "french")
    assert resumed.sampling == one.request.sampling
    one.ids += [9]
    assert resumed.resumed_ids == [7, 8], "a copy: what was sent does not grow"
    assert one.resumed_request().resumed_ids == [7, 8, 9]


def test_ids_of_an_earlier_run_come_first() -> None:
    one = flight(resumed_ids=[3])
    one.ids += [4]
    assert one.resumed_request().resumed_ids == [3, 4]


@pytest.mark.parametrize(("passed_s", "left_s"), [(0, 10), (4, 6), (10, 0.001), (60, 0.001)])
def test_time_that_has_passed_is_not_given_again(
    monkeypatch: pytest.MonkeyPatch, passed_s: float, left_s: float
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s)
    one = flight(deadline_s=10)
    now_s += passed_s
    assert one.resumed_request().deadline_s == pytest.approx(left_s)
