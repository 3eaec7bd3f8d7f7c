# SPDX-License-Identifier: Apache-2.0
"""K: each capability works where it is declared, and is refused where it is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lmi.api import (
    BackendInfo,
    Capability,
    Constraint,
    FinishReason,
    Resume,
    SamplingParams,
    UnsupportedError,
)
from lmi.serving.capabilities import refuse_undeclared
from lmi.testing.case import LOGPROB_TOLERANCE
from lmi.testing.constrained import obeys_constraints
from lmi.testing.kit import Kit
from lmi.testing.live import Answer
from lmi.testing.rules import NotDeclared, rule

_SEEDS = (11, 12, 13, 14)
_N_TOP = 20


class CapabilityRules:
    """Rules K-*; those of adapters and compilation are in AbilityRules."""

    @rule("K-temperature", "temperature spreads the draws; close to 0 they are the greedy ones")
    def test_k_temperature(self, kit: Kit) -> None:
        def works() -> None:
            spread = {tuple(draw(kit, 0, seed, temperature=kit.case.hot_temperature).ids) for seed in _SEEDS}
            assert len(spread) > 1, (
                f"{len(_SEEDS)} seeds at temperature {kit.case.hot_temperature:g} gave one and the same answer"
            )
            # Engines have a least temperature, so the draws need not be the very best ids, but next to them.
            cold = draw(kit, 1, 1, temperature=1e-5)
            if cold.ids != kit.greedy_ids(1):
                gap = kit.largest_gap(kit.prompt(1), cold.ids)
                assert gap < 0.2, f"temperature=1e-5 drew an id that is {gap:.2f} less likely than the best"

        either(kit, Capability.TEMPERATURE, works)

    @rule("K-top_k", "top_k keeps the k most likely ids")
    def test_k_top_k(self, kit: Kit) -> None:
        def works() -> None:
            only_the_best(kit, top_k=1)
            if kit.declares(Capability.LOGPROBS):
                for seed in _SEEDS:
                    for score in draw(
                        kit, 0, seed, temperature=kit.case.hot_temperature, top_k=3, n_logprobs=3
                    ).logprobs:
                        # By value, not by id: where two are equally likely, either may count as the third.
                        assert score.logprob >= score.top[-1][1] - 1e-6, f"top_k=3 drew {score.id} out of {score.top}"

        either(kit, Capability.TOP_K, works)

    @rule("K-top_p", "top_p keeps the smallest set of that probability")
    def test_k_top_p(self, kit: Kit) -> None:
        either(kit, Capability.TOP_P, lambda: only_the_best(kit, top_p=1e-6))

    @rule("K-min_p", "min_p drops what is less likely than that share of the best")
    def test_k_min_p(self, kit: Kit) -> None:
        either(kit, Capability.MIN_P, lambda: only_the_best(kit, min_p=1.0))

    @rule("K-typical_p", "typical_p keeps the most typical ids of that mass")
    def test_k_typical_p(self, kit: Kit) -> None:
        def works() -> None:
            found = {
                tuple(draw(kit, 0, seed, temperature=kit.case.hot_temperature, typical_p=1e-6).ids) for seed in _SEEDS
            }
            assert len(found) == 1, f"typical_p=1e-6 leaves one id a step, and {len(_SEEDS)} seeds drew {len(found)}"

        either(kit, Capability.TYPICAL_P, works)

    @rule("K-seed", "a seed repeats its draws in any company; another seed draws others")
    def test_k_seed(self, kit: Kit) -> None:
        def works() -> None:
            first = draw(kit, 0, 7, temperature=kit.case.hot_temperature)
            assert draw(kit, 0, 7, temperature=kit.case.hot_temperature).ids == first.ids, (
                "the same seed drew other ids"
            )
            n_others = max(1, kit.engine.n_slots - 1)
            others = [
                kit.request(kit.prompt(n), temperature=kit.case.hot_temperature, seed=100 + n)
                for n in range(1, 1 + n_others)
            ]
            beside = kit.engine.answers(
                [*others, kit.request(kit.prompt(0), temperature=kit.case.hot_temperature, seed=7)]
            )[-1].whole()
            if kit.case.is_exact:
                assert beside.ids == first.ids, f"seed 7 drew {first.ids} alone and {beside.ids} among others"
            found = {tuple(draw(kit, 0, seed, temperature=kit.case.hot_temperature).ids) for seed in _SEEDS}
            assert found - {tuple(first.ids)}, "other seeds drew the same ids"

        either(kit, Capability.SEED, works)

    @rule("K-repetition_penalty", "a large repetition_penalty leaves no id of prompt or output to be chosen again")
    def test_k_repetition_penalty(self, kit: Kit) -> None:
        def works() -> None:
            for number in range(4):
                answer = kit.run([number], repetition_penalty=1e6)[0]
                seen = set(kit.prompt(number))
                for token_id in answer.ids:
                    assert token_id not in seen, f"repetition_penalty=1e6 chose {token_id} a second time"
                    seen.add(token_id)

        either(kit, Capability.REPETITION_PENALTY, works)

    @rule("K-presence_penalty", "presence_penalty is taken once from ids of the output")
    def test_k_presence_penalty(self, kit: Kit) -> None:
        either(kit, Capability.PRESENCE_PENALTY, lambda: penalised(kit, "presence_penalty", lambda n: min(n, 1)))

    @rule("K-frequency_penalty", "frequency_penalty is taken once for each occurrence in the output")
    def test_k_frequency_penalty(self, kit: Kit) -> None:
        either(kit, Capability.FREQUENCY_PENALTY, lambda: penalised(kit, "frequency_penalty", lambda n: n))

    @rule("K-logit_bias", "logit_bias is added to the logits of its ids")
    def test_k_logit_bias(self, kit: Kit) -> None:
        def works() -> None:
            wanted = kit.prompt(7)[0]
            ids = kit.run([0], logit_bias={wanted: 100.0})[0].ids
            assert set(ids) == {wanted}, f"with a bias of 100 for {wanted}, {ids} came"
            best = kit.greedy_ids(0)[0]
            first = kit.run([0], logit_bias={best: -100.0})[0].ids[0]
            assert first != best, f"{best} has a bias of -100 and was chosen"

        either(kit, Capability.LOGIT_BIAS, works)

    @rule("K-bad_token_ids", "bad_token_ids are never produced")
    def test_k_bad_token_ids(self, kit: Kit) -> None:
        def works() -> None:
            bad = tuple(set(kit.greedy_ids(0)))
            produced = set(kit.run([0], bad_token_ids=bad)[0].ids)
            assert not produced & set(bad), f"bad_token_ids {sorted(produced & set(bad))} were produced"

        either(kit, Capability.BAD_TOKEN_IDS, works)

    @rule("K-bad_word_ids", "bad_word_ids are not produced one after the other; each of their ids alone is")
    def test_k_bad_word_ids(self, kit: Kit) -> None:
        def works() -> None:
            for number in range(3):
                plain = kit.greedy_ids(number)
                for length in (2, 3):
                    word = tuple(plain[1 : 1 + length])
                    produced = kit.run([number], bad_word_ids=(word,))[0].ids
                    found = [produced[i : i + length] for i in range(len(produced))]
                    assert list(word) not in found, f"the word {word} was produced in {produced}"
                    if kit.case.is_exact and plain[:length] != list(word):
                        same = produced[:length] == plain[:length]
                        assert same, f"the word {word} changed {plain} to {produced} before it was complete"
            _is_remembered(kit)

        either(kit, Capability.BAD_WORDS, works)

    @rule("K-stop_token_ids", "a stop id is produced, ends the request with STOP_TOKEN, and is named")
    def test_k_stop_token_ids(self, kit: Kit) -> None:
        def works() -> None:
            for number in range(3):
                ids = kit.greedy_ids(number)
                stop = ids[2]
                answer = kit.run([number], stop_token_ids=(stop,))[0]
                expected = ids[: ids.index(stop) + 1]
                if kit.case.is_exact or stop in answer.ids:
                    assert answer.ids[-1:] == [stop], f"stop id {stop} was not the last id of {answer.ids}"
                    same = answer.ids == expected or not kit.case.is_exact
                    assert same, f"stop id {stop} should end {expected}, and {answer.ids} came"
                    assert answer.finish is not None
                    assert answer.finish.reason is FinishReason.STOP_TOKEN, (
                        f"it ended with {answer.finish.reason.value}"
                    )
                    assert answer.finish.token_id == stop, f"finish.token_id is {answer.finish.token_id}, not {stop}"

        either(kit, Capability.STOP_TOKEN_IDS, works)

    @rule("K-min_tokens", "before min_tokens neither end-of-sequence nor stop ids come")
    def test_k_min_tokens(self, kit: Kit) -> None:
        def works() -> None:
            if kit.declares(Capability.STOP_TOKEN_IDS):
                stop = kit.greedy_ids(0)[0]
                ids = kit.run([0], stop_token_ids=(stop,), min_tokens=4)[0].ids
                assert len(ids) >= 4, f"min_tokens=4, and {len(ids)} ids came"
                assert stop not in ids[:3], f"stop id {stop} came before min_tokens=4: {ids}"
            if kit.has_model:
                plan, number, expected = kit.plan_that_ends()
                wanted = len(expected) + 2
                with kit.fresh(plan) as engine:
                    request = kit.request(kit.prompt(number), ignore_eos=False, min_tokens=wanted)
                    ids = engine.answer(request).ids
                assert len(ids) >= wanted, f"min_tokens={wanted}, and it ended after {len(ids)} ids"

        either(kit, Capability.MIN_TOKENS, works)

    @rule("K-ignore_eos", "ignore_eos goes on past the end-of-sequence id")
    def test_k_ignore_eos(self, kit: Kit) -> None:
        def works() -> None:
            assert len(kit.run([0], ignore_eos=True)[0].ids) == len(kit.greedy_ids(0))
            if kit.has_model:
                plan, number, expected = kit.plan_that_ends()
                with kit.fresh(plan) as engine:
                    n_ids = len(engine.answer(kit.request(kit.prompt(number), ignore_eos=True)).ids)
                assert n_ids > len(expected), f"it ended after {n_ids} ids, at the end-of-sequence id"

        either(kit, Capability.IGNORE_EOS, works)

    @rule("K-n_logprobs", "log probabilities: one an id, at most 0, the most likely ids best first")
    def test_k_logprobs(self, kit: Kit) -> None:
        def works() -> None:
            for n_top in (0, 1, 5):
                answer = kit.run([0], n_logprobs=n_top)[0]
                scored = [score.id for score in answer.logprobs]
                assert scored == answer.ids, f"ids {answer.ids} came with log probabilities of {scored}"
                for score in answer.logprobs:
                    well_formed(score.logprob, score.top, n_top)
                    if n_top:
                        assert score.top[0][1] >= score.logprob - 1e-4, "the chosen id is likelier than the best"
                        likely = sum(math.exp(value) for _, value in score.top)
                        assert likely < 1 + 1e-3, f"the {n_top} most likely ids have a probability of {likely:.3f}"
            assert not kit.run([0])[0].logprobs, "log probabilities came without being asked for"
            _are_true(kit)

        either(kit, Capability.LOGPROBS, works)

    @rule("K-n_prompt_logprobs", "prompt log probabilities: on the first chunk, one an id, none for the first")
    def test_k_prompt_logprobs(self, kit: Kit) -> None:
        def works() -> None:
            for number in range(3):
                request = kit.request(kit.prompt(number), n_prompt_logprobs=2)
                answer = kit.engine.answer(request)
                scores = answer.chunks[0].prompt_logprobs or []
                assert all(chunk.prompt_logprobs is None for chunk in answer.chunks[1:]), "they come once, first"
                assert len(scores) == len(request.prompt_ids), f"{len(request.prompt_ids)} ids, {len(scores)} entries"
                assert scores[0] is None, "the first id of a prompt has no probability"
                told = [score.id for score in scores[1:] if score is not None]
                assert told == request.prompt_ids[1:], "the entries are not those of the prompt's ids"
                for score in scores[1:]:
                    assert score is not None
                    well_formed(score.logprob, score.top, 2)

        either(kit, Capability.PROMPT_LOGPROBS, works)

    @rule("K-constraint", "a constraint is obeyed; without own_constraints, each kind of them, also behind reasoning")
    def test_k_constraint(self, kit: Kit) -> None:
        either(kit, Capability.CONSTRAINT, lambda: obeys_constraints(kit))

    @rule("K-batch_invariant", "where declared: the very same ids alone and in any batch")
    def test_k_batch_invariant(self, kit: Kit) -> None:
        if not kit.declares(Capability.BATCH_INVARIANT):
            raise NotDeclared("batch_invariant is not declared")
        numbers = [number % 8 for number in range(2 * kit.engine.n_slots)]
        for number, answer in zip(numbers, kit.run(numbers), strict=True):
            alone = kit.greedy_ids(number)
            assert answer.ids == alone, f"prompt {number} got {alone} alone and {answer.ids} in a batch"


def _is_remembered(kit: Kit) -> None:
    """A bad word that begins in the ids of an interrupted run is not ended; the server relies on it where told so."""
    if kit.info.resume is Resume.EXACT:
        plain = kit.greedy_ids(0)
        word = tuple(plain[1:3])
        request = kit.request(kit.prompt(0), resumed_ids=plain[:2], bad_word_ids=(word,))
        first = kit.engine.answer(request).ids[0]
        assert first != word[-1], f"resumed after {plain[:2]}, {first} completed the word {word}"


def _are_true(kit: Kit) -> None:
    """Log probabilities are the model's own: not those of the draw, and those that a prompt of the same ids gets."""
    answer = kit.run([0], n_logprobs=0)[0]
    first = answer.logprobs[0]
    if kit.declares(Capability.TEMPERATURE) and kit.declares(Capability.SEED):
        drawn = [
            draw(kit, 0, seed, temperature=kit.case.hot_temperature, n_logprobs=_N_TOP).logprobs[0] for seed in _SEEDS
        ]
        for score in drawn:
            told = dict(score.top).get(first.id)
            if told is not None:
                far = abs(told - first.logprob)
                assert far <= LOGPROB_TOLERANCE, (
                    f"the log probability of {first.id} is {first.logprob:.3f} when greedy and {told:.3f} at "
                    f"temperature {kit.case.hot_temperature:g}; it is that of the logits as the model gives them"
                )
    if kit.declares(Capability.PROMPT_LOGPROBS):
        n_prompt = len(kit.prompt(0))
        request = kit.request([*kit.prompt(0), *answer.ids], 1, n_prompt_logprobs=0)
        again = kit.engine.answer(request).prompt_logprobs[n_prompt:]
        for score, other in zip(answer.logprobs, again, strict=True):
            assert other is not None
            far = abs(score.logprob - other.logprob)
            assert far <= LOGPROB_TOLERANCE, f"{score.id} got {score.logprob:.3f}, in a prompt {other.logprob:.3f}"


