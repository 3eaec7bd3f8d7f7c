# SPDX-License-Identifier: Apache-2.0
"""Beam search: the answers of transformers' own, and requests that end, fail and are late like any others."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pytest

from lmi.api import (
    DeadlineError,
    EngineDeadError,
    LmiError,
    OverloadedError,
    RefusedError,
    SamplingParams,
    TextRequest,
    UnsupportedError,
)
from lmi.serving.beam_search import BeamSettings
from lmi.serving.beams import Beams, admit_beams
from lmi.serving.choices import Choice
from lmi.serving.token_decoder import TokenDecoder, TokenTable
from lmi.serving.tokenizer import ByteTokenizer
from lmi.testing import write_tiny
from tests.core.answering import N_IDS, Rig, play
from tests.core.test_choices import Blocking
from tests.steppers import ToyStepper, toy_limits

Early = Literal[True, False, "never"]
PROMPT = "Once upon"


async def admit(rig: Rig, n_beams: int = 3, n_answers: int = 1, **fields: Any) -> Beams:
    settings = fields.pop("settings", BeamSettings(n_beams=n_beams))
    fields.setdefault("sampling", SamplingParams(max_tokens=6, n_logprobs=0))
    return await admit_beams(
        rig.model, rig.request(fields.pop("prompt", PROMPT), **fields), settings, n_answers=n_answers, keeps_tokens=True
    )


async def search(rig: Rig, n_beams: int = 3, n_answers: int = 1, **fields: Any) -> list[Choice]:
    return await (await admit(rig, n_beams, n_answers, **fields)).result()


def ids_of(found: list[Choice]) -> list[list[int]]:
    return [[token.id for token in choice.result.tokens] for choice in found]


# ------------------------------------------------------------------------------------- compared with transformers


class LlamaStepper(ToyStepper):
    """The logits of a model of transformers, computed anew from each whole sequence; steppers share what they know."""

    def __init__(self, model: Any, known: dict[tuple[int, ...], np.ndarray]) -> None:
        super().__init__(toy_limits(vocab_size=model.config.vocab_size, max_slots=6, kv_capacity_tokens=4096))
        self._model = model
        self._known = known

    def _read(self, entry: Any) -> list[np.ndarray]:
        import torch

        held = self.slots.setdefault(entry.slot, [])
        held += entry.ids
        if not entry.n_logits:
            return []
        ids = tuple(held)
        if ids not in self._known:
            with torch.inference_mode():
                self._known[ids] = self._model(torch.tensor([held])).logits[0, -1].float().numpy()
        return [self._known[ids]]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    folder = write_tiny("llama", tmp_path_factory.mktemp("tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        model.generation_config.eos_token_id = None
        yield model


@pytest.fixture(scope="module")
def known() -> dict[tuple[int, ...], np.ndarray]:
    return {}


def reference(llama: Any, n_beams: int, n_answers: int, eos_ids: list[int], **settings: Any) -> list[list[int]]:
    """What transformers answers, up to the id that ends it."""
    import torch

    prompt = torch.tensor([list(PROMPT.encode())])
    found = llama.generate(
        prompt, attention_mask=torch.ones_like(prompt), num_beams=n_beams, num_return_sequences=n_answers,
        do_sample=False, eos_token_id=eos_ids or None, pad_token_id=0, **settings,
    )  # fmt: skip
    rows = [row[prompt.shape[1] :].tolist() for row in found]
    ends = [next((i for i, token_id in enumerate(row, start=1) if token_id in eos_ids), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def often(llama: Any, n_ids: int) -> tuple[int, ...]:
    """Ids that beams often come to, to be ends of text."""
    rows = reference(llama, 4, 4, [], max_new_tokens=12)
    return tuple(dict.fromkeys(itertools.chain(*(row[3:] for row in rows))))[:n_ids]


@pytest.mark.parametrize("n_eos", [0, 1, 3])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_answers_are_those_of_transformers(
    llama: Any, known: Any, length_penalty: float, early_stopping: Early, n_eos: int
) -> None:
    eos_ids = often(llama, n_eos)
    cases = [(2, 1, 1, 0), (3, 2, 9, 0), (5, 5, 14, 4)]
    settings = {"length_penalty": length_penalty, "early_stopping": early_stopping}

    async def scenario(rig: Rig) -> None:
        for n_beams, n_answers, max_tokens, min_tokens in cases:
            sampling = SamplingParams(max_tokens=max_tokens, min_tokens=min_tokens, n_logprobs=0)
            found = await search(
                rig, n_beams, n_answers, sampling=sampling, settings=BeamSettings(n_beams=n_beams, **settings)
            )
            expected = reference(
                llama, n_beams, n_answers, list(eos_ids),
                max_new_tokens=max_tokens, **({"min_new_tokens": min_tokens} if min_tokens else {}), **settings,
            )  # fmt: skip
            assert ids_of(found) == expected, (n_beams, n_answers, max_tokens)
            assert [choice.score for choice in found] == sorted((each.score for each in found), reverse=True)

    play(scenario, stepper=LlamaStepper(llama, known), eos_token_ids=eos_ids)


# -------------------------------------------------------------------------------------------------- the requests


def test_each_step_is_one_group_with_a_request_a_beam_and_goes_before_what_waits() -> None:
    async def scenario(rig: Rig) -> None:
        beams = await admit(rig, 3)
        await beams.result()
        assert list(map(len, rig.pool.groups)) == [1, 3, 3, 3, 3, 3]
        assert rig.pool.are_admitted == [False, True, True, True, True, True]
        names = [flight.request.request_id for group in rig.pool.groups for flight in group]
        assert len(set(names)) == 16
        first, second = rig.pool.groups[0][0].request, rig.pool.groups[1][0].request
        assert first.prompt_ids == list(PROMPT.encode())
        assert len(second.prompt_ids) == len(first.prompt_ids) + 1
        assert second.sampling == SamplingParams(max_tokens=1, n_logprobs=3)
        assert (beams.n_prompt_tokens, beams.n_output_tokens) == (9, 16)

    play(scenario)


def test_tokens_have_the_log_probabilities_and_likely_ids_that_were_asked_for() -> None:
    async def scenario(rig: Rig) -> None:
        [best] = await search(rig, sampling=SamplingParams(max_tokens=3, n_logprobs=2, n_prompt_logprobs=0))
        generation = best.generation
        assert [len(entry.top) for entry in generation.logprobs] == [2, 2, 2]
        total = sum(token.logprob or 0.0 for token in best.result.tokens)
        assert math.isclose(best.score, total / 3)
        assert generation.prompt_logprobs is not None
        assert len(generation.prompt_logprobs) == len(PROMPT)
        asked = [flight.request.sampling.n_prompt_logprobs for group in rig.pool.groups for flight in group]
        assert asked == [0] + [None] * 6

    play(scenario)


def test_a_stop_sequence_ends_a_beam_and_is_cut_off_unless_it_is_kept() -> None:
    letters = tuple("aeiountrs")

    async def scenario(rig: Rig) -> None:
        settings = BeamSettings(n_beams=3, early_stopping=True)
        asked: dict[str, Any] = {"sampling": SamplingParams(max_tokens=40, n_logprobs=0), "settings": settings}
        found = await search(rig, 3, 3, stop_sequences=letters, **asked)
        assert [choice.result.finish_reason for choice in found] == ["stop_sequence"] * 3
        assert not any(set(letters) & set(choice.result.text) for choice in found)
        kept = await search(rig, 3, 3, stop_sequences=letters, keeps_stop=True, **asked)
        assert [choice.result.text[:-1] for choice in kept] == [choice.result.text for choice in found]
        assert all(choice.result.text.endswith(letters) for choice in kept)

    play(scenario, stepper=AsciiStepper(toy_limits(vocab_size=N_IDS)))


class SomeSpecial(ByteTokenizer):
    """A tokenizer whose vowels are special tokens, which have no text unless they are shown."""

    def decoder(self, after: Sequence[int] = (), *, shows_special: bool | frozenset[int] = False) -> TokenDecoder:
        silent = "" if shows_special else "aeiou"
        return TokenTable(chr, lambda token: b"" if token in silent else token.encode("latin-1")).decoder(after)


@pytest.mark.parametrize("shows_special", [True, False])
def test_special_tokens_end_a_beam_where_they_are_shown_and_only_there(shows_special: bool) -> None:
    async def scenario(rig: Rig) -> None:
        rig.model.tokenizer = SomeSpecial()
        settings = BeamSettings(n_beams=3, early_stopping=True)
        asked: dict[str, Any] = {"sampling": SamplingParams(max_tokens=40, n_logprobs=0), "settings": settings}
        found = await search(rig, 3, 3, stop_sequences=tuple("aeiou"), shows_special=shows_special, **asked)
        ends = {choice.result.finish_reason for choice in found}
        assert ends == ({"stop_sequence"} if shows_special else {"length"})

    play(scenario, stepper=AsciiStepper(toy_limits(vocab_size=N_IDS)))


def test_a_stop_sequence_is_found_at_the_end_of_a_long_beam() -> None:
    async def scenario(rig: Rig) -> None:
        free = await search(rig, 2, 1, sampling=SamplingParams(max_tokens=60, n_logprobs=0))
        text = free[0].result.text
        stop = text[-3:]
        assert stop not in text[:-1]
        asked: dict[str, Any] = {"sampling": SamplingParams(max_tokens=80, n_logprobs=0)}
        found = await search(rig, 2, 2, stop_sequences=(stop,), **asked)
        assert text[:-3] in [choice.result.text for choice in found]

    play(scenario, stepper=AsciiStepper(toy_limits(vocab_size=N_IDS)))


def test_an_answer_of_an_extension_is_given_as_often_as_answers_were_asked() -> None:
    async def scenario(rig: Rig) -> None:
        found = await search(rig, 3, 2, answer="no")
        assert [choice.result.text for choice in found] == ["no", "no"]
        assert rig.pool.groups == []

    play(scenario)


class AsciiStepper(ToyStepper):
    """Produces printable letters only."""

    def _read(self, entry: Any) -> list[np.ndarray]:
        rows = super()._read(entry)
        for row in rows:
            row[:97] = row[123:] = -50.0
        return rows


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.7, "seed": 1},
        {"repetition_penalty": 1.2},
        {"logit_bias": {3: 1.0}},
        {"bad_token_ids": (5,)},
        {"bad_word_ids": ((5, 6),)},
    ],
)
def test_what_changes_probabilities_is_refused(changes: dict[str, Any]) -> None:
    async def scenario(rig: Rig) -> None:
        with pytest.raises(UnsupportedError, match=f"num_beams=3 and {next(iter(changes))}=") as caught:
            await search(rig, sampling=SamplingParams(max_tokens=6, n_logprobs=0, **changes))
        assert caught.value.code == "request.unsupported"
        assert rig.pool.groups == []

    play(scenario)


def test_without_room_for_all_beams_nothing_starts() -> None:
    async def scenario(rig: Rig) -> None:
        with pytest.raises(OverloadedError):
            await search(rig, 3)
        assert len(await search(rig, 2)) == 1

    play(scenario, n_room=2)


def test_a_step_that_fails_fails_the_answer_and_ends_the_rest_of_it() -> None:
    block = Blocking(n_steps=1)

    async def scenario(rig: Rig) -> None:
        try:
            waiting = asyncio.ensure_future(search(rig))
            while len(rig.pool.groups) < 2:
                await asyncio.sleep(0.001)
            rig.pool.groups[1][1].on_error(EngineDeadError("engine.died", "gone"))
            with pytest.raises(EngineDeadError, match="gone"):
                await waiting
            assert set(rig.pool.cancelled) == {"r/1.0", "r/1.1", "r/1.2"}
        finally:
            block.open()

    play(scenario, stepper=ToyStepper(toy_limits(vocab_size=N_IDS), block))


def test_cancelling_ends_the_step_and_no_other_begins() -> None:
    block = Blocking(n_steps=1)

    async def scenario(rig: Rig) -> None:
        try:
            beams = await admit(rig)
            waiting = asyncio.ensure_future(beams.result())
            while len(rig.pool.groups) < 2:
                await asyncio.sleep(0.001)
            beams.cancel(RefusedError("client.gone", "the client left"))
            with pytest.raises(RefusedError, match="the client left"):
                await waiting
            await asyncio.sleep(0)
            assert (len(rig.pool.groups), rig.pool.n_running) == (2, 0)
        finally:
            block.open()

    play(scenario, stepper=ToyStepper(toy_limits(vocab_size=N_IDS), block))


@pytest.mark.parametrize("n_steps", [0, 4])
def test_a_deadline_ends_the_search_with_what_there_is(n_steps: int) -> None:
    block = Blocking(n_steps)

    async def scenario(rig: Rig) -> None:
        try:
            if n_steps:
                [best] = await search(rig, sampling=SamplingParams(max_tokens=50, n_logprobs=0))
                result = best.result
                assert (result.finish_reason, 0 < result.n_output_tokens <= n_steps) == ("deadline", True)
            else:
                with pytest.raises(DeadlineError, match=r"time of 0\.5 s ran out before its first token"):
                    await search(rig)
        finally:
            block.open()

    play(scenario, stepper=ToyStepper(toy_limits(vocab_size=N_IDS), block), predict_timeout=0.5)


def test_an_engine_without_log_probabilities_is_named_as_what_is_wrong() -> None:
    class Silent(ToyStepper):
        pass

    async def scenario(rig: Rig) -> None:
        generate = rig.pool.engine.generate

        async def silent(request: Any) -> Any:
            async for chunk in generate(request):
                yield type(chunk)(chunk.ids, None, None, chunk.finish, chunk.usage)

        rig.pool.engine.generate = silent  # type: ignore[method-assign, assignment]
        with pytest.raises(LmiError, match="1 of 1 requests of a step ended without them") as caught:
            await search(rig)
        assert caught.value.code == "engine.wrong-output"

    play(scenario)


def test_an_answer_that_an_extension_knows_is_given() -> None:
    def know(*, request: TextRequest) -> TextRequest:
        request.answer = "known"
        return request

    async def scenario(rig: Rig) -> None:
        assert [choice.result.text for choice in await search(rig)] == ["known"]
        assert rig.pool.groups == []

    play(scenario, request_filters=(know,))


def test_beams_of_a_small_vocabulary_ask_for_no_more_ids_than_there_are() -> None:
    async def scenario(rig: Rig) -> None:
        found = await search(rig, 8, 8, prompt="\x01\x02")
        assert len(found) == 8
        assert rig.pool.groups[0][0].request.sampling.n_logprobs == 5

    play(scenario, stepper=ToyStepper(toy_limits(vocab_size=5)))
