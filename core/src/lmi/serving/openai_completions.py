# SPDX-License-Identifier: Apache-2.0
"""OpenAI's completions: texts or ids in, texts out, whole or as they grow.

Source: OpenAI's API reference, completions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lmi.api.errors import UnsupportedError
from lmi.api.texts import TextRequest, TextToken
from lmi.serving.choices import Choice, prepare_choices
from lmi.serving.openai_answers import ChoicesAnswer, Group, Growing, Scores, finish_reason_of
from lmi.serving.openai_bodies import CompletionBody
from lmi.serving.parameters import Parameters
from lmi.serving.tokenizer import MANY_IDS
from lmi.threads import aside

if TYPE_CHECKING:
    from lmi.serving.generation import Generation
    from lmi.serving.models import Model
    from lmi.serving.streaming import Exchange, Form


_N_TOKENS = 16
"""Most tokens of an answer where nothing says. Source: OpenAI's API reference."""


class Completions(ChoicesAnswer[CompletionBody]):
    """The answer to one completion request."""

    body_type = CompletionBody
    whole_kind = piece_kind = "text_completion"
    id_start = "cmpl"

    def __init__(self, model: Model, exchange: Exchange, form: Form, body: CompletionBody, adapter: str) -> None:
        super().__init__(model, exchange, form, body, adapter)
        if body.stream and (body.best_of or self._n) > self._n:
            raise UnsupportedError(
                "request.unsupported",
                f"best_of={body.best_of} was asked of a stream; which answers are best is known at their end",
                "Leave out stream or best_of",
            )

    @property
    def _is_prompt_alone(self) -> bool:
        """Whether the prompt is all that is wanted; the one token that every engine makes is left out."""
        return self._body.max_tokens == 0

    async def start(self) -> Group:
        body, model = self._body, self.model
        n_new = _N_TOKENS if body.max_tokens is None else max(1, body.max_tokens)
        n_tops = body.logprobs
        parameters = body.parameters(
            draws=model.draws, max_new_tokens=n_new, best_of=body.best_of,
            top_n_tokens=n_tops, prompt_logprobs=n_tops if body.echo else None,
        )  # fmt: skip
        choices = []
        for index, prompt in enumerate(body.prompts):
            if index:
                await asyncio.sleep(0)  # prompts that are encoded at once, one after the other, hold up nobody else
            prompted = partial(self._prompted, prompt, index, parameters)
            request = await aside(prompted, is_long=not isinstance(prompt, str) and len(prompt) > MANY_IDS)
            choices.append(await prepare_choices(
                model, request, n_answers=self._n,
                n_candidates=body.best_of or self._n, keeps_tokens=n_tops is not None, asked_as=body.asked_as,
            ))  # fmt: skip
        group = Group(choices)
        model.start([*group.generations])
        return group

    def _prompted(self, prompt: str | list[int], index: int, parameters: Parameters) -> TextRequest:
        is_text, own_id = isinstance(prompt, str), self._exchange.unique_id
        return self.request(
            parameters,
            request_id=f"{own_id}-{index}" if index else own_id,
            prompt=prompt if is_text else self.model.tokenizer.decode(prompt),  # type: ignore[arg-type]
            prompt_ids=None if is_text else tuple(prompt),
            sampling=parameters.sampling(shows_logprobs=self._body.logprobs is not None),
        )

    def _usage(self, group: Group) -> dict[str, int]:
        usage = super()._usage(group)
        if self._is_prompt_alone:
            usage |= {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        return usage

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        tokens, text = choice.result.tokens, choice.result.text
        if self._is_prompt_alone:
            tokens, text = [], ""
        before = choice.generation.request.prompt if self._body.echo else ""
        logprobs = None
        if self._body.logprobs is not None:
            scores = Scores(choice.generation)
            logprobs = scores.plain(tokens, len(before))
            logprobs = _behind_prompt(scores, logprobs) if self._body.echo else logprobs
        return {
            "index": index,
            "text": before + text,
            "logprobs": logprobs,
            "finish_reason": "length" if self._is_prompt_alone else finish_reason_of(choice.generation),
        }

    def _growing(self, index: int, generation: Generation) -> Growing:
        scores = None if self._body.logprobs is None else Scores(generation)
        before = generation.request.prompt if self._body.echo else None
        return _GrowingText(index, generation, scores, before=before, is_prompt_alone=self._is_prompt_alone)


class _GrowingText:
    """One choice of a stream.

    Args:
        index: among the choices.
        generation: which writes it.
        scores: of its tokens; None where nobody asked for them.
        before: the prompt, where it begins with that.
        is_prompt_alone: nothing comes behind it.
    """

    def __init__(
        self, index: int, generation: Generation, scores: Scores | None, *, before: str | None, is_prompt_alone: bool
    ) -> None:
        self._index, self._generation, self._scores, self._before = index, generation, scores, before
        self._is_prompt_alone = is_prompt_alone
        self._n_chars = 0

    def pieces(self, tokens: Sequence[TextToken]) -> list[dict[str, Any]]:
        """See ``Growing``."""
        before, self._before = self._before, None
        if self._is_prompt_alone:
            tokens = []
        text = "".join(token.text for token in tokens)
        logprobs = None
        if self._scores is not None:
            self._n_chars += len(before or "")
            logprobs = self._scores.plain(tokens, self._n_chars)
            self._n_chars += len(text)
            logprobs = logprobs if before is None else _behind_prompt(self._scores, logprobs)
        text = (before or "") + text
        reason = finish_reason_of(self._generation) if self._generation.finish_reason else None
        if reason and self._is_prompt_alone:
            reason = "length"
        return [{"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": reason}]


def _behind_prompt(scores: Scores, logprobs: dict[str, Any]) -> dict[str, Any]:
    """Log probabilities of first tokens, behind those of the prompt's."""
    of_prompt = scores.of_prompt()
    return {name: [*of_prompt[name], *values] for name, values in logprobs.items()}
