# SPDX-License-Identifier: Apache-2.0
"""The engine of the toy backend: the core's own scheduler over a stepper of hashes, with one fault at most."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer

from lmi.api import (
    Capability,
    Engine,
    EngineDeadError,
    EngineStats,
    Finish,
    FinishReason,
    GenerationRequest,
    ModelArtifacts,
    NotFoundError,
    OverloadedError,
    RequestError,
    SamplingParams,
    StepBatch,
    StepOutput,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from lmi.scheduling.engine import StepperEngine
from tests.steppers import ToyStepper, toy_limits

VOCAB = 300
_PLAIN = SamplingParams(max_tokens=1)


class SwappedStepper(ToyStepper):
    """Answers the decodes of a batch before its prefills."""

    def step(self, batch: StepBatch) -> StepOutput:
        output = super().step(batch)
        n = sum(entry.n_logits for entry in batch.prefills)
        assert output.logits is not None
        return StepOutput(logits=torch.cat([output.logits[n:], output.logits[:n]]))


def toy_stepper(n_slots: int, *, is_swapped: bool) -> ToyStepper:
    limits = toy_limits(max_slots=n_slots, kv_capacity_tokens=256 * n_slots, vocab_size=VOCAB, max_prefills_per_step=4)
    return SwappedStepper(limits) if is_swapped else ToyStepper(limits)


class ToyEngine(Engine):
    """Keeps every rule but the one that ``fault`` names."""

    def __init__(self, fault: str, context: int, n_slots: int, artifacts: ModelArtifacts) -> None:
        limits = toy_limits(
            max_slots=n_slots, max_context_tokens=context, kv_capacity_tokens=context * n_slots, vocab_size=VOCAB
        )
        self._fault = fault
        self._inner = StepperEngine(ToyStepper(limits), artifacts.eos_token_ids, max_batch_size=n_slots)
        self.limits = self._inner.limits
        self._letter = Tokenizer.from_file(str(artifacts.path / "tokenizer.json")).token_to_id("a")
        self._adapters: dict[str, str] = {}
        self._numbers = itertools.count()
        self._n_live = self._n_done = 0
        self._is_dead = self._is_closed = False
        self._pumps: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()

    # ------------------------------------------------------------------------------------------------------ generate

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        self._refuse(request)
        number = next(self._numbers)
        self._n_live += 1
        inner = self._inner.generate(self._translated(request, number))
        if self._fault in ("G6", "leak on cancel"):
            inner = self._pumped(inner)
        if self._fault == "silent":
            await asyncio.sleep(3600)
        if self._fault == "sync":
            for each in [chunk async for chunk in inner]:
                time.sleep(0.005)
                yield each
            return
        if self._fault == "G10":
            time.sleep(0.06)
        try:
            async for chunk in inner:
                if self._is_dead:
                    raise EngineDeadError("engine.died", "the toy died")
                if self._is_closed and self._fault == "L5":
                    await asyncio.sleep(3600)
                for each in self._spoilt(request, chunk):
                    yield each
        finally:
            self._n_live -= 1
            self._n_done += 1
            await inner.aclose()

    def _refuse(self, request: GenerationRequest) -> None:
        if self._is_closed and self._fault == "L2":
            raise ValueError("closed")
        if self._is_dead:
            raise EngineDeadError("engine.died", "the toy died")
        if request.adapter and request.adapter not in self._adapters:
            raise NotFoundError("adapter.not-found", f"there is no adapter {request.adapter!r}")
        if self._fault == "G7" and self._n_live >= self.limits.max_batch_size:
            raise OverloadedError("engine.full", "no slot is free")
        if request.n_reserved_tokens > self.limits.max_context_tokens and self._fault in ("G8", "G9"):
            self._is_dead = self._fault == "G8"
            raise RequestError("request.too-long", "that is too long")

    def _translated(self, request: GenerationRequest, number: int) -> GenerationRequest:
        sampling, prompt, resumed = request.sampling, request.prompt_ids, request.resumed_ids
        changes: dict[str, Any] = {"constraint": None}
        lost = self._fault.removeprefix("K-")
        if lost in Capability._value2member_map_ and hasattr(_PLAIN, lost):
            changes[lost] = getattr(_PLAIN, lost)
            if lost == "seed" and sampling.seed is not None:
                changes["seed"] = random.getrandbits(60)
            if lost == "temperature" and sampling.temperature:
                changes = {"temperature": 1e-9}
        if sampling.constraint is not None and self._fault != "K-constraint":
            changes["logit_bias"] = {self._letter: 100.0}
        if self._fault == "G1":
            changes["max_tokens"] = sampling.max_tokens + 1
        if request.adapter and self._fault != "K-adapters":
            prompt = [(token_id + 1) % 256 for token_id in prompt]
        if self._fault == "G3" or (self._fault == "K-batch_invariant" and self._n_live > 1):
            prompt = [(token_id + number) % 256 for token_id in prompt]
        if self._fault == "G11":
            resumed = []
        return msgspec.structs.replace(
            request,
            prompt_ids=prompt,
            resumed_ids=resumed,
            sampling=msgspec.structs.replace(sampling, **changes),
            adapter="",
        )

    def _spoilt(self, request: GenerationRequest, chunk: TokenChunk) -> list[TokenChunk]:
        fault = self._fault
        if fault == "tempered" and chunk.logprobs and request.sampling.temperature:
            warmth = request.sampling.temperature
            scores = [
                TokenLogprob(each.id, each.logprob / warmth, each.rank, tuple((t, v / warmth) for t, v in each.top))
                for each in chunk.logprobs
            ]
            chunk = msgspec.structs.replace(chunk, logprobs=scores)
        if fault == "made up" and chunk.logprobs:
            chunk = msgspec.structs.replace(
                chunk, logprobs=[TokenLogprob(each.id, -30.0, 0, each.top) for each in chunk.logprobs]
            )
        if fault == "no finish":
            return [msgspec.structs.replace(chunk, finish=None, usage=None)] if chunk.ids else []
        if chunk.finish is None:
            return [chunk]
        if fault == "G2" and chunk.finish.reason is FinishReason.EOS:
            return [msgspec.structs.replace(chunk, finish=Finish(FinishReason.LENGTH))]
        if fault == "G4":
            return [chunk, TokenChunk([])]
        if fault == "G5" and chunk.usage is not None:
            usage = Usage(chunk.usage.n_prompt_tokens, chunk.usage.n_output_tokens - 1)
            return [msgspec.structs.replace(chunk, usage=usage)]
        return [chunk]

    async def _pumped(self, inner: AsyncGenerator[TokenChunk, None]) -> AsyncGenerator[TokenChunk, None]:
        """A generator whose closing stops nothing."""
        queue: asyncio.Queue[TokenChunk] = asyncio.Queue()

        async def pump() -> None:
            async for chunk in inner:
                queue.put_nowait(chunk)

        task = asyncio.get_running_loop().create_task(pump())
        self._pumps.add(task)
        while True:
            chunk = await queue.get()
            yield chunk
            if chunk.finish is not None:
                return

    # ---------------------------------------------------------------------------------------------------------- life

    def die(self) -> None:
        """As a device that is lost."""
        self._is_dead = True

    async def check_health(self) -> None:
        if self._is_dead and self._fault != "L3":
            raise EngineDeadError("engine.died", "the toy died")

    def stats(self) -> EngineStats:
        if self._fault == "one step a request":
            return msgspec.structs.replace(self._inner.stats(), n_steps=self._n_done)
        return EngineStats() if self._fault == "G12" else self._inner.stats()

    async def close(self) -> None:
        if self._is_closed and self._fault == "L1":
            raise ValueError("it is closed already")
        self._is_closed = True
        if self._fault == "L5":
            return
        for task in self._pumps:
            task.cancel()
        await self._inner.close()

    # ----------------------------------------------------------------------------------------------------- abilities

    async def load_adapter(self, name: str, path: str) -> None:
        if not Path(path).is_dir() and self._fault != "adapters from nowhere":
            raise RequestError("adapter.not-loadable", f"there is no folder {path}")
        self._adapters[name] = path

    async def unload_adapter(self, name: str) -> None:
        self._adapters.pop(name)

    async def list_adapters(self) -> list[str]:
        return sorted(self._adapters)

    async def pin_adapter(self, name: str, is_pinned: bool) -> None:
        if name not in self._adapters and self._fault != "pins from nowhere":
            raise NotFoundError("adapter.unknown", f"adapter {name!r} is not loaded")
        if self._fault == "forgets what it lets go" and not is_pinned:
            self._adapters.pop(name, None)

    async def embed(
        self, prompts: list[list[int]], normalize: bool = True, n_dimensions: int | None = None
    ) -> list[list[float]]:
        n = [1 + i if self._fault == "K-embedding" else 3 for i in range(len(prompts))]
        vectors = [[float(sum(ids) % 97 + k * k) for k in range(size)] for ids, size in zip(prompts, n, strict=True)]
        cut = [vector[: None if self._fault == "all dimensions" else n_dimensions] for vector in vectors]
        is_scaled = normalize and self._fault != "any length"
        return [[x / (math.hypot(*vector) if is_scaled else 1.0) for x in vector] for vector in cut]

    async def classify(self, prompts: list[list[int]]) -> list[list[float]]:
        shares = [sum(ids) % 97 / 97 for ids in prompts]
        return [[share, (2.0 if self._fault == "K-classification" else 1.0) - share] for share in shares]
