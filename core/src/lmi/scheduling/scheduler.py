# SPDX-License-Identifier: Apache-2.0
"""Which tokens of which requests the next step computes. No torch, no thread, no clock: a pure account of slots."""

from __future__ import annotations

import heapq
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Generic

from lmi.api import Decode, EngineStats, Prefill, StepBatch, StepperLimits
from lmi.scheduling.active import ActiveRequest, Owner
from lmi.scheduling.prefills import Share, share_prefills

HEADROOM_TOKENS = 64
"""Room to grow that a request must find on admission; small, since most outputs end long before max_tokens."""

STREAMS_PER_PROMPT = 8
"""Running streams for each waiting prompt from which on their pace comes first (prefill_tokens_beside_decodes)."""

STEPS_PER_CHUNK = 2
"""Steps whose allowance a chunk beside decodes takes at once: fewer, larger chunks cost less (32 tokens 1.9 ms each,
16 tokens 3 ms, measured beside 31 decodes of a 135M model on a CPU)."""


@dataclass
class Plan(Generic[Owner]):
    """One step, and what each row of its logits is for.

    Args:
        batch: what the stepper is told to do.
        chunks: the prefilling requests and how many ids of each are read.
        decodes: requests that decode one token.
        sampled: (row of the logits, request) for each request that gets a token.
        scored: (first row, number of rows, request): rows that give prompt log probabilities.
        n_rows: rows of the logits.
        guesses: by slot, the ids that follow in its decode; the rows after that in ``sampled`` are for them.
    """

    batch: StepBatch
    chunks: list[tuple[ActiveRequest[Owner], int]]
    decodes: list[ActiveRequest[Owner]]
    sampled: list[tuple[int, ActiveRequest[Owner]]] = field(default_factory=list)
    scored: list[tuple[int, int, ActiveRequest[Owner]]] = field(default_factory=list)
    n_rows: int = 0
    guesses: dict[int, list[int]] = field(default_factory=dict)

    def guess(self, guesses: dict[int, list[int]]) -> None:
        """Let decodes read guesses, too, each with a row of logits of its own.

        Args:
            guesses: by slot.
        """
        self.guesses = guesses
        n_decodes = len(self.decodes)
        self.n_rows -= n_decodes
        del self.sampled[len(self.sampled) - n_decodes :]
        for place, active in enumerate(self.decodes):
            ids = [active.ids[-1], *guesses.get(active.slot, ())]
            self.batch.decodes[place] = Decode(
                slot=active.slot, ids=ids, start=active.n_cached, n_logits=len(ids), adapter=active.adapter
            )
            self.sampled.append((self.n_rows, active))
            self.n_rows += len(ids)