def either(kit: Kit, capability: Capability, works: Callable[[], None]) -> None:
    """Declared: it works. Not declared: the server refuses it, naming it."""
    if kit.declares(capability):
        if capability in _NEEDS_TEMPERATURE:
            assert kit.declares(Capability.TEMPERATURE), f"{capability.value} shapes draws: declare temperature, too"
        works()
    else:
        is_refused(kit.info, asking(capability), capability)


def asking(capability: Capability) -> SamplingParams:
    """Sampling that asks for this capability and for nothing else that is optional."""
    return SamplingParams(max_tokens=4, **{capability.value: _ASKING[capability]})


def is_refused(info: BackendInfo, sampling: SamplingParams, capability: Capability) -> None:
    try:
        refuse_undeclared(info, sampling, "", {})
    except UnsupportedError as error:
        assert capability.value in str(error), f"the refusal does not name {capability.value}: {error}"
    else:
        raise AssertionError(f"{capability.value} is not declared, and a request that asks for it is not refused")


def draw(kit: Kit, number: int, seed: int, **sampling: Any) -> Answer:
    return kit.run([number], seed=seed, **sampling)[0]


def only_the_best(kit: Kit, **limit: float) -> None:
    """A limit so tight that only the most likely id is left gives the greedy ids at any temperature."""
    text = ", ".join(f"{name}={value:g}" for name, value in limit.items())
    for seed, number in zip(_SEEDS, range(4), strict=True):
        kit.check_same(
            draw(kit, number, seed, temperature=kit.case.hot_temperature, **limit),
            number,
            f"{text} at temperature {kit.case.hot_temperature:g}",
        )


