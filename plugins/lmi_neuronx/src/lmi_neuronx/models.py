# SPDX-License-Identifier: Apache-2.0
"""Calls of a compiled model of Transformers-NeuronX, in the three ways that its classes take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lmi_neuronx.stepping import Rows

if TYPE_CHECKING:
    import torch


class ContinuousModel:
    """Llama and Mistral with a ContinuousBatchingConfig: ids and positions of two dimensions, slots in start_ids.

    Args:
        model: of a class with continuous batching, on the device.
        n_slots: that it was compiled for.
    """

    def __init__(self, model: Any, n_slots: int) -> None:
        self._model = model
        self._n_slots = n_slots

    def prefill(self, slot: int, rows: Rows) -> torch.Tensor:
        import torch

        ids = torch.tensor([rows[slot]])
        places = torch.arange(ids.shape[1], dtype=torch.int32).unsqueeze(0)
        logits: torch.Tensor = self._model(ids, places, torch.tensor([slot], dtype=torch.int32))
        return logits.reshape(-1) if logits.shape[-1] > 1 else logits.flatten()[0]

    def decode(self, slots: Sequence[int], rows: Rows) -> torch.Tensor:
        import torch

        # All slots are named: the library lets those that are not read the id 0 at position 0, over their first one.
        # One that is not decoded reads its last id once more, at the same place, which changes nothing.
        last = [(rows[slot][-1], len(rows[slot]) - 1) if slot in rows else (0, 0) for slot in range(self._n_slots)]
        ids = torch.tensor([[token_id] for token_id, _ in last])
        places = torch.tensor([[place] for _, place in last], dtype=torch.int32)
        found = self._model(ids, places, torch.arange(self._n_slots, dtype=torch.int32))
        return _chosen(found, self._n_slots)[list(slots)]

    def close(self) -> None:
        self._model = None


class PaddedBatch:
    """Classes with one position for all rows: positions of one dimension, and in start_ids the padding on the left.

    Args:
        model: without a ContinuousBatchingConfig, on the device.
        n_rows: that it was compiled for.
    """

    def __init__(self, model: Any, n_rows: int) -> None:
        self._model = model
        self._n_rows = n_rows
        self._n_read = 0
        self._starts: list[int] = []

    def read(self, rows: Rows) -> torch.Tensor:
        import torch

        self._n_read = max(map(len, rows.values()))
        padded = [[0] * (self._n_read - len(ids)) + list(ids) for ids in self._all(rows)]
        self._starts = [self._n_read - len(ids) for ids in self._all(rows)]
        return self._run(padded, torch.arange(self._n_read, dtype=torch.int32))

    def append(self, rows: Rows) -> torch.Tensor:
        import torch

        self._n_read += 1
        places = torch.tensor([self._n_read - 1], dtype=torch.int32)
        return self._run([[ids[-1]] for ids in self._all(rows)], places)

    def _all(self, rows: Rows) -> list[Sequence[int]]:
        """The rows of the graph; those without a sequence have one id."""
        return [rows.get(row, (0,)) for row in range(self._n_rows)]

    def _run(self, ids: list[list[int]], places: torch.Tensor) -> torch.Tensor:
        import torch

        starts = torch.tensor(self._starts, dtype=torch.int32)
        return _chosen(self._model(torch.tensor(ids), places, starts), self._n_rows)

    def close(self) -> None:
        self._model = None


class AlignedModel:
    """GPT-J and GPT-NeoX, which read one id of all rows at one position, and do not look past padding.

    All rows begin at position 0. At a position that is behind a row's own end it reads the id that it has there once
    more, which changes nothing; before its end something that it will write over. So rows of several lengths take a
    step for each length.

    Args:
        model: on the device.
        n_rows: that it was compiled for.
    """

    def __init__(self, model: Any, n_rows: int) -> None:
        self._model = model
        self._n_rows = n_rows

    def prefill(self, slot: int, rows: Rows) -> torch.Tensor:
        return self._read(0, len(rows[slot]), rows)[slot]

    def decode(self, slots: Sequence[int], rows: Rows) -> torch.Tensor:
        import torch

        ends = sorted({len(rows[slot]) for slot in slots})
        found = {end: self._read(end - 1, end, rows) for end in ends}
        return torch.stack([found[len(rows[slot])][slot] for slot in slots])

    def _read(self, start: int, end: int, rows: Rows) -> torch.Tensor:
        import torch

        ids = [[rows[row][at] if at < len(rows.get(row, ())) else 0 for at in range(start, end)] for row in self._rows]
        found = self._model(torch.tensor(ids), torch.arange(start, end, dtype=torch.int32))
        return _chosen(found, self._n_rows)

    @property
    def _rows(self) -> range:
        return range(self._n_rows)

    def close(self) -> None:
        self._model = None


def _chosen(found: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Logits [n_rows, vocab_size]; ids [n_rows] where the device sampled."""
    rows = found.reshape(n_rows, -1)
    return rows if rows.shape[1] > 1 else rows[:, 0]


__all__ = ["AlignedModel", "ContinuousModel", "PaddedBatch"]
