# SPDX-License-Identifier: Apache-2.0
"""What crosses between server and engine: requests going in, chunks of token ids coming out.

All types are msgspec structs: they travel as msgpack between processes and cost next to nothing a token.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec


class ReasoningMarks(msgspec.Struct, frozen=True, kw_only=True):
    """The ids between which a model writes reasoning before its answer.

    Args:
        start_id: opens the reasoning.
        end_id: closes it; the answer begins with the next id.
        is_open: the prompt has opened it. Otherwise the first id of the output tells whether there is any.
    """

    start_id: int
    end_id: int
    is_open: bool = False


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """A grammar the output must follow; crosses as source text and is compiled in the worker.

    Args:
        kind: ``json_schema``, ``regex``, ``choice`` or ``grammar``.
        source: the constraint itself, as text.
        reasoning: the output may begin with reasoning, and the constraint holds for what follows; None where it holds
            from the first id on. It is set for engines whose limits say ``reasons_first``.
    """

    kind: str
    source: str
    reasoning: ReasoningMarks | None = None


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen. Every default means "no effect", so an engine refuses only what was really asked.

    Each field's name is also the name of the capability a backend declares for it (see ``BackendInfo.capabilities``).

    Args:
        max_tokens: most ids to produce, at least 1; ids of an earlier, interrupted run count.
        min_tokens: no end-of-sequence or stop token before this many ids.
        temperature: unitless, >= 0; 0 means greedy and ignores the other sampling fields.
        top_k: keep the k most likely ids; 0 keeps all.
        top_p: keep the smallest set of ids whose probability reaches top_p, in (0, 1].
        min_p: drop ids less likely than min_p times the most likely one, in [0, 1].
        typical_p: locally typical sampling, mass in (0, 1]. Source: Meister et al. 2022.
        repetition_penalty: divides (positive) or multiplies (negative) logits of ids seen in prompt or output, > 0.
            Source: CTRL (Keskar et al. 2019).
        presence_penalty: subtracted once from logits of ids seen in the output, in [-2, 2].
        frequency_penalty: subtracted once per occurrence in the output, in [-2, 2].
        logit_bias: added to the logits of the given ids.
        bad_token_ids: ids that are never produced.
        bad_word_ids: sequences of two ids or more: where the output ends with all but the last id of one, the last is
            not produced. Ids of an earlier, interrupted run belong to the output.
        stop_token_ids: ids that end the output (the id is produced, then the request finishes).
        ignore_eos: go on past the model's end-of-sequence ids.
        seed: unsigned 64-bit; with a position it names one random number, whatever else runs (None only when greedy).
        n_logprobs: None for no log probabilities; 0 for the chosen id's; k adds the k most likely ids.
        n_prompt_logprobs: the same for each prompt id after the first.
        constraint: a grammar the output must follow.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    bad_token_ids: tuple[int, ...] = ()
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    n_logprobs: int | None = None
    n_prompt_logprobs: int | None = None
    constraint: Constraint | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sequence to generate.

    Args:
        request_id: unique in the server; a resumed request keeps its id.
        prompt_ids: token ids of the prompt, at least one.
        resumed_ids: ids that an earlier worker already produced. They count as output for lengths, penalties,
            positions of the random numbers and usage, and are never sent again.
        sampling: how tokens are chosen.
        adapter: name of a loaded adapter; empty means the base model.
        deadline_s: seconds from submission after which the request ends with what it has; None means no limit. LMI sees
            to it by closing the generator; an engine need not look at it.
        media: reserved for image, audio and video inputs.
    """

    request_id: str
    prompt_ids: list[int]
    sampling: SamplingParams
    resumed_ids: list[int] = []
    adapter: str = ""
    deadline_s: float | None = None
    media: tuple[Any, ...] = ()

    @property
    def n_reserved_tokens(self) -> int:
        """Tokens of cache this request may grow to: prompt plus the most it may produce."""
        return len(self.prompt_ids) + self.sampling.max_tokens


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The raw log probability (before temperature and penalties) of one id.

    Args:
        id: token id.
        logprob: natural logarithm, <= 0.
        rank: 1 for the most likely id; 0 where the engine does not tell.
        top: the most likely ids with their log probabilities, best first.
    """

    id: int
    logprob: float
    rank: int = 0
    top: tuple[tuple[int, float], ...] = ()


class FinishReason(str, Enum):
    EOS = "eos"
    STOP_TOKEN = "stop_token"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"


class Finish(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why a request ended; ``token_id`` is the end-of-sequence or stop id, which is also the last id produced."""

    reason: FinishReason
    token_id: int | None = None


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Token counts: prompt, output (resumed ids included) and how many prompt ids came from a cache."""

    n_prompt_tokens: int
    n_output_tokens: int
    n_cached_tokens: int = 0


class TokenChunk(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """One or more new ids of a request, in order.

    Args:
        ids: the new ids; empty only on a last chunk that ends without one (cancelled, deadline).
        logprobs: one entry an id, where they were asked for.
        prompt_logprobs: on the first chunk, where asked for: one entry a prompt id, None for the first.
        finish: set on the last chunk, after which nothing follows.
        usage: set on the last chunk.
    """

    ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish: Finish | None = None
    usage: Usage | None = None
