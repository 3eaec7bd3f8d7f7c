# SPDX-License-Identifier: Apache-2.0
"""Vectors and labels from vLLM's engine: ids in, numbers out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Literal

from vllm.inputs import tokens_input
from vllm.pooling_params import PoolingParams

from lmi.api import LmiError, Task
from lmi_vllm.engine import VLLMEngine

_numbers = itertools.count(1)


class PoolingEngine(VLLMEngine):
    """A model whose runner is ``pooling``."""

    async def _pooled(
        self,
        prompts: list[list[int]],
        task: Literal["embed", "classify"],
        *,
        use_activation: bool,
        n_dimensions: int | None = None,
    ) -> list[list[float]]:
        """The numbers of each prompt, in order. vLLM batches the prompts; when one fails or the call is cancelled, all
        end.

        Args:
            prompts: token ids.
            task: what the numbers are.
            use_activation: whether vectors get the length 1, and labels probabilities.
            n_dimensions: only the first so many numbers; vLLM refuses it for models that were not trained for it.
        """
        self._refuse_closed()
        with self.told():
            tasks = [asyncio.ensure_future(self._one(prompt, task, use_activation, n_dimensions)) for prompt in prompts]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for each in tasks:
                    each.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(
        self, prompt: list[int], task: Literal["embed", "classify"], use_activation: bool, n_dimensions: int | None
    ) -> list[float]:
        request_id = f"{task}-{next(_numbers)}"
        # vLLM keeps what it makes of them: each request has parameters of its own
        params = PoolingParams(task=task, use_activation=use_activation, dimensions=n_dimensions)
        with self._listed(request_id):
            outputs = self._llm.encode(tokens_input(prompt), params, request_id)
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    if output.finished:
                        self._refuse_closed()
                        numbers: list[float] = output.outputs.data.flatten().tolist()
                        return numbers
        raise LmiError("engine.wrong-output", f"vLLM ended a request to {task} without an answer")


class EmbeddingEngine(PoolingEngine):
    """A model that makes vectors."""

    async def embed(
        self, prompts: list[list[int]], normalize: bool = True, n_dimensions: int | None = None
    ) -> list[list[float]]:
        return await self._pooled(prompts, "embed", use_activation=normalize, n_dimensions=n_dimensions)


class ClassificationEngine(PoolingEngine):
    """A model that gives labels."""

    async def classify(self, prompts: list[list[int]]) -> list[list[float]]:
        return await self._pooled(prompts, "classify", use_activation=True)


ENGINES: dict[Task, type[VLLMEngine]] = {Task.EMBED: EmbeddingEngine, Task.CLASSIFY: ClassificationEngine}
"""What a model does, other than generating -> its engine."""
