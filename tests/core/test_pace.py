# SPDX-License-Identifier: Apache-2.0
import pytest

from lmi.workers import pace
from lmi.workers.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def ended(clock, n, every_s):
    found = Pace()
    for _ in range(n):
        clock[0] += every_s
        found.note()
    return found


def test_who_has_ten_before_it_waits_for_eleven_to_end(clock):
    assert ended(clock, 20, 0.5).wait_s(10) == pytest.approx(11 * 0.5, rel=0.1)


def test_too_few_that_ended_say_nothing(clock):
    assert ended(clock, 7, 0.5).wait_s(10) is None


def test_what_ended_long_ago_does_not_count(clock):
    found = ended(clock, 20, 0.5)
    clock[0] += 61
    assert found.wait_s(10) is None


def test_a_server_where_nothing_ends_any_more_is_slow(clock):
    found = ended(clock, 20, 0.5)
    clock[0] += 30
    assert found.wait_s(0) > 1.5
