# SPDX-License-Identifier: Apache-2.0
"""Vectors and labels from vLLM's engine: ids in, numbers out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Literal

from vllm.inputs import tokens_input
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.async_llm import AsyncLLM

from lmi.api import LmiError, Task
from lmi_vllm.engine import VLLMEngine

_ids = itertools.count(1)


async def embed(
    llm: AsyncLLM, prompts: list[list[int]], *, normalize: bool = True, n_dimensions: int | None = None
) -> list[list[float]]:
    """One vector a prompt, in order. vLLM batches the prompts; when one fails or the call is cancelled, all end.

    Args:
        llm: a running engine, whose runner is ``pooling``.
        prompts: token ids.
        normalize: whether the vectors get the length 1.
        n_dimensions: only the first so many numbers; vLLM refuses it for models that were not trained for it.
    Raises:
        VLLMClientError, EngineDeadError, EngineGenerateError: as vLLM raises them.
    """
    return await _pooled(llm, prompts, "embed", use_activation=normalize, n_dimensions=n_dimensions)


async def classify(llm: AsyncLLM, prompts: list[list[int]]) -> list[list[float]]:
    """The probability of each label, one list a prompt; else as ``embed``."""
    return await _pooled(llm, prompts, "classify", use_activation=True, n_dimensions=None)


async def _pooled(
    llm: AsyncLLM,
    prompts: list[list[int]],
    task: Literal["embed", "classify"],
    *,
    use_activation: bool,
    n_dimensions: int | None,
) -> list[list[float]]:
    async def one(prompt: list[int]) -> list[float]:
        # vLLM keeps what it makes of them: each request has parameters of its own
        params = PoolingParams(task=task, use_activation=use_activation, dimensions=n_dimensions)
        outputs = llm.encode(tokens_input(prompt), params, f"{task}-{next(_ids)}")
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                if output.finished:
                    numbers: list[float] = output.outputs.data.flatten().tolist()
                    return numbers
        raise LmiError("engine.wrong-output", f"vLLM ended a request to {task} without an answer")

    tasks = [asyncio.ensure_future(one(prompt)) for prompt in prompts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class EmbeddingEngine(VLLMEngine):
    """A model that makes vectors."""

    async def embed(
        self, prompts: list[list[int]], normalize: bool = True, n_dimensions: int | None = None
    ) -> list[list[float]]:
        with self.told():
            return await embed(self._llm, prompts, normalize=normalize, n_dimensions=n_dimensions)


class ClassificationEngine(VLLMEngine):
    """A model that gives labels."""

    async def classify(self, prompts: list[list[int]]) -> list[list[float]]:
        with self.told():
            return await classify(self._llm, prompts)


ENGINES: dict[Task, type[VLLMEngine]] = {Task.EMBED: EmbeddingEngine, Task.CLASSIFY: ClassificationEngine}
"""What a model does, other than generating -> its engine."""
