# SPDX-License-Identifier: Apache-2.0
"""Steps of a compiled model: sequences that come and go in slots of their own, or that share one padded batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from lmi.api import Decode, Prefill, StepBatch, StepOutput, Stepper, StepperLimits
from lmi_neuronx.failures import failures_named

if TYPE_CHECKING:
    import torch

Rows = Mapping[int, Sequence[int]]
"""Slot -> every id of its sequence, the one that is read next included. Slots without a sequence are not there."""


class SlotModel(Protocol):
    """A compiled model whose rows have positions of their own."""

    def prefill(self, slot: int, rows: Rows) -> torch.Tensor:
        """Read a slot's ids, two or more; the logits that follow, [vocab_size], or the id where the device samples."""

    def decode(self, slots: Sequence[int], rows: Rows) -> torch.Tensor:
        """Read the last id of slots; what follows each, [n_slots, vocab_size] or [n_slots].

        The others keep what they have, whatever the library does with rows that it is not told of.
        """

    def close(self) -> None:
        """Free the device."""


class PaddedModel(Protocol):
    """A compiled model whose rows share one position; shorter ones are padded on the left."""

    def read(self, rows: Rows) -> torch.Tensor:
        """Read all rows from the start; what follows each, [n_rows of the graph, vocab_size]."""

    def append(self, rows: Rows) -> torch.Tensor:
        """Read the last id of all rows, the same as at the last call and one id more each."""

    def close(self) -> None:
        """Free the device."""


class NeuronStepper(Stepper):
    """What both ways share: each slot's ids, which are all that is needed to compute it anew.

    Args:
        limits: as the model was compiled.
    """

    def __init__(self, limits: StepperLimits) -> None:
        self.limits = limits
        self._ids: dict[int, list[int]] = {}

    def step(self, batch: StepBatch) -> StepOutput:
        entries = _entries(batch)
        for entry in entries:
            self._ids[entry.slot] = [*self._ids.get(entry.slot, ())[: entry.start], *entry.ids]
        with failures_named():
            found = self._compute(batch)
            return self._output([found[each.slot] for each in entries if each.n_logits])

    @abstractmethod
    def _compute(self, batch: StepBatch) -> dict[int, torch.Tensor]:
        """By slot, what follows its ids: logits, or an id."""

    def _output(self, rows: list[torch.Tensor]) -> StepOutput:
        import torch

        if self.limits.samples_on_device:
            return StepOutput(ids=[int(row) for row in rows])
        return StepOutput(logits=torch.stack(rows) if rows else torch.zeros(0, self.limits.vocab_size))

    def truncate(self, slot: int, n_tokens: int) -> None:
        # What is behind stays in the device's cache, where no position sees it before it is written again.
        del self._ids.get(slot, [])[n_tokens:]

    def release(self, slot: int) -> None:
        self._ids.pop(slot, None)


class SlotStepper(NeuronStepper):
    """Continuous batching as the library has it: one prompt a forward, then one id of each running sequence.

    Args:
        model: the compiled one.
        limits: as it was compiled.
    """

    def __init__(self, model: SlotModel, limits: StepperLimits) -> None:
        super().__init__(limits)
        self._model = model

    def _compute(self, batch: StepBatch) -> dict[int, torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        long = [each.slot for each in batch.prefills if len(self._ids[each.slot]) > 1]
        # A prompt of one id is read as a decode: the graphs for prompts begin with two.
        single = [each.slot for each in _entries(batch) if each.slot not in long]
        if single:
            # Before the prompts: a row that is decoded beside them may leave an id in a slot that is still empty.
            resident = {slot: ids for slot, ids in self._ids.items() if ids and slot not in long}
            found.update(zip(single, self._model.decode(single, resident), strict=True))
        for slot in long:
            found[slot] = self._model.prefill(slot, self._ids)
        return found

    def close(self) -> None:
        self._model.close()


class BatchStepper(NeuronStepper):
    """Whole batches, where a graph has one position for all rows: whoever joins has all of them read again.

    That is one forward over the prompts, and then one a token as in continuous batching, so sequences may come and go;
    what it costs is the reading at each arrival, and padding.

    Args:
        model: the compiled one.
        limits: as it was compiled.
    """

    def __init__(self, model: PaddedModel, limits: StepperLimits) -> None:
        super().__init__(limits)
        self._model = model
        self._n_read: dict[int, int] = {}  # ids of each slot that the device's cache holds
        self._n_positions = 0

    def _compute(self, batch: StepBatch) -> dict[int, torch.Tensor]:
        rows = {slot: ids for slot, ids in self._ids.items() if ids}
        grown = {slot: len(ids) - 1 for slot, ids in rows.items()}
        # Rows that ended since stay in the graph as padding; the others must all be one id longer.
        goes_on = not batch.prefills and all(self._n_read.get(slot) == n for slot, n in grown.items())
        if goes_on and self._n_positions < self.limits.max_context_tokens:
            self._n_positions += 1
            found = self._model.append(rows)
        else:
            self._n_positions = max(map(len, rows.values()))
            found = self._model.read(rows)
        self._n_read = {slot: len(ids) for slot, ids in rows.items()}
        return {slot: found[slot] for slot in rows}

    def truncate(self, slot: int, n_tokens: int) -> None:
        super().truncate(slot, n_tokens)
        self._n_read.pop(slot, None)

    def release(self, slot: int) -> None:
        super().release(slot)
        self._n_read.pop(slot, None)

    def close(self) -> None:
        self._model.close()


def _entries(batch: StepBatch) -> list[Prefill | Decode]:
    return [*batch.prefills, *batch.decodes]


__all__ = ["BatchStepper", "NeuronStepper", "PaddedModel", "Rows", "SlotModel", "SlotStepper"]
