# SPDX-License-Identifier: Apache-2.0
"""Masks of constraints: what else a request asks may leave no token, and the way they are computed changes none."""

from __future__ import annotations

import numpy as np
import pytest

from lmi.api import RequestError
from lmi.scheduling import guides
from lmi.testing.shapes import EOS_ID
from tests.core.test_guides import DRAWS, HOT, REGEX, alone, constrained, generate, id_of, tokenizer
from tests.steppers import ids_of

A, B = map(id_of, "ab")
HELD = [
    {"bad_token_ids": (A, B)},
    {"bad_word_ids": ((A, A), (A, B), (B, A), (B, B))},
    {"stop_token_ids": (A, B), "min_tokens": 4},
    {"bad_token_ids": (EOS_ID,)},
    {"min_tokens": 9},
]


@pytest.mark.parametrize("draw", [*DRAWS, {**HOT, "top_k": 5, "top_p": 0.5}, {**HOT, "n_logprobs": 2, "top_p": 0.9}])
@pytest.mark.parametrize("held", HELD, ids=" ".join)
def test_what_contradicts_a_constraint_fails_alone_however_tokens_are_drawn(held, draw):
    bad = constrained("regex", "[ab]{4}", "bad", **held, **draw)
    found, other = generate([bad, constrained(*REGEX, "good", **draw)])
    assert isinstance(found, RequestError)
    assert found.code == "request.constraint-failed"
    assert ids_of(other) == ids_of(alone(constrained(*REGEX, "good", **draw)))


PATTERNS = [
    "[a-z ]{1,25}",
    "[A-Za-z0-9 ,.]{10,40}",
    "([a-z]+ )+",
    "[a-zA-Z ]{4,12}!",
    "(the|ing)[a-f]{0,15}",
    r"\w{1,30}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_judging_tokens_of_one_form_together_changes_no_mask(pattern):
    from llguidance import LLMatcher, LLTokenizer

    grammar = LLMatcher.grammar_from_regex(pattern)
    slices = [*LLTokenizer.general_slices(), *guides._SLICES]
    readers = [LLTokenizer(tokenizer().definition, eos_token=EOS_ID, slices=each) for each in ([], slices)]
    draw = np.random.default_rng(1)
    for _ in range(8):
        matchers = [LLMatcher(reader, grammar) for reader in readers]
        while not matchers[0].is_stopped():
            masks = [matcher.compute_bitmask() for matcher in matchers]
            assert masks[0] == masks[1]
            ids = np.flatnonzero(np.unpackbits(np.frombuffer(masks[0], np.uint8), bitorder="little"))
            token_id = int(draw.choice(ids))
            assert [matcher.consume_token(token_id) for matcher in matchers] == [True, True]
