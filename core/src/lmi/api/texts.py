# SPDX-License-Identifier: Apache-2.0
"""What extensions see in the server: a request as text, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lmi.api.requests import SamplingParams


@dataclass(kw_only=True)
class TextRequest:
    """One text to complete. ``lmi_filter_request`` may change everything but request_id, model and stream, or answer.

    Args:
        request_id: unique in the server; begins with the caller's ``x-request-id`` where there is one.
        model: name of the model that will answer.
        prompt: the text.
        sampling: how tokens are chosen.
        stop_sequences: texts that end the output; not part of it.
        bad_words: texts that must not be produced; they become ``bad_token_ids`` and ``bad_word_ids`` of sampling.
        keeps_stop: the stop sequence or end token that ends the output is part of its text.
        shows_special: special tokens of the tokenizer have a text in the output: all of them, or those of these ids.
        prompt_ids: ids of the prompt, where the caller sent those; they hold as long as no filter changes ``prompt``.
        adds_special: whether the prompt gets the special tokens that the tokenizer puts around a text; a chat template
            writes its own.
        fills_context: the output may be as long as the context allows, whatever ``max_tokens`` of sampling says.
        n_last_prompt_tokens: cut the prompt to its last so many tokens; None takes all.
        stream: whether the caller reads tokens as they come.
        adapter: adapter name; empty means the base model.
        headers: of the HTTP request, names in lower case.
        answer: set by an extension that knows the answer; the engine is not asked, and ``lmi_filter_text`` sees it.
        scratch: for extensions, to keep what they need from one hook to the next.
    """

    request_id: str
    model: str
    prompt: str
    sampling: SamplingParams
    stop_sequences: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    keeps_stop: bool = False
    shows_special: bool | frozenset[int] = False
    prompt_ids: tuple[int, ...] | None = None
    adds_special: bool = True
    fills_context: bool = False
    n_last_prompt_tokens: int | None = None
    stream: bool = False
    adapter: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None
    scratch: dict[str, Any] = field(default_factory=dict)


class TextToken(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, rename={"logprob": "log_prob"}):
    """One produced token: id, the text it added, and its log probability where the backend gives it.

    Encodes to LMI's JSON: ``{"id": 5, "text": " a", "log_prob": -0.1}``.
    """

    id: int
    text: str
    logprob: float | None = None


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """A finished request.

    Args:
        text: the generated text, after all filters.
        tokens: one entry a produced id.
        finish_reason: ``length``, ``eos_token``, ``stop_sequence``, ``stop_token`` or ``deadline``.
        n_prompt_tokens: ids in the prompt.
        n_output_tokens: ids produced.
        others: further answers, best first, where the request asked for several; this one is the best.
    """

    text: str
    tokens: list[TextToken]
    finish_reason: str
    n_prompt_tokens: int
    n_output_tokens: int
    others: tuple[TextResult, ...] = ()
