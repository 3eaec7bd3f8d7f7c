# SPDX-License-Identifier: Apache-2.0
"""The key-value cache: one row a token, one region a slot, written in place and never moved."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named by Python from 3.13 on
_NO_HUGE_PAGES = 15  # MADV_NOHUGEPAGE; a huge page would commit 2 MiB for the first token of a slot


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """What one attention layer keeps of a token: heads and sizes of keys and values, and where."""

    n_heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def row_size(self) -> int:
        """Numbers a token: all key heads, then all value heads."""
        return self.n_heads * (self.key_size + self.value_size)

    @property
    def row_bytes(self) -> int:
        return self.row_size * self.dtype.itemsize


class LayerRows:
    """One layer's part of the arena.

    Attributes:
        rows: [max_slots * context_tokens, row_size]; row ``slot * context_tokens + position``.
        keys, values: views [max_slots, context_tokens, n_heads, size] of the same memory.
    """

    def __init__(self, shape: LayerShape, max_slots: int, context_tokens: int) -> None:
        self.shape = shape
        n_rows = max_slots * context_tokens
        self.pages = None if shape.device.type != "cpu" else _map_pages(n_rows * shape.row_bytes)
        if self.pages is None:  # zeros: what a mask hides must still be finite
            self.rows = torch.zeros(n_rows, shape.row_size, dtype=shape.dtype, device=shape.device)
        else:
            flat = torch.frombuffer(self.pages, dtype=shape.dtype, count=n_rows * shape.row_size)
            self.rows = flat.view(n_rows, shape.row_size)
        table = self.rows.view(max_slots, context_tokens, shape.row_size)
        n_key = shape.n_heads * shape.key_size
        split = (max_slots, context_tokens, shape.n_heads)
        self.keys = table[..., :n_key].view(*split, shape.key_size)
        self.values = table[..., n_key:].view(*split, shape.value_size)

    def forget(self, first_row: int, last_row: int) -> None:
        """Give the memory of rows [first_row, last_row) back to the system; rows of pages in use stay as they are."""
        if self.pages is None:
            return
        first = -(-first_row * self.shape.row_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        last = last_row * self.shape.row_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self.pages.madvise(mmap.MADV_DONTNEED, first, last - first)


class Arena:
    """The cache of all layers for all slots.

    On a CPU the memory is reserved, not committed: a page costs nothing until a token is written to it, so slots times
    context may exceed the memory there is while admission keeps the live tokens under ``capacity_tokens``. On other
    devices all of it is allocated at once.

    A slot that is given back has zeros only: a mask hides rows by adding to their scores and by weighing them with 0,
    and where one sequence has left what is not finite, another one would get it through every mask.

    Args:
        shapes: one entry a layer.
        max_slots: sequences.
        context_tokens: most tokens of one sequence.
        capacity_tokens: most tokens that may be in memory at one time, over all slots.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], *, max_slots: int, context_tokens: int, capacity_tokens: int
    ) -> None:
        self.max_slots = max_slots
        self.context_tokens = context_tokens
        self.capacity_tokens = capacity_tokens
        self.layers = [LayerRows(shape, max_slots, context_tokens) for shape in shapes]
        self.lengths = [0] * max_slots
        self._touched = [0] * max_slots
        self._written = [0] * max_slots  # since the slot was last given back

    @property
    def touched_tokens(self) -> int:
        """Tokens whose memory is committed, live or left behind by released slots."""
        return sum(self._touched)

    def extend(self, slot: int, start: int, n_tokens: int) -> None:
        """Note that positions [start, start + n_tokens) of a slot are about to be written.

        Raises:
            ValueError: the slot does not hold ``start`` tokens, or the context is too short.
        """
        if start != self.lengths[slot]:
            raise ValueError(f"slot {slot} holds {self.lengths[slot]} tokens, the batch says {start}")
        end = start + n_tokens
        if end > self.context_tokens:
            raise ValueError(f"slot {slot} would hold {end} tokens; the context is {self.context_tokens}")
        self.lengths[slot] = end
        self._written[slot] = max(self._written[slot], end)
        if end > self._touched[slot]:
            self._touched[slot] = end
            if self.touched_tokens > self.capacity_tokens:
                self._forget_dead_rows()

    def truncate(self, slot: int, n_tokens: int) -> None:
        self.lengths[slot] = min(self.lengths[slot], n_tokens)
        if not n_tokens and self._written[slot]:
            self._clear(slot)

    def close(self) -> None:
        self.layers = []

    def _clear(self, slot: int) -> None:
        first, n_rows = slot * self.context_tokens, self._written[slot]
        for layer in self.layers:
            layer.rows[first : first + n_rows].zero_()
        self._touched[slot] = max(self._touched[slot], n_rows)  # rows that were forgotten have memory again
        self._written[slot] = 0

    def _forget_dead_rows(self) -> None:
        for slot, (live, touched) in enumerate(zip(self.lengths, self._touched, strict=True)):
            if touched > live:
                first = slot * self.context_tokens
                for layer in self.layers:
                    layer.forget(first + live, first + touched)
                self._touched[slot] = live


def _map_pages(n_bytes: int) -> mmap.mmap | None:
    """Reserve memory without committing it; None where the system has no such thing."""
    if sys.platform != "linux":
        return None
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    pages = mmap.mmap(-1, max(n_bytes, mmap.PAGESIZE), flags=flags)
    pages.madvise(_NO_HUGE_PAGES)
    return pages
