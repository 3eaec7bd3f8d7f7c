# SPDX-License-Identifier: Apache-2.0
"""What one step does, worked out once and shared by all layers: order of the tokens, groups of slots, masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lmi.api import Decode, Prefill, StepBatch
from lmi_hf.stepping.arena import Arena
from lmi_hf.stepping.lora import AdapterRows

# What one more attention call costs, in tokens of cache read by a call that exists anyway. Measured on 2 CPU cores:
# 15 to 25 us a call and layer against 0.03 to 0.05 us a token.
_CALL_COST_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Neighbouring positions of one slot: rows [row, row + n) of the step attend to the slot's first ``end`` tokens."""

    slot: int
    row: int
    n: int
    start: int

    @property
    def end(self) -> int:
        return self.start + self.n


@dataclass(frozen=True, kw_only=True)
class Run:
    """Single tokens of neighbouring slots that are attended in one call.

    Args:
        first_slot, last_slot: the slots [first_slot, last_slot) of the arena.
        row: the step's row of the first token.
        lengths: tokens each live slot holds, the new one included; in slot order.
        slots: the live slots among them.
    """

    first_slot: int
    last_slot: int
    row: int
    lengths: tuple[int, ...]
    slots: tuple[int, ...]

    @property
    def n(self) -> int:
        return len(self.slots)

    @property
    def has_holes(self) -> bool:
        return self.n < self.last_slot - self.first_slot


@dataclass
class Plan:
    """One step, in the order of its rows: chunks first, then single tokens by slot.

    Args:
        ids, positions: int64 [n_rows].
        index: rows of the arena that the step writes, int64 [n_rows].
        logit_rows: rows whose logits are wanted, in the order of the batch, int64 [sum of n_logits].
        chunks, runs: how the rows attend.
        adapters: rows that have one; None where none has.
        logit_adapters: the same of ``logit_rows``.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    index: torch.Tensor
    logit_rows: torch.Tensor
    chunks: list[Chunk]
    runs: list[Run]
    adapters: AdapterRows | None = None
    logit_adapters: AdapterRows | None = None
    _masks: dict[tuple[object, ...], torch.Tensor | None] = field(default_factory=dict)
    _moved: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return len(self.ids)

    def index_on(self, device: torch.device) -> torch.Tensor:
        """``index`` on a layer's device; layers may be spread over several."""
        if device == self.index.device:
            return self.index
        if device not in self._moved:
            self._moved[device] = self.index.to(device)
        return self._moved[device]

    def chunk_mask(self, chunk: Chunk, window: int, like: torch.Tensor) -> torch.Tensor | None:
        """Additive mask [n, end] of a chunk; None where plain causal attention from position 0 is meant."""
        if chunk.start == 0 and not _reaches(chunk.end, window):
            return None
        key = ("chunk", chunk.slot, window, like.device)
        if key not in self._masks:
            query = torch.arange(chunk.start, chunk.end, device=like.device)[:, None]
            position = torch.arange(chunk.end, device=like.device)
            hidden = position > query
            if window:
                hidden |= position <= query - window
            self._masks[key] = _additive(hidden, like.dtype)
        return self._masks[key]

    def run_span(self, run: Run, window: int) -> tuple[int, int]:
        """Positions [first, last) that any token of the run attends to."""
        return (max(0, min(run.lengths) - window) if window else 0), max(run.lengths)

    def run_mask(self, run: Run, window: int, like: torch.Tensor) -> torch.Tensor | None:
        """Additive mask [n slots, 1, 1, last - first] of a run; None where all attend to the whole span."""
        first, last = self.run_span(run, window)
        if not run.has_holes and min(run.lengths) == last and not _reaches(last - first, window):
            return None
        key = ("run", run.first_slot, window, like.device)
        if key not in self._masks:
            by_slot = dict(zip(run.slots, run.lengths, strict=True))
            # A hole attends to one token, so that its unused row stays finite.
            ends = [by_slot.get(slot, first + 1) for slot in range(run.first_slot, run.last_slot)]
            end = torch.tensor(ends, device=like.device)[:, None]
            position = torch.arange(first, last, device=like.device)
            hidden = position >= end
            if window:
                hidden |= position < end - window
            self._masks[key] = _additive(hidden, like.dtype)[:, None, None, :]
        return self._masks[key]

    def run_rows(self, run: Run, device: torch.device) -> torch.Tensor:
        """For each slot of a run with holes, the row whose query stands in its place, int64 [n slots]."""
        key = ("rows", run.first_slot, device)
        if key not in self._masks:
            order = {slot: number for number, slot in enumerate(run.slots)}
            rows = [order.get(slot, 0) for slot in range(run.first_slot, run.last_slot)]
            self._masks[key] = torch.tensor(rows, device=device)
        rows_of_slots = self._masks[key]
        assert rows_of_slots is not None  # noqa: S101 - put there two lines above
        return rows_of_slots

    def run_places(self, run: Run, device: torch.device) -> torch.Tensor:
        """For each row of a run with holes, its slot's place in the run, int64 [n]."""
        key = ("places", run.first_slot, device)
        if key not in self._masks:
            self._masks[key] = torch.tensor([slot - run.first_slot for slot in run.slots], device=device)
        places = self._masks[key]
        assert places is not None  # noqa: S101 - put there two lines above
        return places


