# SPDX-License-Identifier: Apache-2.0
"""What a stepper cannot serve is refused before it is queued: one bad request never reaches a batch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

from lmi.api import (
    GenerationRequest,
    NotFoundError,
    RequestError,
    SamplingParams,
    StepperLimits,
    TooLargeError,
    UnsupportedError,
)

_OFFERED = "Leave it out, or use a backend that offers it: lmi plugins"

MAX_SEED = 2**64 - 1
_MOST_BIAS = 2.0**127
"""Larger numbers are infinite in 32 bits."""

_DEVICE_SAMPLED = ("max_tokens", "stop_token_ids", "ignore_eos", "seed")
"""All that can be honoured when the stepper returns ids: what is judged after the token is chosen."""


def check_request(
    request: GenerationRequest,
    limits: StepperLimits,
    *,
    takes_constraints: bool = False,
    adapters: Collection[str] | None = None,
) -> None:
    """Refuse what these limits cannot serve.

    Args:
        request: the request as it arrived.
        limits: of the stepper that would run it.
        takes_constraints: whether there is something that compiles them.
        adapters: those that are loaded; None where there cannot be any.
    Raises:
        NotFoundError: it names an adapter that is not loaded.
        UnsupportedError: it asks for something steppers do not offer.
        TooLargeError: it can never fit; the text has both numbers.
        RequestError: anything else that is wrong; several faults are reported together.
    """
    faults = [
        *_unsupported(request, limits, takes_constraints),
        *_adapter_faults(request.adapter, adapters),
        *_shape_faults(request),
        *_size_faults(request, limits),
        *_vocabulary_faults(request, limits.vocab_size),
        *_range_faults(request.sampling, limits.vocab_size),
    ]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        kinds = {type(fault) for fault in faults}
        kind = kinds.pop() if len(kinds) == 1 else RequestError
        raise kind("request.invalid", f"{len(faults)} faults. " + " ".join(map(str, faults)))


def _unsupported(request: GenerationRequest, limits: StepperLimits, takes_constraints: bool) -> Iterator[RequestError]:
    sampling = request.sampling
    hint = _OFFERED
    if request.media:
        yield UnsupportedError("request.unsupported", f"{len(request.media)} media inputs were sent", hint)
    if sampling.constraint is not None and not takes_constraints:
        yield UnsupportedError("request.unsupported", f"a {sampling.constraint.kind} constraint was asked for", hint)
    if limits.samples_on_device:
        plain = SamplingParams(max_tokens=1)
        for field in SamplingParams.__struct_fields__:
            value = getattr(sampling, field)
            if field not in _DEVICE_SAMPLED and field != "constraint" and value != getattr(plain, field):
                text = f"{field}={value!r} was asked for, but this model chooses its tokens on the device, greedily"
                yield UnsupportedError("request.unsupported", text, hint)
    elif sampling.n_prompt_logprobs is not None and _never_cuts(limits):
        n_prompt = len(request.prompt_ids)
        if 0 < limits.n_logits_per_slot < n_prompt:
            text = (
                f"prompt log probabilities of {n_prompt} tokens were asked for; this model gives "
                f"{limits.n_logits_per_slot} a prompt"
            )
            yield UnsupportedError("request.unsupported", text, "Leave n_prompt_logprobs out or shorten the prompt.")


def _adapter_faults(adapter: str, adapters: Collection[str] | None) -> Iterator[RequestError]:
    if adapter and adapters is None:
        yield UnsupportedError("request.unsupported", f"adapter {adapter!r} was asked for", _OFFERED)
    elif adapter and adapters is not None and (fault := adapter_fault(adapter, adapters)) is not None:
        yield fault


def adapter_fault(name: str, adapters: Collection[str]) -> RequestError | None:
    """What says that an adapter is not there; None where it is.

    Args:
        name: of the adapter.
        adapters: those that are loaded.
    """
    if name in adapters:
        return None
    known = ", ".join(sorted(adapters)) or "none"
    return NotFoundError("adapter.unknown", f"adapter {name!r} is not loaded", f"Loaded: {known}")


def _never_cuts(limits: StepperLimits) -> bool:
    return limits.prefill_chunk_tokens is None


def _shape_faults(request: GenerationRequest) -> Iterator[RequestError]:
    if not request.prompt_ids:
        yield RequestError("request.empty-prompt", "the prompt has no tokens", "Send at least one token.")
    if request.sampling.max_tokens < 1:
        text = f"max_tokens is {request.sampling.max_tokens}; the least is 1"
        yield RequestError("request.out-of-range", text, "Ask for at least one token.")


def _size_faults(request: GenerationRequest, limits: StepperLimits) -> Iterator[RequestError]:
    n_prompt, max_tokens = len(request.prompt_ids), request.sampling.max_tokens
    total = n_prompt + max_tokens
    sizes = ((limits.max_context_tokens, "this model takes"), (limits.kv_capacity_tokens, "its cache holds"))
    for limit, verb in sizes:
        if total > limit:
            text = f"prompt {n_prompt} tokens + max_tokens {max_tokens} = {total}; {verb} {limit}"
            hint = f"Shorten the prompt by {total - limit} tokens or lower max_tokens."
            yield TooLargeError("request.too-long", text, hint)
            return


def _vocabulary_faults(request: GenerationRequest, vocab_size: int) -> Iterator[RequestError]:
    sampling = request.sampling
    marks = None if sampling.constraint is None else sampling.constraint.reasoning
    sources: tuple[tuple[str, Iterable[int]], ...] = (
        ("prompt_ids", request.prompt_ids),
        ("resumed_ids", request.resumed_ids),
        ("logit_bias", sampling.logit_bias),
        ("bad_token_ids", sampling.bad_token_ids),
        ("bad_word_ids", [token_id for word in sampling.bad_word_ids for token_id in word]),
        ("stop_token_ids", sampling.stop_token_ids),
        ("the constraint's reasoning", () if marks is None else (marks.start_id, marks.end_id)),
    )
    for name, ids in sources:
        if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
            wrong = next(i for i in ids if not 0 <= i < vocab_size)
            text = f"token id {wrong} in {name} is not in this model's vocabulary; ids go from 0 to {vocab_size - 1}"
            yield RequestError("request.unknown-token", text, "Tokenize with this model's own tokenizer.")
    if len(set(sampling.bad_token_ids)) >= vocab_size:
        text = f"bad_token_ids has all {vocab_size} ids of the vocabulary"
        yield RequestError("request.out-of-range", text, "Leave at least one id that may be produced.")


def _range_faults(sampling: SamplingParams, vocab_size: int) -> Iterator[RequestError]:
    finite = math.isfinite
    rules = (
        ("min_tokens", sampling.min_tokens >= 0, ">= 0"),
        ("temperature", finite(sampling.temperature) and sampling.temperature >= 0, "a number >= 0"),
        ("top_k", sampling.top_k >= 0, ">= 0"),
        ("top_p", 0 < sampling.top_p <= 1, "in (0, 1]"),
        ("min_p", 0 <= sampling.min_p <= 1, "in [0, 1]"),
        ("typical_p", 0 < sampling.typical_p <= 1, "in (0, 1]"),
        ("repetition_penalty", finite(sampling.repetition_penalty) and sampling.repetition_penalty > 0, "> 0"),
        ("presence_penalty", -2 <= sampling.presence_penalty <= 2, "in [-2, 2]"),
        ("frequency_penalty", -2 <= sampling.frequency_penalty <= 2, "in [-2, 2]"),
        ("logit_bias", all(abs(each) <= _MOST_BIAS for each in sampling.logit_bias.values()), "numbers of 32 bits"),
        ("seed", sampling.seed is None or 0 <= sampling.seed <= MAX_SEED, f"in [0, {MAX_SEED}]"),
        ("n_logprobs", _is_count(sampling.n_logprobs, vocab_size), f"in [0, {vocab_size}]"),
        ("n_prompt_logprobs", _is_count(sampling.n_prompt_logprobs, vocab_size), f"in [0, {vocab_size}]"),
    )
    for name, is_right, bound in rules:
        if not is_right:
            text = f"{name} is {getattr(sampling, name)!r}; it must be {bound}"
            yield RequestError("request.out-of-range", text, f"Set {name} within its bounds or leave it out.")
    if sampling.temperature and sampling.seed is None:
        text = f"temperature {sampling.temperature:g} needs a seed and none is set"
        yield RequestError("request.no-seed", text, "Set seed; the server draws one for requests that bring none.")


def _is_count(value: int | None, most: int) -> bool:
    return value is None or 0 <= value <= most
