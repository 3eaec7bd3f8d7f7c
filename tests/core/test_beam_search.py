# SPDX-License-Identifier: Apache-2.0
"""Beam search by itself: what is found among all sequences, what ends one, and how many ids must be looked at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lmi.api import Finish, FinishReason, SamplingParams
from lmi.serving.beam_search import BeamSearch, BeamSettings


def table_of(history: tuple[int, ...], n_ids: int) -> list[tuple[int, float]]:
    """Log probabilities after a history, best first."""
    logits = np.random.default_rng([7, *history]).standard_normal(n_ids) * 2
    logs = logits - np.log(np.exp(logits).sum())
    return sorted(enumerate(logs.tolist()), key=lambda pair: -pair[1])


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 3.0])
def test_with_as_many_beams_as_there_are_sequences_the_best_of_all_is_found(length_penalty: float) -> None:
    n_ids, length, eos = 3, 3, 0
    scores: dict[tuple[int, ...], float] = {}

    def grow(ids: tuple[int, ...], total: float) -> None:
        if ids and (ids[-1] == eos or len(ids) == length):
            scores[ids] = total / len(ids) ** length_penalty
            return
        for token_id, logprob in table_of(ids, n_ids):
            grow((*ids, token_id), total + logprob)

    grow((), 0.0)
    settings = BeamSettings(n_beams=30, length_penalty=length_penalty, early_stopping="never")
    found = BeamSearch(settings, SamplingParams(max_tokens=length), [eos])
    while not found.is_over:
        found.advance([table_of(tuple(beam.ids), n_ids) for beam in found.open])
    ranked = sorted(scores, key=lambda ids: -scores[ids])
    assert [tuple(beam.ids) for beam in found.ended] == ranked
    assert all(math.isclose(beam.score, scores[tuple(beam.ids)]) for beam in found.ended)
    assert all(math.isclose(beam.total, sum(entry.logprob for entry in beam.logprobs)) for beam in found.ended)


def test_each_ended_sequence_says_what_ended_it() -> None:
    found = BeamSearch(BeamSettings(n_beams=3), SamplingParams(max_tokens=2, stop_token_ids=(5,)), [4])
    found.advance([[(4, -0.1), (5, -0.2), (6, -0.3), (7, -0.4)]])
    found.advance([[(8, -0.1), (9, -0.5)] for _ in found.open])
    assert {beam.ids[-1]: beam.finish for beam in found.ended} == {
        4: Finish(FinishReason.EOS, 4),
        5: Finish(FinishReason.STOP_TOKEN, 5),
        8: Finish(FinishReason.LENGTH),
    }


def test_what_is_still_open_at_a_stop_ranks_behind_what_came_to_an_end() -> None:
    found = BeamSearch(BeamSettings(n_beams=2), SamplingParams(max_tokens=9), [0])
    found.advance([[(1, -0.1), (0, -3.0), (2, -4.0)]])
    found.stop(Finish(FinishReason.DEADLINE))
    assert [(beam.ids, beam.finish and beam.finish.reason) for beam in found.ended] == [
        ([0], FinishReason.EOS),
        ([1], FinishReason.DEADLINE),
    ]
    assert found.is_over


@pytest.mark.parametrize(
    ("sampling", "has_stop", "n_logprobs"),
    [
        ({}, False, 6),
        ({"stop_token_ids": (1, 9)}, False, 7),
        ({"ignore_eos": True}, False, 4),
        ({}, True, 8),
        ({"n_logprobs": 50}, False, 50),
        ({"stop_token_ids": tuple(range(100, 228))}, False, 100),
    ],
)
def test_so_many_ids_are_looked_at_that_enough_go_on_whatever_ends(
    sampling: dict[str, Any], has_stop: bool, n_logprobs: int
) -> None:
    stops = (lambda ids: False) if has_stop else None
    found = BeamSearch(BeamSettings(n_beams=4), SamplingParams(max_tokens=9, **sampling), [0, 1], stops)
    assert found.n_logprobs == n_logprobs
