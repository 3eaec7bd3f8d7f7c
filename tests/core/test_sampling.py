# SPDX-License-Identifier: Apache-2.0
"""Sampling against a plain reference in float64, and its promise that a token depends on its own row alone."""

import math

import numpy as np
import pytest
import torch
from numpy.random import Philox

from lmi.api import SamplingParams
from lmi.scheduling.randomness import UniformStream
from lmi.scheduling.rows import SamplingRow, TokenHistory
from lmi.scheduling.sampling import Sampler

WIDE = 9000  # wide enough for the search among blocks of ids

FILTERS = {
    "temperature alone": {"temperature": 0.7},
    "top_k": {"top_k": 5},
    "top_k beyond the first candidates": {"top_k": 500, "temperature": 3.0},
    "top_k of everything": {"top_k": 10**6},
    "top_p": {"top_p": 0.9},
    "top_p that keeps nearly all": {"top_p": 0.999, "temperature": 3.0},
    "top_p that keeps one": {"top_p": 1e-6},
    "min_p": {"min_p": 0.05},
    "min_p that keeps one": {"min_p": 1.0},
    "min_p that keeps more than the first candidates": {"min_p": 0.01, "temperature": 3.0},
    "typical_p": {"typical_p": 0.5},
    "top_k then top_p": {"top_k": 20, "top_p": 0.8},
    "all filters": {"temperature": 1.5, "top_k": 200, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.01},
}


def params(**changes):
    return SamplingParams(**{"max_tokens": 100, "temperature": 1.0, "seed": 0, **changes})


def new_row(sampling, vocab_size, prompt_ids=(0,), output_ids=(), ending_ids=()):
    return SamplingRow(sampling, prompt_ids, output_ids, ending_ids, vocab_size)


