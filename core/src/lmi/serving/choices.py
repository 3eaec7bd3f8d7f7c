# SPDX-License-Identifier: Apache-2.0
"""Several answers to one request: each candidate is a request of its own to the engine, and the best are answers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from lmi.api.errors import DeadlineError, LmiError, RequestError
from lmi.api.requests import GenerationRequest
from lmi.api.texts import TextRequest, TextResult
from lmi.serving.capabilities import as_field
from lmi.serving.generation import Generation

if TYPE_CHECKING:
    from lmi.serving.models import Model


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several answers, complete.

    Args:
        generation: how it came about: its tokens, log probabilities and seed.
        result: the answer.
        score: what it was ranked by, the higher the better.
    """

    generation: Generation
    result: TextResult
    score: float = 0.0


class Choices:
    """The candidates for the answers to one request, while they grow side by side.

    Args:
        request: after all filters.
        generations: the candidates, in the order of their seeds.
        n_answers: how many of them are answers.
    """

    def __init__(self, request: TextRequest, generations: Sequence[Generation], n_answers: int) -> None:
        self.request = request
        self.generations = tuple(generations)
        self.n_answers = n_answers
        self.n_writes = 0
        self.started_s = self.generations[0].started_s
        self.n_prompt_tokens = self.generations[0].n_prompt_tokens

    @property
    def n_output_tokens(self) -> int:
        """Tokens produced, those of candidates that are no answer included."""
        return sum(generation.n_output_tokens for generation in self.generations)

    @property
    def first_token_s(self) -> float:
        return min((each.first_token_s for each in self.generations if each.first_token_s), default=0.0)

    @property
    def last_token_s(self) -> float:
        return max(each.last_token_s for each in self.generations)

    @property
    def begun_s(self) -> float:
        return min((each.begun_s for each in self.generations if each.begun_s), default=0.0)

    @property
    def n_longest(self) -> int:
        return max(each.n_output_tokens for each in self.generations)

    def cancel(self, reason: LmiError) -> None:
        """Stop generating; whoever waits for an answer gets the reason."""
        for generation in self.generations:
            generation.cancel(reason)

    def end(self) -> None:
        """Stop generating; nobody waits any more."""
        for generation in self.generations:
            generation.end()

    async def result(self) -> list[Choice]:
        """Wait for all candidates.

        Returns:
            ``n_answers`` answers. Where there are more candidates, the best come first, by cumulative log probability;
            where there are not, all come in the order of their seeds.
        Raises:
            LmiError: a candidate failed. Those that had no token when the time ran out are passed over, as long as
                there are enough others.
        """
        tasks = [asyncio.ensure_future(self._complete(generation)) for generation in self.generations]
        try:
            ended = await asyncio.gather(*tasks)
        except BaseException:
            self.end()
            for task in tasks:
                task.cancel()
            raise
        choices = [each for each in ended if isinstance(each, Choice)]
        late = [each for each in ended if isinstance(each, DeadlineError)]
        if len(choices) < self.n_answers:
            raise late[0]
        if len(self.generations) > self.n_answers:
            choices.sort(key=lambda choice: -choice.score)
        for choice in choices:
            choice.generation.prompt_logprobs = self.generations[0].prompt_logprobs
        return choices[: self.n_answers]

    @staticmethod
    async def _complete(generation: Generation) -> Choice | DeadlineError:
        try:
            result = await generation.result()
        except DeadlineError as error:
            return error
        return Choice(generation=generation, result=result, score=_total_logprob(generation))


async def admit_choices(model: Model, request: TextRequest, **more: Any) -> Choices:
    """Start the candidates for several answers to one request: all of them, or none.

    Args:
        model, request, more: as ``prepare_choices`` has them.
    Raises:
        LmiError: as ``prepare_choices`` and ``Model.start`` do.
    """
    choices = await prepare_choices(model, request, **more)
    model.start([*choices.generations])
    return choices


async def prepare_choices(
    model: Model,
    request: TextRequest,
    *,
    n_answers: int,
    n_candidates: int,
    keeps_tokens: bool = False,
    asked_as: Callable[[str, Any], str] = as_field,
) -> Choices:
    """The candidates for the answers to one request, not started yet.

    Args:
        model: which answers.
        request: in the words of the server; where candidates are more than answers, with log probabilities.
        n_answers, n_candidates: how many of each; as many answers at most.
        keeps_tokens, asked_as: as in ``Model.admit``.
    Raises:
        RequestError: it cannot be served as it is.
        NotReadyError, OverloadedError: it cannot be served now.
    """
    request, engine_request = await model.prepare(request, n_sequences=n_candidates, asked_as=asked_as)
    if n_candidates > 1 and request.answer is None and engine_request.sampling.temperature == 0:
        raise RequestError(
            "request.same-answers",
            f"{n_candidates} answers were asked for and nothing is drawn, so that all of them would be the same",
            "Draw tokens (do_sample=true, or a temperature), or ask for one answer",
        )
    keeps_tokens = keeps_tokens or n_candidates > n_answers
    generations = [
        Generation(
            model,
            _child(request, i),
            _engine_child(engine_request, i, is_stream=request.stream),
            keeps_tokens=keeps_tokens,
        )
        for i in range(n_candidates)
    ]
    return Choices(request, generations, n_answers)


def _child(request: TextRequest, index: int) -> TextRequest:
    # What an extension's text filter keeps of one candidate is not another's.
    return dataclasses.replace(request, request_id=f"{request.request_id}/{index}", scratch=dict(request.scratch))


def _engine_child(request: GenerationRequest, index: int, *, is_stream: bool) -> GenerationRequest:
    sampling = request.sampling
    # One prompt is scored once; but a stream's answers wait for no other.
    changes: dict[str, Any] = {"n_prompt_logprobs": None} if index and not is_stream else {}
    if sampling.seed is not None:
        changes["seed"] = (sampling.seed + index) % 2**64
    return msgspec.structs.replace(
        request,
        request_id=f"{request.request_id}/{index}",
        sampling=msgspec.structs.replace(sampling, **changes),
    )


def _total_logprob(generation: Generation) -> float:
    """What candidates are ranked by: how likely the whole answer is."""
    logprobs = [entry.logprob for entry in generation.logprobs[: generation.n_output_tokens]]
    return sum(logprobs) if logprobs else float("-inf")
