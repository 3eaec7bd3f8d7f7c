# SPDX-License-Identifier: Apache-2.0
"""Reasoning before what a constraint holds for: free until its mark closes it, and nowhere else."""

from __future__ import annotations

import asyncio
import re

import pytest

from lmi.api import Constraint, Draft, FinishReason, ReasoningMarks, RequestError
from lmi.scheduling import guides
from lmi.testing.shapes import EOS_ID, VOCAB_SIZE
from tests.core.test_guides import HOT, generate, id_of, stepper, tokenizer
from tests.core.test_speculation import Guesser
from tests.steppers import ToyStepper, collect, ids_of, new_request, run, toy_limits

PROMPT = [1, 2, 3]
START, END = id_of("("), id_of(")")
FREE = ReasoningMarks(start_id=START, end_id=END)
OPEN = ReasoningMarks(start_id=START, end_id=END, is_open=True)
PATTERN = "[ab]{2,6}x"
THOUGHT = [id_of(each) for each in "why"]
DRAWS = [{}, HOT]


class Wishful(ToyStepper):
    """Wants certain ids at the beginning of its outputs, above all others.

    Args:
        wishes: the ids, one a token of the output.
        more: of its limits.
    """

    def __init__(self, wishes, **more):
        super().__init__(toy_limits(**{"vocab_size": VOCAB_SIZE, "max_context_tokens": 512, **more}))
        self._wishes = wishes

    def _read(self, entry):
        rows = super()._read(entry)
        first = entry.start + len(entry.ids) - len(rows) + 1 - len(PROMPT)
        for place, row in enumerate(rows, first):
            if 0 <= place < len(self._wishes):
                row[self._wishes[place]] += 200
        return rows


def asked(reasoning, name="r", max_tokens=60, **more):
    constraint = Constraint(kind="regex", source=PATTERN, reasoning=reasoning)
    return new_request(name, PROMPT, max_tokens, constraint=constraint, **more)


def alone(request, model):
    [found] = generate([request], model)
    if isinstance(found, Exception):
        raise found
    return found


def fits(ids):
    return re.fullmatch(PATTERN, tokenizer().decode(ids)) is not None


@pytest.mark.parametrize("draw", DRAWS, ids=["greedy", "hot"])
def test_a_model_may_reason_first_and_what_follows_keeps_to_the_constraint(draw):
    found = alone(asked(FREE, **draw), Wishful([START, *THOUGHT, END]))
    ids = ids_of(found)
    assert ids[:5] == [START, *THOUGHT, END]
    assert fits(ids[5:])
    assert found[-1].finish.reason is FinishReason.EOS


@pytest.mark.parametrize("draw", DRAWS, ids=["greedy", "hot"])
def test_reasoning_that_the_prompt_has_opened_is_free_from_the_first_token(draw):
    ids = ids_of(alone(asked(OPEN, **draw), Wishful([*THOUGHT, END])))
    assert ids[:4] == [*THOUGHT, END]
    assert fits(ids[4:])


def test_without_marks_the_constraint_holds_from_the_first_token():
    assert fits(ids_of(alone(asked(None), Wishful([START, *THOUGHT, END]))))


def test_a_model_that_does_not_reason_keeps_to_the_constraint_from_the_first_token():
    a = id_of("a")
    ids = ids_of(alone(asked(FREE), Wishful([a, START])))
    assert ids[0] == a
    assert fits(ids)


def test_a_mark_that_opens_comes_first_or_not_at_all():
    ids = ids_of(alone(asked(FREE), Wishful([START, END, START, START])))
    assert ids[:2] == [START, END]
    assert fits(ids[2:])


def test_a_mark_that_is_in_the_answer_is_a_part_of_it():
    constraint = Constraint(kind="regex", source=r"a\(b\)", reasoning=FREE)
    ids = ids_of(alone(new_request("r", PROMPT, 20, constraint=constraint), Wishful([START, END])))
    assert tokenizer().decode(ids) == "()a(b)"


@pytest.mark.parametrize("more", [{}, {"ignore_eos": True}], ids=["", "ignore_eos"])
def test_an_output_does_not_end_within_its_reasoning(more):
    found = alone(asked(FREE, **more), Wishful([START, EOS_ID, EOS_ID, END]))
    ids = ids_of(found)
    assert EOS_ID not in ids[:4]
    assert ids[3] == END
    assert fits(ids[4:])


def test_a_mark_that_is_a_stop_id_ends_the_output_where_it_closes_the_reasoning():
    found = alone(asked(FREE, stop_token_ids=(END,)), Wishful([START, *THOUGHT, END]))
    assert (ids_of(found)[-1], found[-1].finish.reason) == (END, FinishReason.STOP_TOKEN)


