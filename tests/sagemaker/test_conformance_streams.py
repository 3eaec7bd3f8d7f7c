# SPDX-License-Identifier: Apache-2.0
"""How the end of an answer is read."""

from __future__ import annotations

import re

import pytest

from lmi.conformance.streams import CUT, end_of, finish_of, pieces_of
from lmi.conformance.talking import sample_sum


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b'{"token": 1}\n{"token": 2, "generated_text": "ab"}\n', "whole text"),
        (b'{"token": 1}\n{"token": 2, "details": {"finish_reason": "length"}, "generated_text": "ab"}\n', "length"),
        (b'{"token": 1}\n{"error": "model.draining", "message": "late"}\n', "error"),
        (b'{"token": 1}\n{"token": 2}\n', ""),
        (b'data: {"choices": [{"finish_reason": null}]}\n\ndata: [DONE]\n\n', "[DONE]"),
        (b'data: {"choices": [{"finish_reason": "stop"}]}\n\ndata: {"usage": {}}\n\ndata: [DONE]\n\n', "stop"),
        (b'data: {"choices": [{"finish_reason": "abort"}]}\n\ndata: [DONE]\n\n', "abort"),
        (b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n', ""),
        (b'data: {"token": {}, "gener', ""),
        (b"", ""),
    ],
)  # fmt: skip
def test_a_stream_says_how_it_ends(body: bytes, end: str) -> None:
    assert end_of(body) == end


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"generated_text": "a"}', "whole text"),
        (b'{"generated_text": "a", "details": {"finish_reason": "eos_token"}}', "eos_token"),
        (b'{"choices": [{"finish_reason": "abort"}]}', "abort"),
        (b'{"choices": 7}', ""),
        (b"[1]", ""),
        (b"no JSON", ""),
    ],
)
def test_an_answer_says_why_it_is_finished(body: bytes, said: str) -> None:
    assert finish_of(body) == said


def test_only_some_reasons_mean_that_an_answer_was_cut() -> None:
    reasons = ["length", "stop", "eos_token", "whole text", "[DONE]", "abort", "cancelled", "error"]
    assert [each for each in reasons if CUT.search(each)] == ["abort", "cancelled", "error"]


def test_events_and_lines_are_taken_apart() -> None:
    assert pieces_of(b': hello\nevent: x\ndata: {"a": 1}\n\ndata: [DONE]\n\n') == [b'{"a": 1}']
    assert pieces_of(b'{"a": 1}\n\n{"b": 2}') == [b'{"a": 1}', b'{"b": 2}']


def test_samples_of_a_metric_are_summed_over_its_labels() -> None:
    text = '# HELP n_running_requests x\nother 3\nn_running_requests{a="1"} 2\nn_running_requests{a="2"} 1.5e0\n'
    assert sample_sum(text, re.compile("running")) == ("n_running_requests", 3.5)
    assert sample_sum(text, re.compile("absent")) is None
