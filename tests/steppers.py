# SPDX-License-Identifier: Apache-2.0
"""A model without weights for tests of the scheduler: its logits are a function of the tokens that came before.

And what such tests need around it: requests, an engine that runs a scenario, a gate that holds its steps.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch

from lmi.api import (
    Decode,
    GenerationRequest,
    Prefill,
    SamplingParams,
    StepBatch,
    StepOutput,
    Stepper,
    StepperLimits,
)
from lmi.scheduling.engine import StepperEngine
from tests.limits import limit_s

EOS = 0
VOCAB = 40

MASK = 2**64 - 1


def toy_limits(**changes: object) -> StepperLimits:
    limits: dict[str, object] = {
        "max_slots": 4,
        "max_context_tokens": 256,
        "kv_capacity_tokens": 1024,
        "vocab_size": VOCAB,
        "prefill_chunk_tokens": 32,
        "prefill_tokens_beside_decodes": 16,
        "max_prefills_per_step": 3,
    }
    return StepperLimits(**{**limits, **changes})  # type: ignore[arg-type]


def toy_logits(history: Sequence[int], vocab_size: int) -> np.ndarray:
    """Logits after this history: any other history gives others. float32, shape [vocab_size]."""
    digest = 0
    for token_id in history:
        digest = (digest * 6364136223846793005 + token_id + 1442695040888963407) & MASK
    bits = np.random.Generator(np.random.Philox(key=digest))
    return (3 * bits.standard_normal(vocab_size)).astype(np.float32)


class ToyStepper(Stepper):
    """Keeps each slot's tokens and checks, at every step, that its caller keeps the contract.

    Args:
        limits: what it checks against.
        on_step: called with each batch before it is computed; may raise or wait.
    """

    def __init__(self, limits: StepperLimits | None = None, on_step: Callable[[StepBatch], None] | None = None) -> None:
        self.limits = limits or toy_limits()
        self.on_step = on_step
        self.slots: dict[int, list[int]] = {}
        self.batches: list[StepBatch] = []
        self.most_cached_tokens = 0
        self.most_slots = 0
        self.n_closed = 0
        self.threads: set[int] = set()
        self._is_busy = threading.Lock()

    def step(self, batch: StepBatch) -> StepOutput:
        with self._one_call():
            self.batches.append(batch)
            if self.on_step is not None:
                self.on_step(batch)
            self._check(batch)
            rows = [row for entry in (*batch.prefills, *batch.decodes) for row in self._read(entry)]
            self.most_cached_tokens = max(self.most_cached_tokens, sum(map(len, self.slots.values())))
            self.most_slots = max(self.most_slots, len(self.slots))
            assert self.most_cached_tokens <= self.limits.kv_capacity_tokens
            if self.limits.samples_on_device:
                return StepOutput(ids=[int(row.argmax()) for row in rows])
            stacked = np.stack(rows) if rows else np.zeros((0, self.limits.vocab_size), np.float32)
            return StepOutput(logits=torch.from_numpy(stacked))

    def truncate(self, slot: int, n_tokens: int) -> None:
        with self._one_call():
            del self.slots[slot][n_tokens:]

    def release(self, slot: int) -> None:
        with self._one_call():
            self.slots.pop(slot, None)

    def close(self) -> None:
        self.n_closed += 1

    def _one_call(self) -> threading.Lock:
        assert not self._is_busy.locked(), "two calls at once"
        self.threads.add(threading.get_ident())
        return self._is_busy

    def _read(self, entry: Prefill | Decode) -> list[np.ndarray]:
        held = self.slots.setdefault(entry.slot, [])
        assert entry.start == len(held), f"slot {entry.slot} holds {len(held)} tokens, not {entry.start}"
        held += entry.ids
        ends = range(len(held) - entry.n_logits + 1, len(held) + 1)
        return [toy_logits(held[:end], self.limits.vocab_size) for end in ends]

    def _check(self, batch: StepBatch) -> None:
        limits = self.limits
        entries = [*batch.prefills, *batch.decodes]
        slots = [entry.slot for entry in entries]
        assert entries, "an empty step"
        assert len(set(slots)) == len(slots), "two entries for one slot"
        assert all(0 <= slot < limits.max_slots for slot in slots)
        assert all(0 <= entry.n_logits <= len(entry.ids) for entry in entries)
        assert all(entry.ids for entry in entries)
        if limits.n_logits_per_slot:
            assert all(entry.n_logits <= limits.n_logits_per_slot for entry in entries)
        assert all(len(entry.ids) == entry.n_logits and entry.start > 0 for entry in batch.decodes)
        assert self.draft is not None or all(len(entry.ids) == 1 for entry in batch.decodes)
        assert len(batch.prefills) <= limits.max_prefills_per_step
        n_read = sum(len(entry.ids) for entry in batch.prefills)
        if limits.prefill_chunk_tokens is not None:
            assert n_read <= limits.prefill_chunk_tokens


def new_request(name="r", prompt_ids=(1, 2, 3), max_tokens=12, resumed_ids=(), **sampling):
    seed = sum(map(ord, name)) if sampling.get("temperature") else None
    params = SamplingParams(**{"max_tokens": max_tokens, "seed": seed, **sampling})
    return GenerationRequest(
        request_id=name, prompt_ids=list(prompt_ids), sampling=params, resumed_ids=list(resumed_ids)
    )


async def collect(engine, request):
    return [chunk async for chunk in engine.generate(request)]


def run(scenario, stepper=None, eos_token_ids=(EOS,), **options):
    """Run ``scenario(engine)`` within a time limit; the engine is closed after it."""
    stepper = stepper or ToyStepper()

    async def main():
        engine = StepperEngine(stepper, eos_token_ids, **options)
        try:
            return await asyncio.wait_for(scenario(engine), limit_s(30))
        finally:
            await engine.close()

    return asyncio.run(main())


def generate(requests, stepper=None, **options):
    """All requests at once; a list of chunks for each."""
    return run(lambda engine: asyncio.gather(*(collect(engine, r) for r in requests)), stepper, **options)


def alone(request):
    return generate([request])[0]


def ids_of(chunks):
    return [token_id for chunk in chunks for token_id in chunk.ids]


class Gate:
    """Lets a stepper's steps through one by one, when the test says so."""

    def __init__(self):
        self._reached, self._open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, batch):
        self._reached.release()
        assert self._open.acquire(timeout=limit_s(20))

    async def reached(self):
        """The next step has begun (and stands)."""
        assert await asyncio.to_thread(self._reached.acquire, timeout=limit_s(20))

    def open(self, n_steps=1):
        self._open.release(n_steps)
