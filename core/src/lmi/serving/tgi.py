# SPDX-License-Identifier: Apache-2.0
"""Requests and answers as text-generation-inference has them, for ``tgi_compat``.

Source: the API of text-generation-inference 2 and 3, as huggingface_hub's InferenceClient reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from lmi.api.requests import TokenLogprob
from lmi.api.texts import TextResult, TextToken
from lmi.serving.answers import Writing, likely_tokens, prompt_tokens, shown_text
from lmi.serving.choices import Choice
from lmi.serving.generation import Generation
from lmi.serving.parameters import Parameters

_REASONS = {"stop_token": "stop_sequence", "deadline": "length", "cancelled": "length"}
"""Why an answer ended, where text-generation-inference has no such word."""


class _Token(msgspec.Struct, frozen=True, gc=False):
    id: int
    text: str
    logprob: float | None
    special: bool


def read(data: Any) -> Any:
    """A body in LMI's words.

    A parameter that is null was not asked for, no ``watermark`` is what every answer has, and ``adapter_id`` is the
    adapter.
    """
    if not isinstance(data, dict):
        return data
    data = {name: value for name, value in data.items() if value is not None}
    if isinstance(data.get("parameters"), dict):
        data["parameters"] = {name: value for name, value in data["parameters"].items() if value is not None}
        if data["parameters"].get("watermark") is False:
            del data["parameters"]["watermark"]
        adapter = data["parameters"].pop("adapter_id", None)
        if adapter is not None:
            n_inputs = len(data["inputs"]) if isinstance(data.get("inputs"), list) else 1
            data.setdefault("adapters", [adapter] * n_inputs)
    return data


def _whole(generation: Generation, parameters: Parameters, result: TextResult) -> dict[str, Any]:
    answer: dict[str, Any] = {"generated_text": shown_text(generation, parameters, result.text)}
    if parameters.wants_details:
        answer["details"] = _details(generation, parameters, result)
    return answer


def _of_choices(choices: Sequence[Choice], parameters: Parameters) -> dict[str, Any]:
    best, *others = choices
    answer = _whole(best.generation, parameters, best.result)
    if others:
        details = answer.setdefault("details", _details(best.generation, parameters, best.result))
        details["best_of_sequences"] = [
            {
                "generated_text": shown_text(each.generation, parameters, each.result.text),
                **_details(each.generation, parameters, each.result),
            }
            for each in others
        ]
    return answer


def _details(generation: Generation, parameters: Parameters, result: TextResult) -> dict[str, Any]:
    details: dict[str, Any] = {
        **_ending(result.finish_reason, result.n_output_tokens, generation),
        "prefill": _prefill(generation, parameters),
        "tokens": [_token(generation, each) for each in result.tokens],
    }
    if parameters.top_n_tokens is not None:
        entries = generation.logprobs[: result.n_output_tokens]
        details["top_tokens"] = [_likely(generation, each) for each in entries]
    return details


def _ending(reason: str, n_tokens: int, generation: Generation) -> dict[str, Any]:
    seed = generation.flight.request.sampling.seed
    return {"finish_reason": _REASONS.get(reason, reason), "generated_tokens": n_tokens, "seed": seed}


def _prefill(generation: Generation, parameters: Parameters) -> list[dict[str, Any]]:
    if not parameters.decoder_input_details and parameters.prompt_logprobs is None:
        return []
    return [{"id": each.id, "text": each.text, "logprob": each.logprob} for each in prompt_tokens(generation)]


def _token(generation: Generation, token: TextToken) -> _Token:
    return _Token(token.id, token.text, token.logprob, token.id in generation.model.tokenizer.special_ids)


def _likely(generation: Generation, entry: TokenLogprob) -> list[_Token]:
    return [_token(generation, token) for token in likely_tokens(generation, entry.top)]


def _lines(generation: Generation, parameters: Parameters) -> Callable[[list[TextToken]], list[Any]]:
    """What makes events of new tokens; they are numbered from 1."""
    n_told = 0

    def lines(tokens: list[TextToken]) -> list[Any]:
        nonlocal n_told
        if generation.finish_reason and not tokens:  # the end must be told, and there is no token to tell it
            tokens = [TextToken(generation.model.tokenizer.eos_ids[0] if generation.model.tokenizer.eos_ids else 0, "")]
        events = []
        for token in tokens:
            event: dict[str, Any] = {"index": n_told + 1, "token": _token(generation, token)}
            if parameters.top_n_tokens is not None and n_told < len(generation.logprobs):
                event["top_tokens"] = _likely(generation, generation.logprobs[n_told])
            n_told += 1
            events.append({**event, "generated_text": None, "details": None})
        if generation.finish_reason:
            events[-1]["generated_text"] = shown_text(generation, parameters, generation.text)
            ending = _ending(generation.finish_reason, generation.n_output_tokens, generation)
            events[-1]["details"] = {**ending, "input_length": generation.n_prompt_tokens}
        return events

    return lines


WRITING = Writing(whole=_whole, of_choices=_of_choices, lines=_lines)