class Scheduler(Generic[Owner]):
    """Continuous batching: first come first served into slots, prompts in chunks beside running decodes.

    Admission is optimistic: a request starts when its ids and some headroom fit into the cache. When the cache would
    overflow all the same, the newest request gives its slot back and is computed again later, with the same ids.

    Args:
        limits: of the stepper; every plan obeys them.
        max_batch_size: most requests that hold a slot; None for all slots.
        headroom_tokens: room to grow that admission sets aside for each request.
    Source:
        Orca (OSDI 2022), iteration-level scheduling; PagedAttention (SOSP 2023), preemption by recomputation;
        Sarathi-Serve (OSDI 2024), chunked prefill beside decodes.
    """

    def __init__(
        self, limits: StepperLimits, *, max_batch_size: int | None = None, headroom_tokens: int = HEADROOM_TOKENS
    ) -> None:
        self._limits = limits
        self.n_slots = min(limits.max_slots, max_batch_size or limits.max_slots)
        self._headroom_tokens = headroom_tokens
        self._free = list(range(self.n_slots))
        self._released: list[int] = []
        self._share = Share()
        self._n_pauses = 0  # steps without a prompt, after a chunk that took their allowance, too
        self.running: list[ActiveRequest[Owner]] = []  # in order of arrival
        self.waiting: deque[ActiveRequest[Owner]] = deque()
        self.kv_used_tokens = 0
        self.n_steps = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def stats(self) -> EngineStats:
        """Counts of this moment; readable from any thread."""
        return EngineStats(
            n_running=len(self.running),
            n_waiting=len(self.waiting),
            kv_used_tokens=self.kv_used_tokens,
            kv_total_tokens=self._limits.kv_capacity_tokens,
            n_steps=self.n_steps,
        )

    def add(self, active: ActiveRequest[Owner]) -> None:
        """Queue a request behind all others."""
        self.waiting.append(active)

    def remove(self, active: ActiveRequest[Owner]) -> None:
        """Forget a request that ended or was cancelled; its slot is free at once. Unknown ones are ignored."""
        if active.slot >= 0:
            self.running.remove(active)
            self._vacate(active)
        elif active in self.waiting:
            self.waiting.remove(active)

    def take_released(self) -> list[int]:
        """Slots whose cache the stepper must forget before its next step."""
        released, self._released = self._released, []
        return released

    def plan(self) -> Plan[Owner] | None:
        """Choose the next step, or None when there is nothing to do. Follow it with ``take_released``."""
        self._preempt()
        self._admit()
        decodes = [active for active in self.running if active.is_decoding]
        chunks = self._choose_chunks(len(decodes))
        return _lay_out(chunks, decodes) if chunks or decodes else None

    def commit(self, plan: Plan[Owner]) -> None:
        """Take note that the step was done: the caches hold its ids."""
        for active, n_tokens in plan.chunks:
            active.n_cached += n_tokens
            active.is_decoding = not active.n_pending
            self.kv_used_tokens += n_tokens
        for active in plan.decodes:
            active.n_cached += 1
        self.kv_used_tokens += len(plan.decodes)
        self.n_steps += 1

    def keep(self, active: ActiveRequest[Owner], n_tokens: int) -> None:
        """Take note that so many guesses in a running request's cache are its ids."""
        active.n_cached += n_tokens
        self.kv_used_tokens += n_tokens

    def _vacate(self, active: ActiveRequest[Owner]) -> None:
        heapq.heappush(self._free, active.slot)
        self._released.append(active.slot)
        self.kv_used_tokens -= active.n_cached
        active.slot, active.n_cached, active.is_decoding = -1, 0, False

    def _preempt(self) -> None:
        # The oldest is never preempted: alone it fits (admission saw to it), so every request gets its turn.
        n_decodes = sum(active.is_decoding for active in self.running)
        while self.kv_used_tokens + n_decodes > self._limits.kv_capacity_tokens and len(self.running) > 1:
            newest = self.running.pop()
            n_decodes -= newest.is_decoding
            self._vacate(newest)
            self.waiting.appendleft(newest)

    def _admit(self) -> None:
        if not self.waiting or not self._free:
            return
        reserved = sum(active.reserved_tokens(self._headroom_tokens) for active in self.running)
        adapters = {active.adapter for active in self.running if active.adapter}
        passed: list[ActiveRequest[Owner]] = []
        while self.waiting and self._free:
            active = self.waiting[0]
            if not self._has_place(active.adapter, adapters, passed):
                passed.append(self.waiting.popleft())
                continue
            reserved += active.reserved_tokens(self._headroom_tokens)
            if self.running and reserved > self._limits.kv_capacity_tokens:
                break
            self.waiting.popleft()
            active.slot = heapq.heappop(self._free)
            self.running.append(active)
            if active.adapter:
                adapters.add(active.adapter)
        self.waiting.extendleft(reversed(passed))

    def _has_place(self, adapter: str, adapters: set[str], passed: list[ActiveRequest[Owner]]) -> bool:
        """Whether a request's adapter may be in the next batches: first come first served among those that name one,
        so that none waits for ever; requests that name none pass them.

        Args:
            adapters: those of running requests.
            passed: requests that wait for such a place, before this one.
        """
        most = self._limits.max_adapters_per_step
        return not adapter or not most or (not passed and (adapter in adapters or len(adapters) < most))

    def _choose_chunks(self, n_decodes: int) -> list[tuple[ActiveRequest[Owner], int]]:
        is_pause, self._n_pauses = self._n_pauses > 0, max(0, self._n_pauses - 1)
        prefilling = [active for active in self.running if not active.is_decoding]
        if not prefilling:
            return []
        limits = self._limits
        allowed_tokens = budget_tokens = limits.prefill_chunk_tokens or sys.maxsize
        if n_decodes and limits.prefill_tokens_beside_decodes is not None:
            if is_pause:
                return []
            weight = max(1, STREAMS_PER_PROMPT * len(prefilling) // n_decodes)
            allowed_tokens = weight * limits.prefill_tokens_beside_decodes
            budget_tokens = min(budget_tokens, STEPS_PER_CHUNK * allowed_tokens)
        free_tokens = limits.kv_capacity_tokens - self.kv_used_tokens - n_decodes
        chunks = share_prefills(
            prefilling,
            budget_tokens=min(budget_tokens, free_tokens),
            max_prefills=limits.max_prefills_per_step,
            allows_cuts=budget_tokens != sys.maxsize,
            n_logits_per_slot=limits.n_logits_per_slot,
            turn=self._share,
        )
        n_tokens = sum(n_read for _, n_read in chunks)
        self._n_pauses = max(0, -(-n_tokens // allowed_tokens) - 1)
        return chunks


def _lay_out(chunks: list[tuple[ActiveRequest[Owner], int]], decodes: list[ActiveRequest[Owner]]) -> Plan[Owner]:
    batch = StepBatch(prefills=[], decodes=[])
    plan = Plan(batch, chunks, decodes)
    for active, n_tokens in chunks:
        start, end = active.n_cached, active.n_cached + n_tokens
        n_logits = int(end == len(active.ids))
        if active.prompt_logprobs is not None and active.n_unscored:
            # The logits of position i score prompt id i + 1; what was scored before a preemption is not asked again.
            first = max(start, len(active.prompt_logprobs) - 1)
            n_logits = max(n_logits, end - first)
            n_scored = min(n_logits, active.n_unscored)
            if n_scored > 0:
                plan.scored.append((plan.n_rows, n_scored, active))
        ids = active.ids[start:end]
        batch.prefills.append(
            Prefill(slot=active.slot, ids=ids, start=start, n_logits=n_logits, adapter=active.adapter)
        )
        plan.n_rows += n_logits
        if end == len(active.ids):
            plan.sampled.append((plan.n_rows - 1, active))
    for active in decodes:
        batch.decodes.append(
            Decode(slot=active.slot, ids=active.ids[-1:], start=active.n_cached, adapter=active.adapter)
        )
        plan.sampled.append((plan.n_rows, active))
        plan.n_rows += 1
    return plan
