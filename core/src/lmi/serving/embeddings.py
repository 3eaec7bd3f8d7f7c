# SPDX-License-Identifier: Apache-2.0
"""Vectors and labels over HTTP, in LMI's form and in OpenAI's.

Source: OpenAI's embeddings; LMI's and text-embeddings-inference's list of vectors, and the latter's labels.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from array import array
from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lmi.api import Task
from lmi.serving.bodies import decoded
from lmi.serving.streaming import ClientGoneError, Exchange
from lmi.serving.vector_bodies import EmbeddingBody, LabelInvocation, VectorInvocation, VectorParameters, read_body
from lmi.serving.vectors import Numbers, numbers_of, prompts_of

if TYPE_CHECKING:
    from lmi.serving.context import Context
    from lmi.serving.models import Model

_encode = msgspec.json.Encoder().encode
_N_AT_ONCE = 64
"""Vectors that are written before others get their turn."""


async def answer_embeddings(context: Context, model: Model, exchange: Exchange, data: Any) -> None:
    """Answer a request in OpenAI's form, to a model that makes vectors.

    Raises:
        LmiError: it cannot be served.
    """
    await _counted(context, exchange, _openai(model, exchange, data))


async def answer_vectors(context: Context, model: Model, exchange: Exchange, body: bytes) -> None:
    """Answer a request to a model that makes vectors or labels, in LMI's form, or in OpenAI's where it has ``input``.

    Raises:
        LmiError: it cannot be served.
    """
    data = decoded(body)
    if model.plan.task is Task.CLASSIFY:
        work = _labels(model, exchange, data)
    elif isinstance(data, dict) and "input" in data and "inputs" not in data:
        work = _openai(model, exchange, data)
    else:
        work = _vectors(model, exchange, data)
    await _counted(context, exchange, work)


async def _counted(context: Context, exchange: Exchange, work: Awaitable[None]) -> None:
    outcome = "error"
    try:
        await work
        outcome = "ok"
    except ClientGoneError:
        outcome = "cancelled"
        raise
    finally:
        for called in exchange.measured:
            context.metrics.count(called, outcome, exchange.arrived_s)


async def _vectors(model: Model, exchange: Exchange, data: Any) -> None:
    """One vector an input, in a list, also of a single one."""
    body = read_body(VectorInvocation, data, model=model.name, task=model.plan.task)
    prompts = await prompts_of(model, body.inputs, body.parameters)
    vectors = await _embedded(model, exchange, prompts, body.parameters)
    await exchange.answer(await _listed(map(_encode, vectors)))


async def _openai(model: Model, exchange: Exchange, data: Any) -> None:
    body = read_body(EmbeddingBody, data, model=model.name, task=model.plan.task)
    prompts = await prompts_of(model, body.input, body, named="input")
    vectors = await _embedded(model, exchange, prompts, body)
    is_base64 = body.encoding_format == "base64"
    items = (
        _encode({"object": "embedding", "index": index, "embedding": _base64(vector) if is_base64 else vector})
        for index, vector in enumerate(vectors)
    )
    n_tokens = sum(map(len, prompts))
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    end = _encode({"model": model.name, "usage": usage})
    await exchange.answer(b'{"object":"list","data":' + await _listed(items) + b"," + end[1:])


async def _embedded(model: Model, exchange: Exchange, prompts: list[list[int]], asked: VectorParameters) -> Numbers:
    normalize = model.plan.options.normalize if asked.normalize is None else asked.normalize
    return await numbers_of(model, Task.EMBED, exchange, prompts, (normalize, asked.dimensions))


async def _labels(model: Model, exchange: Exchange, data: Any) -> None:
    """The labels of each input, the most likely first; those of a single text are not in a further list."""
    body = read_body(LabelInvocation, data, model=model.name, task=model.plan.task)
    prompts = await prompts_of(model, body.inputs, body.parameters)
    found = await numbers_of(model, Task.CLASSIFY, exchange, prompts)
    names = label_names(model.plan.artifacts.config, len(found[0]))
    answers = [_ranked(names, scores)[: body.parameters.top_k] for scores in found]
    await exchange.answer(_encode(answers[0]) if body.is_single else await _listed(map(_encode, answers)))


def label_names(config: dict[str, Any], n_labels: int) -> list[str]:
    """The names of a model's labels, from ``id2label`` of its config.json; ``LABEL_0`` where it has none."""
    named = config.get("id2label")
    known = named if isinstance(named, dict) else {}
    return [str(known.get(str(index), f"LABEL_{index}")) for index in range(n_labels)]


def _ranked(names: Sequence[str], scores: list[float]) -> list[dict[str, Any]]:
    pairs = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])
    return [{"label": name, "score": score} for name, score in pairs]


async def _listed(items: Iterable[bytes]) -> bytes:
    """A JSON list of encoded items; other requests get their turn while a long one is made."""
    parts: list[bytes] = []
    for item in items:
        parts.append(item)
        if len(parts) % _N_AT_ONCE == 0:
            await asyncio.sleep(0)
    return b"[" + b",".join(parts) + b"]"


def _base64(vector: list[float]) -> str:
    """Numbers of 32 bits, the lowest byte first, as OpenAI's clients read them."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers).decode()
