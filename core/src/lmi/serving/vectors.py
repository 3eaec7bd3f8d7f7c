# SPDX-License-Identifier: Apache-2.0
"""Requests whose answer is a list of numbers for each input: texts to ids, a call in a worker, its result checked."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from lmi.api import EngineLimits, LmiError, RequestError, Task
from lmi.api.requests import FinishReason
from lmi.serving.long_texts import refuse_hopeless
from lmi.serving.streaming import Exchange
from lmi.serving.timings import Called
from lmi.serving.tokenizer import Tokenizer
from lmi.serving.vector_bodies import CutParameters
from lmi.serving.words import cut_prompt
from lmi.workers.flight import VectorsFlight

if TYPE_CHECKING:
    from lmi.serving.models import Model

_LONG_CHARS = 8192
_CALLS = {Task.EMBED: ("embedding", "embed"), Task.CLASSIFY: ("classification", "classify")}
Numbers = list[list[float]]


async def prompts_of(
    model: Model, inputs: Sequence[str] | Sequence[list[int]], cut: CutParameters, *, named: str = "inputs"
) -> list[list[int]]:
    """The ids of each input, none longer than the model takes.

    Args:
        model: whose tokenizer is used.
        inputs: texts, or ids, which stay as they are.
        cut: whether inputs that are too long are cut.
        named: what the caller calls them.
    Raises:
        RequestError: one is empty or too long, or has an id that the model does not know.
        NotReadyError, OverloadedError: the model takes no request now.
    """
    limits = model.limits_for(1)
    tokenizer = model.tokenizer
    if _n_chars(inputs) > _LONG_CHARS:
        for index, text in enumerate(inputs):
            if isinstance(text, str) and not cut.truncate:
                refuse_hopeless(tokenizer.encode, text, limits.max_context_tokens, f"{named}[{index}]")
        prompts = await asyncio.to_thread(_encoded, tokenizer, inputs)
    else:
        prompts = _encoded(tokenizer, inputs)
    for index, prompt in enumerate(prompts):
        name = f"{named}[{index}]"
        if not prompt:
            raise RequestError("request.empty-prompt", f"{name} has no tokens", "Send at least one token of text")
        if len(prompt) > limits.max_context_tokens and cut.truncate:
            prompts[index] = cut_prompt(tokenizer, prompt, limits.max_context_tokens, cut.truncation_direction)
        elif len(prompt) > limits.max_context_tokens:
            raise _too_long(name, len(prompt), limits)
        if 0 < limits.vocab_size <= max(prompt):
            raise RequestError(
                "request.unknown-token", f"{name} has the id {max(prompt)}; this model knows {limits.vocab_size} ids"
            )
    return prompts


async def numbers_of(
    model: Model, task: Task, exchange: Exchange, prompts: list[list[int]], args: tuple[Any, ...] = ()
) -> Numbers:
    """What the model makes of the prompts: one list of numbers each, all of one length.

    Args:
        model: it.
        task: what is asked of it; not ``Task.GENERATE``.
        exchange: the request; when its client goes, the call is cancelled.
        prompts: as ``prompts_of`` gives them.
        args: further arguments of the ability's method.
    Raises:
        LmiError: the request failed, its time ran out, or its client has gone.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def fail(error: LmiError) -> None:
        if not answer.done():
            answer.set_exception(error)

    def succeed(result: Any) -> None:
        if not answer.done():
            answer.set_result(result)

    ability, method = _CALLS[task]
    deadline_s = model.deadline_s(exchange.headers)
    flight = VectorsFlight(
        exchange.unique_id, ability, method, prompts, args, succeed, fail, deadline_s=deadline_s
    )  # fmt: skip
    model.pool.submit([flight])
    exchange.measured = (Called(model.name, flight, sum(map(len, prompts))),)
    exchange.watch(fail)
    timer = None if deadline_s is None else loop.call_later(deadline_s, flight.end, FinishReason.DEADLINE)
    try:
        return _checked(await answer, len(prompts))
    finally:
        if timer is not None:
            timer.cancel()
        model.pool.cancel(flight)  # nothing, where it has ended


def _n_chars(inputs: Sequence[str] | Sequence[list[int]]) -> int:
    return sum(len(each) for each in inputs if isinstance(each, str))


def _encoded(tokenizer: Tokenizer, inputs: Sequence[str] | Sequence[list[int]]) -> list[list[int]]:
    return [tokenizer.encode(each) if isinstance(each, str) else each for each in inputs]


def _too_long(name: str, n_tokens: int, limits: EngineLimits) -> RequestError:
    over = n_tokens - limits.max_context_tokens
    return RequestError(
        "request.too-long",
        f"{name} has {n_tokens} tokens; this model takes {limits.max_context_tokens}",
        f"Shorten it by {over} tokens, or send truncate=true to have it cut",
    )


def _checked(result: Any, n_prompts: int) -> Numbers:
    """What an engine returned, if it is one list of finite numbers a prompt, all of one length."""
    said = ""
    if not isinstance(result, list) or not all(isinstance(each, list) for each in result):
        said = f"{type(result).__name__} instead of lists of numbers"
    elif len(result) != n_prompts:
        said = f"{len(result)} answers for {n_prompts} inputs"
    elif len({len(each) for each in result}) > 1 or not result[0]:
        said = f"lists of {sorted({len(each) for each in result})} numbers"
    elif not all(math.isfinite(sum(each)) for each in result):
        said = "numbers that are not finite"
    if said:
        hint = "Where a model in fp32 was made fp16, set option.dtype=fp32; else it is a fault of the backend"
        raise LmiError("engine.wrong-output", f"the engine returned {said}", hint)
    return cast(Numbers, result)
