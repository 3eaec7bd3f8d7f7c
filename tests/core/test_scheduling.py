# SPDX-License-Identifier: Apache-2.0
"""A stepper as an Engine: the tokens of a request are those it gets alone, and it ends as it asked."""

import pytest
import torch

from lmi.api import Finish, FinishReason, Usage
from tests.steppers import EOS, VOCAB, ToyStepper, alone, generate, ids_of, new_request, toy_limits, toy_logits

KINDS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2},
    {"temperature": 1.3, "top_k": 7, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"repetition_penalty": 1.5, "min_tokens": 8},
    {"temperature": 0.7, "typical_p": 0.8, "logit_bias": {3: 2.0}, "bad_token_ids": (5, 6)},
    {"temperature": 1.0, "min_p": 0.1, "n_logprobs": 2},
]


def mixed_requests(n=14):
    lengths = [1, 5, 40, 17, 2, 70, 9]
    return [
        new_request(f"r{i}", [1 + (i * 7 + j) % 39 for j in range(lengths[i % 7])], 5 + i, **KINDS[i % 7])
        for i in range(n)
    ]


# ------------------------------------------------------------------------------------------------- the same tokens


def test_greedy_tokens_are_the_most_likely_ones_of_the_history():
    history = [4, 8, 15]
    chunks = alone(new_request(prompt_ids=history, ignore_eos=True))
    for token_id in ids_of(chunks):
        assert token_id == toy_logits(history, VOCAB).argmax()
        history.append(token_id)
    assert len(history) == 3 + 12


def test_concurrent_requests_of_all_kinds_give_what_each_gives_alone():
    requests = mixed_requests()
    stepper = ToyStepper()
    together = generate(requests, stepper)
    assert together == [alone(request) for request in requests]
    assert stepper.most_slots == 4
    assert len(stepper.threads) == 1


def test_preemption_changes_no_token_and_sends_none_twice():
    # Two fit when they start, none but one when they end.
    stepper = ToyStepper(toy_limits(kv_capacity_tokens=170))
    kinds = [{}, {"temperature": 1.0, "repetition_penalty": 1.3}, {"temperature": 0.9, "n_prompt_logprobs": 1}]
    requests = [new_request(f"p{i}", [i + 1] * 15, 130, ignore_eos=True, **kinds[i % 3]) for i in range(6)]
    together = generate(requests, stepper)
    n_starts = sum(prefill.start == 0 for batch in stepper.batches for prefill in batch.prefills)
    assert n_starts > len(requests), "nothing was preempted"
    assert together == [alone(request) for request in requests]


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_request_resumed_at_any_token_goes_on_as_if_nothing_had_happened(kind):
    whole = alone(new_request("cut", **KINDS[kind]))
    ids = ids_of(whole)
    resumed = [new_request("cut", resumed_ids=ids[:cut], **KINDS[kind]) for cut in range(1, len(ids))]
    assert generate(resumed) == [whole[cut:] for cut in range(1, len(ids))]


@pytest.mark.parametrize(
    ("resumed_ids", "finish"),
    [([5, 6, 7], Finish(FinishReason.LENGTH)), ([5, EOS], Finish(FinishReason.EOS, EOS))],
)
def test_a_resumed_request_that_was_complete_ends_without_a_token(resumed_ids, finish):
    stepper = ToyStepper()
    (chunks,) = generate([new_request(resumed_ids=resumed_ids, max_tokens=3)], stepper)
    assert [(chunk.ids, chunk.finish) for chunk in chunks] == [([], finish)]
    assert chunks[0].usage == Usage(3, len(resumed_ids))
    assert stepper.batches == []


def test_a_stepper_that_samples_gives_its_own_ids():
    request = new_request(ignore_eos=True)
    (chunks,) = generate([request], ToyStepper(toy_limits(samples_on_device=True)))
    assert chunks == alone(request)


# ------------------------------------------------------------------------------------------------------ how it ends


def token_after(history):
    return int(toy_logits(history, VOCAB).argmax())


def test_length_ends_a_request_with_usage_on_the_last_chunk_only():
    chunks = alone(new_request(prompt_ids=[7] * 9, max_tokens=4, ignore_eos=True))
    assert [len(chunk.ids) for chunk in chunks] == [1, 1, 1, 1]
    assert [chunk.finish for chunk in chunks] == [None, None, None, Finish(FinishReason.LENGTH)]
    assert [chunk.usage for chunk in chunks] == [None, None, None, Usage(9, 4, 0)]


