# SPDX-License-Identifier: Apache-2.0
"""Answers in LMI's schema: one object, or a line a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lmi.api.requests import TokenLogprob
from lmi.api.texts import TextResult, TextToken
from lmi.custom.formatter import Formatter, GrowingAnswer
from lmi.serving.choices import Choice
from lmi.serving.generation import Generation
from lmi.serving.parameters import Parameters
from lmi.serving.streaming import JSON_LINES, Form, unbroken

encoder = msgspec.json.Encoder()


class Line(msgspec.Struct, omit_defaults=True):
    """One line of a stream; the last one also has the whole text."""

    token: TextToken | msgspec.UnsetType = msgspec.UNSET
    generated_text: str | None = None
    details: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What answers are made of.

    Args:
        whole: the object that answers a request.
        of_choices: the object that answers a request for several answers.
        lines: what makes objects of a stream of new tokens; the last of them is told by the generation.
    """

    whole: Callable[[Generation, Parameters, TextResult], dict[str, Any]]
    of_choices: Callable[[Sequence[Choice], Parameters], dict[str, Any]]
    lines: Callable[[Generation, Parameters], Callable[[list[TextToken]], list[Any]]]


def stream_writer(
    generation: Generation, parameters: Parameters, formatter: Formatter | None, writing: Writing, form: Form
) -> Callable[[list[TextToken]], bytes]:
    """What turns new tokens into bytes of a stream, or what the model's own formatter makes of them.

    Args:
        generation, parameters: the request.
        formatter: of the model's own file.
        writing, form: of the stream.
    """
    if formatter is not None and not formatter.takes_answer:
        written = growing_answer(formatter, generation, parameters)
        return lambda tokens: written.add(tokens, generation.finish_reason)
    lines = writing.lines(generation, parameters)
    if formatter is not None:
        change, plain = formatter.answer, lines
        lines = lambda tokens: [change(line) for line in plain(tokens)]  # noqa: E731
    if form.stream_type is JSON_LINES:
        return lambda tokens: unbroken(encoder.encode_lines(lines(tokens)))
    framed, encode = form.framed, encoder.encode
    return lambda tokens: b"".join([framed(encode(line)) for line in lines(tokens)])


def outputs_writer(generation: Generation, parameters: Parameters) -> Callable[[list[TextToken]], list[Any]]:
    """Lines of dynamic batches: the text of each token.

    Source: ``enable_streaming`` of DJL Serving 0.26.
    """
    return lambda tokens: [{"outputs": [token.text]} for token in tokens]


def growing_answer(formatter: Formatter, generation: Generation, parameters: Parameters) -> GrowingAnswer:
    """The body of one request that a per-token formatter writes."""
    asked = parameters.model_dump(exclude_unset=True)
    return formatter.growing(generation.request, generation.flight.request.prompt_ids, asked)


def whole_answer(generation: Generation, parameters: Parameters, result: TextResult) -> dict[str, Any]:
    """The one object that answers a request."""
    answer: dict[str, Any] = {"generated_text": shown_text(generation, parameters, result.text)}
    if parameters.wants_details:
        answer["details"] = _details(generation, parameters, result)
    return answer


def answer_of_choices(choices: Sequence[Choice], parameters: Parameters) -> dict[str, Any]:
    """The one object that answers a request for several: the best, and in its details the others, best first.

    Source: ``best_of_sequences`` of text-generation-inference.
    """
    best, *others = choices
    answer = whole_answer(best.generation, parameters, best.result)
    if others or parameters.wants_details:  # there is no other place for the others
        details = answer.setdefault("details", _ending(best.result))
        details.update(_seed_of(best))
        if others:
            details["best_of_sequences"] = [_sequence(each, parameters) for each in others]
    return answer


