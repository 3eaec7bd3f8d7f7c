# SPDX-License-Identifier: Apache-2.0
"""A request answered by beam search: each step asks the engine for one token after every open sequence.

All sequences of a step go to the engine as one group, which it runs as a batch. Each is a request with the whole of its
sequence as prompt, so an engine with a prefix cache reads only what is new, and any other reads all of it once more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from lmi.api.errors import LmiError, UnsupportedError
from lmi.api.requests import Finish, FinishReason, GenerationRequest, SamplingParams, TokenChunk, TokenLogprob
from lmi.api.texts import TextRequest
from lmi.serving.beam_search import Beam, BeamSearch, BeamSettings
from lmi.serving.capabilities import as_field
from lmi.serving.choices import Choice
from lmi.serving.generation import Generation, too_late
from lmi.serving.text import OutputText
from lmi.workers.flight import Flight

if TYPE_CHECKING:
    from lmi.serving.models import Model

_HONOURED = frozenset(
    {"max_tokens", "min_tokens", "stop_token_ids", "ignore_eos", "seed", "n_logprobs", "n_prompt_logprobs"}
)
"""Fields of SamplingParams that mean something in a beam search; the others change or draw from probabilities."""

_N_SILENT_IDS = 16
"""Ids without a character of their own that may stand within a stop sequence: special ones, parts of characters."""


class Beams:
    """The answers to one request while they are searched for.

    Args:
        model: which answers.
        request: after all filters.
        engine_request: with the prompt and what is asked for one sequence.
        search: not begun.
        n_answers: how many of the sequences are answers.
        keeps_tokens: as Generation has it.
    """

    def __init__(
        self,
        model: Model,
        request: TextRequest,
        engine_request: GenerationRequest,
        search: BeamSearch,
        n_answers: int,
        *,
        keeps_tokens: bool = False,
    ) -> None:
        self.request = request
        self.n_answers = n_answers
        self.n_writes = 0
        self.n_output_tokens = 0
        self.n_prompt_tokens = len(engine_request.prompt_ids)
        self.started_s = time.monotonic()
        self.begun_s = self.first_token_s = self.last_token_s = 0.0
        self._model = model
        self._engine_request = engine_request
        self._search = search
        self._keeps_tokens = keeps_tokens
        self._n_steps = 0
        self._step: _Step | None = None
        self._error: LmiError | None = None
        self._prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def n_longest(self) -> int:
        return self._n_steps

    def cancel(self, reason: LmiError) -> None:
        """Stop searching; whoever waits for the answers gets the reason."""
        self._error = self._error or reason
        self.end()
        if self._step is not None:
            self._step.fail(reason)

    def end(self) -> None:
        """Stop searching; nobody waits any more."""
        for flight in self._step.flights if self._step is not None else ():
            self._model.pool.cancel(flight)

    async def result(self) -> list[Choice]:
        """Search to the end.

        Returns:
            ``n_answers`` answers, by score, or as many as there are sequences.
        Raises:
            LmiError: a step failed.
        """
        if self.request.answer is not None:
            return [await self._given(index, self.request.answer) for index in range(self.n_answers)]
        try:
            with self._model.adapters.held(self._engine_request.adapter):  # between two steps nothing uses it
                while not self._search.is_over:
                    await self._advance()
        except BaseException:
            self.end()
            raise
        return [await self._choice(index, beam) for index, beam in enumerate(self._search.ended[: self.n_answers])]

    async def _advance(self) -> None:
        """One step; or the end, where the time has run out."""
        if self._error is not None:
            raise self._error
        search, limit_s = self._search, self._engine_request.deadline_s
        left_s = None if limit_s is None else limit_s - (time.monotonic() - self.started_s)
        if left_s is None or left_s > 0:
            self._step = step = _Step([self._asked(i, left_s) for i in range(len(search.open))])
            self._model.pool.submit(step.flights, is_admitted=self._n_steps > 0)
            scores = await step.scores()
            if scores is not None:
                self._note(step, len(scores))
                search.advance([score.top for score in scores])
                return
        if not self._n_steps:
            raise too_late(limit_s)
        search.stop(Finish(FinishReason.DEADLINE))

    def _note(self, step: _Step, n_tokens: int) -> None:
        self._n_steps += 1
        self.n_output_tokens += n_tokens
        self.last_token_s = time.monotonic()
        self.first_token_s = self.first_token_s or self.last_token_s
        self.begun_s = self.begun_s or min(flight.begun_s for flight in step.flights)
        self._prompt_logprobs = self._prompt_logprobs or step.prompt_logprobs

    def _asked(self, index: int, deadline_s: float | None) -> GenerationRequest:
        """What the engine is asked for one sequence: the next token's most likely ids."""
        request = self._engine_request
        n_logprobs, limits = self._search.n_logprobs, self._model.pool.limits
        if limits is not None and limits.vocab_size:
            n_logprobs = min(n_logprobs, limits.vocab_size)
        n_prompt_logprobs = None if self._n_steps else request.sampling.n_prompt_logprobs
        return msgspec.structs.replace(
            request,
            request_id=f"{request.request_id}/{self._n_steps}.{index}",
            prompt_ids=[*request.prompt_ids, *self._search.open[index].ids],
            sampling=SamplingParams(max_tokens=1, n_logprobs=n_logprobs, n_prompt_logprobs=n_prompt_logprobs),
            deadline_s=deadline_s,
        )

    async def _given(self, index: int, answer: str) -> Choice:
        """An answer that an extension gave."""
        generation = self._generation(index)
        generation.give(answer)
        return Choice(generation=generation, result=await generation.result())

    async def _choice(self, index: int, beam: Beam) -> Choice:
        """The answer of one sequence: its ids take the way that those of an engine take."""
        generation = self._generation(index)
        chunk = TokenChunk(beam.ids, beam.logprobs, self._prompt_logprobs, beam.finish)
        generation.flight.on_chunk(chunk)
        return Choice(generation=generation, result=await generation.result(), score=beam.score)

    def _generation(self, index: int) -> Generation:
        name = f"{self.request.request_id}/{index}"
        request = dataclasses.replace(self.request, request_id=name, scratch=dict(self.request.scratch))
        engine_request = msgspec.structs.replace(self._engine_request, request_id=name)
        return Generation(self._model, request, engine_request, keeps_tokens=self._keeps_tokens)


