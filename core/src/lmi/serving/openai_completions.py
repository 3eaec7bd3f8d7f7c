# SPDX-License-Identifier: Apache-2.0
"""OpenAI's completions: texts or ids in, texts out, whole or as they grow.

Source: OpenAI's API reference, completions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from lmi.api.errors import UnsupportedError
from lmi.api.texts import TextRequest, TextToken
from lmi.serving.choices import Choice, Choices, prepare_choices
from lmi.serving.openai_answers import (
    Group,
    Scores,
    encoder,
    finish_reason_of,
    head_of,
    side_by_side,
    usage_of,
)
from lmi.serving.openai_bodies import CompletionBody
from lmi.serving.parameters import Parameters

if TYPE_CHECKING:
    from lmi.serving.generation import Generation
    from lmi.serving.models import Model
    from lmi.serving.streaming import Exchange, Form


_N_TOKENS = 16
"""Most tokens of an answer where nothing says. Source: OpenAI's API reference."""


class Completions:
    """The answer to one completion request.

    Args:
        model: which answers.
        exchange: the request.
        form: of a stream.
        body: of the request.
        adapter: which it asks for.
    Raises:
        RequestError: it asks for what cannot be.
    """

    body_type: ClassVar[type[BaseModel]] = CompletionBody

    def __init__(self, model: Model, exchange: Exchange, form: Form, body: CompletionBody, adapter: str) -> None:
        self._model, self._exchange, self._form, self._adapter = model, exchange, form, adapter
        self._body = body
        self._n = body.n or 1
        if body.stream and (body.best_of or self._n) > self._n:
            raise UnsupportedError(
                "request.unsupported",
                f"best_of={body.best_of} was asked of a stream; which answers are best is known at their end",
                "Leave out stream or best_of",
            )
        self._head = head_of("text_completion", f"cmpl-{exchange.request_id}", model, body.model)

    @property
    def is_stream(self) -> bool:
        return bool(self._body.stream)

    async def start(self) -> Group:
        """Start all sequences, or none.

        Raises:
            LmiError: they cannot be served.
        """
        body, model = self._body, self._model
        n_tops = body.logprobs
        parameters = body.parameters(draws=model.draws,
            max_new_tokens=body.max_tokens or _N_TOKENS, best_of=body.best_of, top_n_tokens=n_tops,
            prompt_logprobs=n_tops if body.echo else None,
        )  # fmt: skip
        choices = [
            await prepare_choices(
                model, self._request(prompt, index, parameters), n_answers=self._n,
                n_candidates=body.best_of or self._n, keeps_tokens=n_tops is not None, asked_as=body.asked_as,
            )
            for index, prompt in enumerate(body.prompts)
        ]  # fmt: skip
        group = Group(choices)
        model.start([*group.generations])
        return group

    def _request(self, prompt: str | list[int], index: int, parameters: Parameters) -> TextRequest:
        body, is_text = self._body, isinstance(prompt, str)
        text = prompt if isinstance(prompt, str) else self._model.tokenizer.decode(prompt)
        return TextRequest(
            request_id=f"{self._exchange.unique_id}-{index}" if index else self._exchange.unique_id,
            model=self._model.name,
            prompt=text,
            prompt_ids=None if is_text else tuple(prompt),  # type: ignore[arg-type]
            sampling=parameters.sampling(shows_logprobs=body.logprobs is not None),
            stop_sequences=tuple(parameters.stop_sequences),
            bad_words=tuple(parameters.bad_words),
            keeps_stop=parameters.include_stop_str_in_output,
            shows_special=not parameters.skip_special_tokens,
            stream=bool(body.stream),
            adapter=self._adapter,
            headers=self._exchange.headers,
        )

    # --------------------------------------------------------------------------------------------------------- answers

    async def whole(self, group: Group) -> None:
        """Answer with one object."""
        found = [await choices.result() for choices in group.choices]
        choices = [
            self._choice(place * self._n + index, choice, group.choices[place])
            for place, each in enumerate(found)
            for index, choice in enumerate(each)
        ]
        answer = {**self._head, "choices": choices, "usage": usage_of(group.choices)}
        await self._exchange.answer(encoder.encode(answer))

    def _choice(self, index: int, choice: Choice, choices: Choices) -> dict[str, Any]:
        before = choices.request.prompt if self._body.echo else ""
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = Scores(choice.generation).plain(choice.result.tokens, len(before))
            if self._body.echo:
                of_prompt = _of_prompt(choice.generation)
                logprobs = {name: [*of_prompt[name], *values] for name, values in logprobs.items()}
        return {
            "index": index,
            "text": before + choice.result.text,
            "logprobs": logprobs,
            "finish_reason": finish_reason_of(choice.generation),
        }

    async def stream(self, group: Group) -> None:
        """Answer piece by piece."""
        body, form, exchange = self._body, self._form, self._exchange
        generations = group.generations
        scores = [Scores(each) for each in generations]
        lengths = [0] * len(generations)
        is_started = False
        async for place, tokens in side_by_side(generations):
            generation = generations[place]
            text = "".join(token.text for token in tokens)
            if body.echo and not lengths[place] and not generation.n_writes:
                text = generation.request.prompt + text
            piece = self._piece(place, text, generation, scores[place], tokens, lengths[place])
            lengths[place] += len(text)
            if not is_started:
                await exchange.start(200, form.stream_type)
                is_started = True
            generation.n_writes += 1
            await exchange.write(form.framed(encoder.encode(piece)))
        if body.wants_usage:
            usage = {**self._head, "choices": [], "usage": usage_of(group.choices)}
            await exchange.write(form.framed(encoder.encode(usage)))
        await exchange.write(form.last, is_last=True)

    def _piece(
        self, index: int, text: str, generation: Generation, scores: Scores, tokens: list[TextToken], offset: int
    ) -> dict[str, Any]:
        reason = finish_reason_of(generation) if generation.finish_reason else None
        logprobs = None if self._body.logprobs is None else scores.plain(tokens, offset)
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        piece = {**self._head, "choices": [choice]}
        return {**piece, "usage": None} if self._body.wants_usage else piece


def _of_prompt(generation: Generation) -> dict[str, list[Any]]:
    """Log probabilities of the prompt's tokens; the first has none."""
    ids = generation.flight.request.prompt_ids
    entries = generation.prompt_logprobs or [None] * len(ids)
    decode = generation.model.tokenizer.decode
    texts, offset = [decode([token_id]) for token_id in ids], 0
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [None if each is None else each.logprob for each in entries],
        "top_logprobs": [
            None if each is None else {decode([token_id]): value for token_id, value in each.top} for each in entries
        ],
        "text_offset": offsets,
    }