def well_formed(logprob: float, top: tuple[tuple[int, float], ...], n_top: int) -> None:
    assert logprob <= 1e-6, f"a log probability of {logprob:g} is above 0"
    values = [value for _, value in top]
    is_all = sum(map(math.exp, values)) > 1 - 1e-6  # nothing else has any probability
    assert len(top) == n_top or (0 < len(top) < n_top and is_all), (
        f"{n_top} of the most likely ids were asked for, {len(top)} came"
    )
    assert values == sorted(values, reverse=True), f"the most likely ids are not sorted: {values}"


def penalised(kit: Kit, field: str, times: Callable[[int], int]) -> None:
    """At every step the id with the best (log probability - penalty * times(occurrences)) must have been chosen."""
    penalty, n_tokens, has_changed = 2.0, 48, False
    for number in range(8):
        plain = kit.engine.answer(kit.request(kit.prompt(number), n_tokens)).ids
        wants: dict[str, Any] = {"n_logprobs": _N_TOP} if kit.declares(Capability.LOGPROBS) else {}
        wants[field] = penalty
        answer = kit.engine.answer(kit.request(kit.prompt(number), n_tokens, **wants))
        has_changed = has_changed or answer.ids != plain
        counts: dict[int, int] = {}
        for score in answer.logprobs:
            values = {each: value - penalty * times(counts.get(each, 0)) for each, value in score.top}
            best = max(values, key=lambda each: values[each])
            behind = values[best] - values.get(score.id, float("-inf"))
            assert behind < 0.05, (
                f"{field}={penalty:g}: {score.id} was chosen, which is {behind:.2f} behind {best} with the penalty"
            )
            counts[score.id] = counts.get(score.id, 0) + 1
    assert has_changed, f"{field}={penalty:g} changed none of 8 answers of {n_tokens} ids"


_NEEDS_TEMPERATURE = frozenset(
    {Capability.TOP_K, Capability.TOP_P, Capability.MIN_P, Capability.TYPICAL_P, Capability.SEED}
)

_ASKING: dict[Capability, Any] = {
    Capability.MIN_TOKENS: 2,
    Capability.TEMPERATURE: 1.0,
    Capability.TOP_K: 3,
    Capability.TOP_P: 0.5,
    Capability.MIN_P: 0.5,
    Capability.TYPICAL_P: 0.5,
    Capability.REPETITION_PENALTY: 1.5,
    Capability.PRESENCE_PENALTY: 1.0,
    Capability.FREQUENCY_PENALTY: 1.0,
    Capability.LOGIT_BIAS: {1: 1.0},
    Capability.BAD_TOKEN_IDS: (1,),
    Capability.BAD_WORDS: ((1, 2),),
    Capability.STOP_TOKEN_IDS: (1,),
    Capability.IGNORE_EOS: True,
    Capability.SEED: 1,
    Capability.LOGPROBS: 0,
    Capability.PROMPT_LOGPROBS: 0,
    Capability.CONSTRAINT: Constraint(kind="regex", source="a"),
}
"""A value of each field of SamplingParams that asks for something."""