class _Step:
    """One token for each open sequence.

    Args:
        requests: what the engine is asked, in the order of the sequences.
    """

    def __init__(self, requests: list[GenerationRequest]) -> None:
        self.flights = [
            Flight(request, partial(self._on_chunk, index), self.fail) for index, request in enumerate(requests)
        ]
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self._scores: list[TokenLogprob | None] = [None] * len(requests)
        self._n_open = len(requests)
        self._is_late = False
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def scores(self) -> list[TokenLogprob] | None:
        """An entry a sequence; None where the time ran out before.

        Raises:
            LmiError: one of the requests failed.
        """
        await self._done
        scores = [score for score in self._scores if score is not None]
        if len(scores) == len(self._scores) and all(score.top for score in scores):
            return scores
        if self._is_late:
            return None
        missing = f"{len(self._scores) - len(scores)} of {len(self._scores)} requests of a step ended without them"
        raise LmiError(
            "engine.wrong-output", f"a beam search needs log probabilities: {missing}", "See the worker's log"
        )

    def fail(self, error: LmiError) -> None:
        """End with an error; the first one counts."""
        if not self._done.done():
            self._done.set_exception(error)

    def _on_chunk(self, index: int, chunk: TokenChunk) -> None:
        if chunk.logprobs:
            self._scores[index] = chunk.logprobs[0]
        self.prompt_logprobs = self.prompt_logprobs or chunk.prompt_logprobs
        if chunk.finish is not None:
            self._n_open -= 1
            self._is_late |= chunk.finish.reason is FinishReason.DEADLINE
            if not self._n_open and not self._done.done():
                self._done.set_result(None)


async def admit_beams(
    model: Model,
    request: TextRequest,
    settings: BeamSettings,
    *,
    n_answers: int,
    keeps_tokens: bool = False,
    asked_as: Callable[[str, Any], str] = as_field,
) -> Beams:
    """Check a request that is answered by beam search; ``Beams.result`` does the work.

    Args:
        model: which answers.
        request: in the words of the server, with ``n_logprobs`` of sampling.
        settings: of the search.
        n_answers: at most ``settings.n_beams``.
        keeps_tokens, asked_as: as in ``Model.admit``.
    Raises:
        RequestError: it cannot be served as it is.
        NotReadyError, OverloadedError: it cannot be served now.
    """
    request, engine_request = await model.prepare(request, n_sequences=settings.n_beams, asked_as=asked_as)
    _refuse_other_probabilities(request.sampling, settings.n_beams, asked_as)
    has_stopped = None
    if request.stop_sequences:
        has_stopped = partial(_has_stopped, model, request, engine_request.prompt_ids)
    search = BeamSearch(settings, engine_request.sampling, model.plan.artifacts.eos_token_ids, has_stopped)
    return Beams(model, request, engine_request, search, n_answers, keeps_tokens=keeps_tokens)


def _refuse_other_probabilities(sampling: SamplingParams, n_beams: int, asked_as: Callable[[str, Any], str]) -> None:
    plain = SamplingParams(max_tokens=1)
    fields = [name for name in SamplingParams.__struct_fields__ if name not in _HONOURED]
    asked = [name for name in fields if getattr(sampling, name) != getattr(plain, name)]
    if asked:
        texts = ", ".join(dict.fromkeys(asked_as(name, getattr(sampling, name)) for name in asked))
        raise UnsupportedError(
            "request.unsupported",
            f"num_beams={n_beams} and {texts} were asked, but beams go by the model's own probabilities",
            "Leave out num_beams, or the rest",
        )


def _has_stopped(model: Model, request: TextRequest, prompt_ids: list[int], ids: list[int]) -> bool:
    """Whether a sequence ends with a stop sequence; without its last id it does not.

    Only its end is looked at: every candidate of every step is, in the server's event loop.
    """
    n_looked_at = max(map(len, request.stop_sequences)) + _N_SILENT_IDS
    before = ids[:-n_looked_at] or prompt_ids
    text = OutputText(model.tokenizer.decoder(before, shows_special=request.shows_special), request.stop_sequences)
    text.add(ids[-n_looked_at:])
    return text.stop_sequence is not None