def random_logits(n_rows, vocab_size, seed=0, scale=2.5):
    return torch.randn(n_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


def reference_probabilities(logits, sampling):
    """The filtered distribution as the docstring of Sampler words it, in float64, by sorting everything."""
    x = np.asarray(logits, np.float64) / sampling.temperature
    if sampling.top_k and sampling.top_k < len(x):
        x = np.where(x >= np.sort(x)[-sampling.top_k], x, -np.inf)
    if sampling.typical_p < 1:
        p = softmax(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            information = -np.log(p)
            entropy = np.nansum(np.where(p > 0, p * information, 0.0))
        distance = np.abs(information - entropy)
        x = np.where(distance <= reach(distance, p, sampling.typical_p), x, -np.inf)
    if sampling.top_p < 1:
        p = softmax(x)
        x = np.where(-p <= reach(-p, p, sampling.top_p), x, -np.inf)
    p = softmax(x)
    return softmax(np.where(p >= sampling.min_p * p.max(), x, -np.inf))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def reach(order, p, mass):
    """The value of ``order`` up to which the smallest set with this mass goes."""
    ranked = np.argsort(order)
    return order[ranked][np.searchsorted(np.cumsum(p[ranked]), mass)]


@pytest.mark.parametrize("vocab_size", [50, 1000, WIDE])
@pytest.mark.parametrize("name", FILTERS)
def test_the_token_is_where_the_filtered_distribution_passes_the_uniform_number(name, vocab_size):
    logits = random_logits(1, vocab_size, seed=vocab_size)
    sampling = params(**FILTERS[name])
    cdf = np.cumsum(reference_probabilities(logits[0], sampling))
    rows = [new_row(params(**{**FILTERS[name], "seed": seed}), vocab_size) for seed in range(150)]
    uniforms = np.array([row.uniforms.at(0) for row in rows])
    found = np.array(Sampler(vocab_size).sample(logits.expand(150, -1), rows))
    below = np.where(found > 0, cdf[found - 1], 0.0)
    assert np.all(below - 1e-5 <= uniforms)
    assert np.all(uniforms <= cdf[found] + 1e-5)
    assert np.all(cdf[found] > below), "an id was drawn that the filters drop"


def test_ids_are_drawn_as_often_as_their_probabilities_say():
    vocab_size, n_draws = 30, 20_000
    sampling = params(top_p=0.95, top_k=12)
    logits = random_logits(1, vocab_size, scale=1.0)
    p = reference_probabilities(logits[0], sampling)
    row = new_row(sampling, vocab_size)
    counts = np.zeros(vocab_size)
    for _ in range(n_draws // 100):
        rows = [new_row(sampling, vocab_size, output_ids=[0] * (row.n_output + i)) for i in range(100)]
        row.n_output += 100
        counts += np.bincount(Sampler(vocab_size).sample(logits.expand(100, -1), rows), minlength=vocab_size)
    kept = p > 0
    assert counts[~kept].sum() == 0
    chi_square = np.sum((counts[kept] - n_draws * p[kept]) ** 2 / (n_draws * p[kept]))
    assert chi_square < 31.3  # 11 degrees of freedom, probability 0.001


def test_uniform_numbers_are_those_of_philox_at_any_position_in_any_order():
    raw = Philox(key=7).random_raw(300)
    expected = [(int(number) >> 11) / 2**53 for number in raw]
    stream = UniformStream(7)
    for position in [0, 1, 63, 64, 299, 5, 128, 200, 0]:
        assert stream.at(position) == expected[position]


def test_uniform_numbers_of_the_largest_seed_and_of_far_positions_are_in_range():
    stream = UniformStream(2**64 - 1)
    assert all(0.0 <= stream.at(position) < 1.0 for position in (0, 10**6))


EVERY_KIND = [
    *FILTERS.values(),
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "top_p": 0.9},
    {"logit_bias": {3: 5.0, 8: -2.0}, "bad_token_ids": (1, 2)},
    {"temperature": 0.0, "bad_word_ids": ((8, 5, 0), (5, 3), (1, 9))},
    {"min_tokens": 50, "temperature": 0.0},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [53, WIDE + 7])
def test_a_row_gives_the_same_token_whatever_rows_are_beside_it(vocab_size, dtype):
    sampler = Sampler(vocab_size)
    settings = [params(**{**kind, "seed": i}) for i, kind in enumerate(EVERY_KIND * 3)]
    logits = random_logits(len(settings), vocab_size, seed=1).to(dtype)
    rows = [
        new_row(sampling, vocab_size, [5, 6, 7], [8, 5, i % 50], ending_ids=[4]) for i, sampling in enumerate(settings)
    ]
    alone = [sampler.sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)]
    assert sampler.sample(logits, rows) == alone
    reverse = list(range(len(rows)))[::-1]
    assert sampler.sample(logits[reverse], [rows[i] for i in reverse]) == alone[::-1]


def test_few_candidates_and_all_ids_give_the_same_token(monkeypatch):
    logits = random_logits(40, WIDE, seed=2)
    rows = [new_row(params(seed=i, top_p=0.8, min_p=0.001), WIDE) for i in range(40)]
    with_candidates = Sampler(WIDE).sample(logits, rows)
    monkeypatch.setattr("lmi.scheduling.sampling.N_CANDIDATES", (1,))
    assert Sampler(WIDE).sample(logits, rows) == with_candidates


def test_equal_logits_are_kept_or_dropped_together():
    logits = torch.zeros(1, WIDE)
    logits[0, 700:1000] = 4.0  # more equal ids than the first candidates hold
    rows = [new_row(params(seed=seed, top_k=10), WIDE) for seed in range(200)]
    found = Sampler(WIDE).sample(logits.expand(200, -1), rows)
    assert set(found) <= set(range(700, 1000))
    assert len(set(found)) > 100


def test_equal_logits_beyond_the_first_candidates_count_for_top_p():
    logits = torch.full((1, WIDE), -20.0)
    logits[0, 700:1000] = 0.0
    logits[0, 5] = math.log(200.0)  # 200 of 500: under half of what top_k keeps, but over half of 127 equal ones
    rows = [new_row(params(seed=seed, top_k=10, top_p=0.5), WIDE) for seed in range(100)]
    found = Sampler(WIDE).sample(logits.expand(100, -1), rows)
    assert 5 in found
    assert len(set(found)) > 30


def test_greedy_takes_the_lowest_of_equal_ids():
    logits = torch.zeros(2, 100, dtype=torch.bfloat16)
    logits[:, [30, 60]] = 1.0
    assert Sampler(100).sample(logits, [new_row(params(temperature=0.0), 100)] * 2) == [30, 30]


def test_a_very_low_temperature_is_greedy_without_overflow():
    logits = random_logits(3, 200)
    rows = [new_row(params(temperature=temperature), 200) for temperature in (1e-60, 1e-40, 1e-5)]
    assert Sampler(200).sample(logits, rows) == logits.argmax(-1).tolist()


def test_penalties_follow_their_formulas():
    logits = torch.tensor([[2.0, -1.0, 3.0, 1.0, 0.5]])
    sampling = params(temperature=0.0, repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5)
    # prompt 0 and 1; output 2 twice: [1, -2, 1.5 - 2 * 0.5 - 0.25, 1, 0.5]; id 0 is the first of the largest
    row = new_row(sampling, 5, [0, 1], [2, 2])
    assert Sampler(5).sample(logits, [row]) == [0]
    row.append(0)  # now it is penalised as output, too: 1 - 0.75
    assert Sampler(5).sample(logits, [row]) == [3]
    assert logits.tolist() == [[2.0, -1.0, 3.0, 1.0, 0.5]], "the caller's logits were changed"


def test_a_history_that_grew_equals_one_built_at_once():
    ids = np.random.default_rng(3).integers(0, 500, 300).tolist()
    grown = TokenHistory([7, 8, 7], [], 500)
    for token_id in ids:
        grown.append(token_id)
    built = TokenHistory([7, 8, 7], ids, 500)
    as_dict = [dict(zip(h.ids.tolist(), h.counts.tolist(), strict=True)) for h in (grown, built)]
    assert as_dict[0] == as_dict[1]
    assert len(grown.ids) == len(set(ids) | {7, 8})


def test_bias_and_bad_ids_shape_the_choice():
    logits = torch.tensor([[5.0, 4.0, 3.0, 0.0]])
    biased = new_row(params(temperature=0.0, logit_bias={3: 10.0}), 4)
    barred = new_row(params(temperature=0.0, bad_token_ids=(0, 1), logit_bias={0: 100.0}), 4)
    assert Sampler(4).sample(logits.expand(2, -1), [biased, barred]) == [3, 2]


WORDS = ((0, 1), (0, 1, 2), (3, 3, 3), (2, 0), (1, 2, 0, 3), (4,))


@pytest.mark.parametrize("resumed", [[], [0], [3, 3], [1, 2, 0]])
@pytest.mark.parametrize("changes", [{}, {"min_tokens": 9}, {"logit_bias": {1: 2.0, 3: -1.0}, "bad_token_ids": (5,)}])
def test_no_word_of_bad_ids_is_completed_whatever_came_before(resumed, changes):
    sampling = params(temperature=0.0, bad_word_ids=WORDS, **changes)
    row = new_row(sampling, 6, [9, 0], resumed, ending_ids=[1])
    plain = new_row(params(temperature=0.0, **changes), 6, [9, 0], resumed, ending_ids=[1])
    ids, n_barred = list(resumed), 0
    for step in range(60):
        logits = random_logits(1, 6, seed=step)
        allowed = [i for i in range(6) if not any((*ids, i)[-len(word) :] == word for word in WORDS)]
        added = dict.fromkeys(range(6), 0.0)
        for pair in [plain.added] if plain.added else []:
            added.update(zip(pair[0].tolist(), pair[1].tolist(), strict=True))
        best = max(allowed, key=lambda i: logits[0, i].item() + added[i])
        [chosen] = Sampler(6).sample(logits, [row])
        n_barred += chosen != Sampler(6).sample(logits, [plain])[0]
        assert chosen == best
        ids.append(chosen)
        row.append(chosen)
        plain.append(chosen)
    assert n_barred > 5, "hardly any word was ever in reach"


def test_without_bad_words_a_row_stays_plain_and_with_them_only_where_one_is_in_reach():
    row = new_row(params(temperature=0.0, bad_word_ids=((7, 8),)), 10)
    seen = []
    for token_id in (3, 7, 9):
        seen.append(row.is_plain)
        row.append(token_id)
    assert [*seen, row.is_plain] == [True, True, False, True]


def test_ending_ids_are_held_back_until_min_tokens():
    logits = torch.tensor([[5.0, 4.0, 3.0]])
    row = new_row(params(temperature=0.0, min_tokens=2), 3, ending_ids=[0, 1, 99])
    chosen = []
    for _ in range(3):
        chosen += Sampler(3).sample(logits, [row])
        row.append(chosen[-1])
    assert chosen == [2, 2, 0]


DRAWS = [
    {"temperature": 0.0}, {}, {"top_p": 0.9}, {"top_k": 3}, {"typical_p": 0.5}, {"top_k": 3, "top_p": 0.9},
    {"top_k": 200, "top_p": 0.9, "min_p": 0.1}, {"top_k": 3, "typical_p": 0.5, "top_p": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("changes", DRAWS)
def test_a_row_that_is_not_finite_has_no_choice_and_harms_no_other(bad, changes):
    logits = random_logits(3, 300)
    rows = [new_row(params(**{"seed": i, **changes}), 300) for i in range(3)]
    expected = Sampler(300).sample(logits, rows)
    logits[1, slice(None) if bad == -math.inf else 17] = bad
    assert Sampler(300).sample(logits, rows) == [expected[0], -1, expected[2]]


@pytest.mark.parametrize("vocab_size", [60, WIDE])
def test_log_probabilities_are_those_of_the_raw_logits(vocab_size):
    logits = random_logits(4, vocab_size)
    expected = torch.log_softmax(logits, -1)
    ids, n_top = [3, 17, 30, int(logits[3].argmax())], [0, 3, 5, 3]
    scores = Sampler(vocab_size).score(logits, ids, n_top)
    for i, score in enumerate(scores):
        assert score.id == ids[i]
        assert score.logprob == pytest.approx(expected[i, ids[i]].item(), abs=1e-6)
        assert len(score.top) == n_top[i]
        best = expected[i].topk(5).indices.tolist()[: n_top[i]]
        assert [token_id for token_id, _ in score.top] == best
        assert [value for _, value in score.top] == pytest.approx(expected[i][best].tolist(), abs=1e-6)
        rank = int((expected[i] > expected[i, ids[i]]).sum()) + 1 if n_top[i] else 0
        assert score.rank == rank


def test_log_probabilities_of_a_row_do_not_depend_on_its_neighbours():
    logits = random_logits(6, WIDE).bfloat16()
    ids, n_top = [1, 2, 3, 4, 5, 6], [0, 0, 2, 2, 5, 20]
    sampler = Sampler(WIDE)
    together = sampler.score(logits, ids, n_top)
    alone = [sampler.score(logits[i : i + 1], [ids[i]], [n_top[i]])[0] for i in range(6)]
    assert together == alone


def test_asking_for_more_log_probabilities_than_there_are_ids_gives_all():
    score = Sampler(5).score(random_logits(1, 5), [2], [5])[0]
    assert sorted(token_id for token_id, _ in score.top) == [0, 1, 2, 3, 4]