def test_reasoning_that_takes_all_tokens_ends_with_them():
    found = alone(asked(OPEN, max_tokens=6), Wishful([THOUGHT[0]] * 6))
    assert (len(ids_of(found)), found[-1].finish.reason) == (6, FinishReason.LENGTH)


def test_bad_words_and_biases_hold_within_reasoning_too():
    model = Wishful([START, THOUGHT[0], THOUGHT[1], END])
    ids = ids_of(alone(asked(FREE, bad_token_ids=(THOUGHT[0],)), model))
    assert (ids[0], THOUGHT[0] in ids, ids[2], ids[3]) == (START, False, THOUGHT[1], END)


@pytest.mark.parametrize("draw", DRAWS, ids=["greedy", "hot"])
@pytest.mark.parametrize(("marks", "wishes"), [(FREE, [START, *THOUGHT, END]), (OPEN, [*THOUGHT, END]), (FREE, [])])
def test_a_request_that_resumes_within_its_reasoning_or_after_it_goes_on_with_the_same_tokens(marks, wishes, draw):
    unbroken = alone(asked(marks, **draw), Wishful(wishes))
    ids = ids_of(unbroken)
    for n in range(1, len(ids) + 1):
        resumed = alone(asked(marks, resumed_ids=ids[:n], **draw), Wishful(wishes))
        assert ids[:n] + ids_of(resumed) == ids
        assert (resumed[-1].finish, resumed[-1].usage) == (unbroken[-1].finish, unbroken[-1].usage)


def mixed():
    return [
        asked(FREE, "a"), asked(OPEN, "b", **HOT), asked(None, "c", **HOT), asked(FREE, "d", n_logprobs=2, **HOT),
        new_request("e", PROMPT, 20, ignore_eos=True, **HOT),
    ]  # fmt: skip


WISHES = [START, *THOUGHT, END]
DRAFTS = {
    "none": lambda: None,
    "wrong": lambda: Guesser(1, vocab_size=VOCAB_SIZE, max_context_tokens=512),
    "half": lambda: Guesser(2, vocab_size=VOCAB_SIZE, max_context_tokens=512),
    "right": lambda: Wishful(WISHES),
}


@pytest.mark.parametrize("limits", [{}, {"kv_capacity_tokens": 110}], ids=["roomy", "preempted"])
@pytest.mark.parametrize("draft", DRAFTS)
def test_neighbours_preemption_and_guesses_change_no_token(draft, limits):
    expected = [ids_of(alone(each, Wishful(WISHES))) for each in mixed()]
    model, guesser = Wishful(WISHES, **limits), DRAFTS[draft]()
    if guesser is not None:
        model.draft = Draft(stepper=guesser, n_tokens=3)
    assert list(map(ids_of, generate(mixed(), model))) == expected


def test_guesses_within_reasoning_and_after_it_spare_steps():
    plain, guessing = Wishful(WISHES), Wishful(WISHES)
    guessing.draft = Draft(stepper=Wishful(WISHES), n_tokens=4)
    assert ids_of(alone(asked(FREE), guessing)) == ids_of(alone(asked(FREE), plain))
    assert len(guessing.batches) < len(plain.batches) - 2


def test_a_constraint_is_compiled_once_whatever_comes_before_it(monkeypatch):
    compiled, original = [], guides.grammar_of
    monkeypatch.setattr(guides, "grammar_of", lambda each: compiled.append(each) or original(each))

    async def scenario(engine):
        await asyncio.gather(*(collect(engine, asked(each, f"{each}")) for each in (None, FREE, OPEN)))

    run(scenario, Wishful([START, END]), eos_token_ids=(EOS_ID,), read_tokenizer=lambda: tokenizer().definition)
    assert len(compiled) == 1


def test_marks_that_the_vocabulary_lacks_are_refused():
    with pytest.raises(RequestError, match=f"token id {VOCAB_SIZE} in the constraint's reasoning is not in"):
        alone(asked(ReasoningMarks(start_id=START, end_id=VOCAB_SIZE)), stepper())


def test_engines_that_the_core_schedules_say_that_reasoning_may_come_first():
    async def scenario(engine):
        return engine.limits.reasons_first

    assert run(scenario, stepper(), eos_token_ids=(EOS_ID,), read_tokenizer=lambda: tokenizer().definition)
    assert not run(scenario, stepper(samples_on_device=True), read_tokenizer=lambda: tokenizer().definition)
