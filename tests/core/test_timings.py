# SPDX-License-Identifier: Apache-2.0
"""What a caller who asks is told of the times of a request."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from lmi.serving.attributes import HEADER, attribute
from lmi.serving.streaming import with_attributes
from lmi.serving.timings import LONGEST, Subject, are_asked, told

MOST_SECONDS = 100.0


def measured(arrived_s: float, **changes: Any) -> Any:
    said = {
        "request": Subject("llama"), "begun_s": arrived_s + 0.5, "first_token_s": arrived_s + 0.75,
        "n_prompt_tokens": 3, "n_output_tokens": 8,
    }  # fmt: skip
    return SimpleNamespace(**{**said, **changes})


def pairs(text: str) -> dict[str, str]:
    return dict(each.split("=") for each in text.split(";"))


def test_a_whole_answer_has_all_of_them() -> None:
    arrived_s = time.monotonic() - 2
    found = pairs(told([measured(arrived_s)], arrived_s, "id-1", is_whole=True))
    assert list(found) == ["queue_ms", "ttft_ms", "total_ms", "prompt_tokens", "output_tokens", "model", "request_id"]
    assert (found["queue_ms"], found["ttft_ms"], found["prompt_tokens"], found["output_tokens"]) == (
        "500.0", "750.0", "3", "8",
    )  # fmt: skip
    assert 2000 <= float(found["total_ms"]) < 2000 + MOST_SECONDS * 1000
    assert (found["model"], found["request_id"]) == ("llama", "id-1")


def test_a_stream_has_what_is_known_when_it_begins() -> None:
    arrived_s = time.monotonic() - 2
    found = pairs(told([measured(arrived_s)], arrived_s, "id-1", is_whole=False))
    assert list(found) == ["queue_ms", "ttft_ms", "prompt_tokens", "model", "request_id"]


def test_several_sequences_are_told_together() -> None:
    arrived_s = time.monotonic() - 2
    late = measured(arrived_s, begun_s=arrived_s + 1, first_token_s=arrived_s + 1.5)
    found = pairs(told([late, measured(arrived_s)], arrived_s, "id-1", is_whole=True))
    assert (found["queue_ms"], found["ttft_ms"]) == ("500.0", "750.0")
    assert (found["prompt_tokens"], found["output_tokens"]) == ("6", "16")


def test_what_makes_no_tokens_has_no_first_one() -> None:
    arrived_s = time.monotonic()
    found = pairs(told([measured(arrived_s, first_token_s=0.0, n_output_tokens=0)], arrived_s, "i", is_whole=True))
    assert "ttft_ms" not in found
    assert found["output_tokens"] == "0"


@pytest.mark.parametrize("name", ["größe;total_ms=1", "a=b;c", "\u2028" * 400, "x" * 5000])
def test_no_name_breaks_the_header(name: str) -> None:
    arrived_s = time.monotonic()
    one = measured(arrived_s, request=Subject(name))
    text = told([one], arrived_s, name, is_whole=True)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= LONGEST
    assert list(pairs(text))[2] == "total_ms"
    assert attribute({HEADER: text}, "prompt_tokens") == "3"


@pytest.mark.parametrize(
    ("value", "are_wanted"),
    [("timings=true", True), ("deadline_s=3;timings=TRUE", True), ("timings=false", False), ("timings", False),
     ("c0ffee", False), ("", False)],
)  # fmt: skip
def test_they_are_told_to_who_asks(value: str, are_wanted: bool) -> None:
    assert are_asked({HEADER: value}) is are_wanted
    assert not are_asked({})


def test_attributes_of_a_models_own_function_stay_and_these_follow() -> None:
    own = (b"X-Amzn-SageMaker-Custom-Attributes", b"shard=7")
    headers = with_attributes([(b"content-type", b"text/plain"), own], b"queue_ms=1.0")
    assert headers == [(b"content-type", b"text/plain"), (HEADER.encode(), b"shard=7;queue_ms=1.0")]


def test_where_there_is_no_room_the_functions_own_attributes_stay_alone() -> None:
    headers = [(HEADER.encode(), b"x" * 1020)]
    assert with_attributes(headers, b"queue_ms=1.0") == headers
