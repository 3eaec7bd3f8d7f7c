# SPDX-License-Identifier: Apache-2.0
"""Who has a place in a worker's batch, and since when."""

from __future__ import annotations

import pytest

from lmi.api import GenerationRequest, SamplingParams
from lmi.workers import places as module
from lmi.workers.flight import Flight
from lmi.workers.places import Places


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Rig:
    def __init__(self, n_places: int) -> None:
        self.places = Places()
        self.places.n_places = n_places
        self.held: list[Flight] = []

    def take(self) -> Flight:
        request = GenerationRequest(request_id="r", prompt_ids=[1], sampling=SamplingParams(max_tokens=1))
        flight = Flight(request, lambda chunk: None, lambda error: None)
        self.held.append(flight)
        self.places.take(flight, len(self.held))
        return flight

    def end(self, flight: Flight) -> None:
        self.held.remove(flight)
        self.places.leave(flight)


def test_requests_begin_at_once_while_there_are_places(clock: Clock) -> None:
    rig = Rig(2)
    assert [rig.take().begun_s for _ in range(3)] == [100, 100, 0]


def test_the_first_that_waits_begins_when_one_ends(clock: Clock) -> None:
    rig = Rig(1)
    first, second, third = rig.take(), rig.take(), rig.take()
    clock.now_s = 103
    rig.end(first)
    assert (second.begun_s, third.begun_s) == (103, 0)
    clock.now_s = 107
    rig.end(second)
    assert third.begun_s == 107
    rig.end(third)
    clock.now_s = 108
    assert rig.take().begun_s == 108


def test_one_that_ends_while_it_waits_gives_no_place_free(clock: Clock) -> None:
    rig = Rig(1)
    first, second, third = rig.take(), rig.take(), rig.take()
    rig.end(second)
    assert third.begun_s == 0
    clock.now_s = 104
    rig.end(first)
    assert third.begun_s == 104


def test_a_request_that_goes_on_elsewhere_began_where_it_was_first(clock: Clock) -> None:
    flight = Rig(1).take()
    clock.now_s = 130
    Places().take(flight, 1)
    assert flight.begun_s == 100


def test_before_the_number_of_places_is_known_nobody_waits(clock: Clock) -> None:
    rig = Rig(0)
    assert [rig.take().begun_s for _ in range(5)] == [100] * 5