def make_plan(batch: StepBatch, arena: Arena, device: torch.device) -> Plan:
    """Order a batch's tokens, reserve their places in the arena and group the slots.

    Raises:
        ValueError: an entry does not continue its slot, or does not fit.
    """
    entries: list[Prefill | Decode] = [*batch.prefills, *batch.decodes]
    for entry in entries:
        arena.extend(entry.slot, entry.start, len(entry.ids))
    many = [entry for entry in entries if len(entry.ids) > 1]
    single = sorted((entry for entry in entries if len(entry.ids) == 1), key=lambda entry: entry.slot)
    ids: list[int] = []
    positions: list[int] = []
    index: list[int] = []
    row_of_slot: dict[int, int] = {}
    chunks: list[Chunk] = []
    for entry in [*many, *single]:
        row_of_slot[entry.slot] = len(ids)
        if len(entry.ids) > 1:
            chunks.append(Chunk(slot=entry.slot, row=len(ids), n=len(entry.ids), start=entry.start))
        ids.extend(entry.ids)
        positions.extend(range(entry.start, entry.start + len(entry.ids)))
        first = entry.slot * arena.context_tokens + entry.start
        index.extend(range(first, first + len(entry.ids)))
    logit_rows = [
        row_of_slot[entry.slot] + len(entry.ids) - entry.n_logits + number
        for entry in entries
        for number in range(entry.n_logits)
    ]
    n_chunk_rows = sum(chunk.n for chunk in chunks)
    runs = group_slots([(entry.slot, entry.start + 1) for entry in single], n_chunk_rows)
    on_device = torch.tensor([ids, positions, index], device=device)
    wanted = torch.tensor(logit_rows, dtype=torch.long, device=device)
    plan = Plan(
        ids=on_device[0], positions=on_device[1], index=on_device[2], logit_rows=wanted, chunks=chunks, runs=runs
    )
    if any(entry.adapter for entry in entries):
        plan.adapters = AdapterRows([entry.adapter for entry in [*many, *single] for _ in entry.ids])
        plan.logit_adapters = AdapterRows([entry.adapter for entry in entries for _ in range(entry.n_logits)])
    return plan


def group_slots(slots: Sequence[tuple[int, int]], first_row: int) -> list[Run]:
    """Cut sorted (slot, length) pairs into runs of neighbours, so that padding costs less than another call.

    Args:
        slots: (slot, tokens it holds), slots rising.
        first_row: the step's row of the first pair.
    """
    runs: list[Run] = []
    begin = 0
    longest = 0
    for number, (slot, length) in enumerate(slots):
        first_slot = slots[begin][0]
        joined = (slot + 1 - first_slot) * max(longest, length)
        apart = (slots[number - 1][0] + 1 - first_slot) * longest + length + _CALL_COST_TOKENS if number > begin else 0
        if number > begin and joined > apart:
            runs.append(_run(slots[begin:number], first_row + begin))
            begin, longest = number, 0
        longest = max(longest, length)
    if slots:
        runs.append(_run(slots[begin:], first_row + begin))
    return runs


def _run(slots: Sequence[tuple[int, int]], row: int) -> Run:
    return Run(
        first_slot=slots[0][0],
        last_slot=slots[-1][0] + 1,
        row=row,
        lengths=tuple(length for _, length in slots),
        slots=tuple(slot for slot, _ in slots),
    )


def _reaches(n_tokens: int, window: int) -> bool:
    """Whether a window hides anything of n_tokens; 0 means no window."""
    return bool(window) and n_tokens > window


def _additive(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