def _sequence(choice: Choice, parameters: Parameters) -> dict[str, Any]:
    generation, result = choice.generation, choice.result
    text = shown_text(generation, parameters, result.text)
    sequence: dict[str, Any] = {"generated_text": text, **_ending(result), **_seed_of(choice)}
    if parameters.wants_details:
        sequence["tokens"] = result.tokens
    if parameters.top_n_tokens is not None:
        sequence["top_tokens"] = _top_tokens(generation)
    return sequence


def _ending(result: TextResult) -> dict[str, Any]:
    return {"finish_reason": result.finish_reason, "generated_tokens": result.n_output_tokens}


def _seed_of(choice: Choice) -> dict[str, int]:
    """The seed that brings the same answer again."""
    seed = choice.generation.flight.request.sampling.seed
    return {} if seed is None else {"seed": seed}


def _lines(generation: Generation, parameters: Parameters) -> Callable[[list[TextToken]], list[Any]]:
    """A line a token; when the answer is complete, the last one says so."""

    def lines(tokens: list[TextToken]) -> list[Any]:
        lines = [Line(token) for token in tokens]
        if generation.finish_reason:
            lines = lines or [Line()]
            lines[-1].generated_text = shown_text(generation, parameters, generation.text)
            if parameters.wants_details:
                lines[-1].details = _details(generation, parameters, None)
        return lines

    return lines


PLAIN = Writing(whole=whole_answer, of_choices=answer_of_choices, lines=_lines)
"""LMI's own."""


def shown_text(generation: Generation, parameters: Parameters, text: str) -> str:
    """The text of an answer, behind the prompt where that was asked for."""
    return generation.request.prompt + text if parameters.return_full_text else text


def _details(generation: Generation, parameters: Parameters, result: TextResult | None) -> dict[str, Any]:
    """``details`` of an answer; a stream has sent its tokens already."""
    details: dict[str, Any] = {
        "finish_reason": generation.finish_reason,
        "generated_tokens": generation.n_output_tokens,
        "inputs": generation.request.prompt,
    }
    if result is not None:
        details["tokens"] = result.tokens
    if parameters.decoder_input_details or parameters.prompt_logprobs is not None:
        details |= _prefill(generation, has_top=bool(parameters.prompt_logprobs))
    if parameters.top_n_tokens is not None:
        details["top_tokens"] = _top_tokens(generation)
    return details


def _prefill(generation: Generation, *, has_top: bool) -> dict[str, Any]:
    """The prompt's tokens, and the most likely ones in their places; the first has no probability."""
    prefill: dict[str, Any] = {"prefill": prompt_tokens(generation)}
    if has_top:
        logprobs = _prompt_logprobs(generation)
        prefill["prefill_top_tokens"] = [
            likely_tokens(generation, () if entry is None else entry.top, shows_special=True) for entry in logprobs
        ]
    return prefill


def prompt_tokens(generation: Generation) -> list[TextToken]:
    """The prompt's tokens, special ones as well, with their log probabilities; the first has none."""
    ids = generation.flight.request.prompt_ids
    pieces = generation.model.tokenizer.decoder(shows_special=True).push(ids)
    return [
        TextToken(token_id, piece, None if entry is None else entry.logprob)
        for token_id, piece, entry in zip(ids, pieces, _prompt_logprobs(generation), strict=True)
    ]


def _prompt_logprobs(generation: Generation) -> list[TokenLogprob | None]:
    return generation.prompt_logprobs or [None] * len(generation.flight.request.prompt_ids)


def _top_tokens(generation: Generation) -> list[list[TextToken]]:
    return [likely_tokens(generation, entry.top) for entry in generation.logprobs[: generation.n_output_tokens]]


def likely_tokens(
    generation: Generation, top: Sequence[tuple[int, float]], *, shows_special: bool = False
) -> list[TextToken]:
    """The most likely tokens in one place, with what each would add to the text there.

    Args:
        generation: whose place it is.
        top: ids and log probabilities.
        shows_special: special tokens have a text, also where the answer shows none.
    """
    return [
        TextToken(
            token_id, generation.token_bytes(token_id, shows_special=shows_special).decode(errors="replace"), value
        )
        for token_id, value in top
    ]