def test_an_end_of_sequence_id_is_produced_and_ends_the_request():
    first = token_after([1, 2, 3])
    (chunks,) = generate([new_request()], eos_token_ids=[first])
    assert ids_of(chunks) == [first]
    assert chunks[0].finish == Finish(FinishReason.EOS, first)


def test_a_stop_id_is_produced_and_ends_the_request():
    first = token_after([1, 2, 3])
    second = token_after([1, 2, 3, first])
    chunks = alone(new_request(stop_token_ids=(second,)))
    assert ids_of(chunks) == [first, second]
    assert chunks[-1].finish == Finish(FinishReason.STOP_TOKEN, second)


def test_ignore_eos_goes_on_past_the_end_of_sequence():
    first = token_after([1, 2, 3])
    (chunks,) = generate([new_request(ignore_eos=True)], eos_token_ids=[first])
    assert ids_of(chunks)[0] == first
    assert chunks[-1].finish == Finish(FinishReason.LENGTH)


def test_min_tokens_keeps_ending_ids_back():
    first = token_after([1, 2, 3])
    (chunks,) = generate([new_request(min_tokens=6, max_tokens=6)], eos_token_ids=[first])
    assert len(ids_of(chunks)) == 6
    assert first not in ids_of(chunks)


# ---------------------------------------------------------------------------------------------------- log probabilities


def test_log_probabilities_are_raw_whatever_shapes_the_choice():
    history = [1, 2, 3]
    kind = {"temperature": 2.0, "repetition_penalty": 1.8, "bad_token_ids": (4, 9), "logit_bias": {11: 3.0}}
    for chunk in alone(new_request("raw", history, n_logprobs=3, **kind)):
        expected = torch.log_softmax(torch.from_numpy(toy_logits(history, VOCAB)), -1)
        (score,) = chunk.logprobs
        assert score.id == chunk.ids[0]
        assert score.logprob == pytest.approx(expected[score.id].item(), abs=1e-6)
        assert score.rank == int((expected > expected[score.id]).sum()) + 1
        assert [token_id for token_id, _ in score.top] == expected.topk(3).indices.tolist()
        history.append(score.id)


@pytest.mark.parametrize("n_logits_per_slot", [0, 1, 5])
def test_prompt_log_probabilities_come_with_the_first_chunk(n_logits_per_slot):
    prompt_ids = [1 + i % 39 for i in range(50)]
    request = new_request(prompt_ids=prompt_ids, n_prompt_logprobs=1, max_tokens=3, ignore_eos=True)
    stepper = ToyStepper(toy_limits(n_logits_per_slot=n_logits_per_slot))
    chunks = generate([request, new_request("beside", max_tokens=30)], stepper)[0]
    scores = chunks[0].prompt_logprobs
    assert [chunk.prompt_logprobs for chunk in chunks[1:]] == [None, None]
    assert scores[0] is None
    for i in range(1, 50):
        expected = torch.log_softmax(torch.from_numpy(toy_logits(prompt_ids[:i], VOCAB)), -1)
        assert scores[i].id == prompt_ids[i]
        assert scores[i].logprob == pytest.approx(expected[prompt_ids[i]].item(), abs=1e-6)
        assert scores[i].top[0][0] == expected.argmax().item()
    assert len(scores) == 50


def test_a_prompt_preempted_while_it_is_scored_has_each_score_once():
    limits = toy_limits(kv_capacity_tokens=210, prefill_chunk_tokens=1)
    stepper = ToyStepper(limits)
    growing = new_request("growing", [3] * 10, 200, ignore_eos=True)
    scored = new_request("scored", [1 + i % 39 for i in range(134)], 2, n_prompt_logprobs=1)
    chunks = generate([growing, scored], stepper)[1]
    starts = [prefill for batch in stepper.batches for prefill in batch.prefills if prefill.start == 0]
    assert len(starts) == 3, "the second prompt was not preempted"
    assert len(chunks[0].prompt_logprobs) == 134
    assert chunks == alone(scored)


def test_a_resumed_request_does_not_repeat_the_prompts_log_probabilities():
    whole = alone(new_request(n_prompt_logprobs=0))
    (rest,) = generate([new_request(n_prompt_logprobs=0, resumed_ids=whole[0].ids)])
    assert rest == whole[1:]
    assert rest[0].prompt_logprobs is None
