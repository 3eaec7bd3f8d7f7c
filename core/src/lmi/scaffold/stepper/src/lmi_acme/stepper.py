# SPDX-License-Identifier: Apache-2.0
"""The acme stepper: computes one step when it is told to. The core schedules, samples and streams."""

from __future__ import annotations

import torch

from lmi.api import Decode, Prefill, StepBatch, StepOutput, Stepper, StepperLimits
from lmi_acme.config import AcmeConfig
from lmi_acme.model import VOCAB_SIZE, made_up_logits


class AcmeStepper(Stepper):
    """One model on one device."""

    def __init__(self, config: AcmeConfig) -> None:
        self.limits = StepperLimits(
            max_slots=config.max_rolling_batch_size,
            max_context_tokens=config.max_model_len,
            kv_capacity_tokens=config.max_rolling_batch_size * config.max_model_len,
            vocab_size=VOCAB_SIZE,
            prefill_chunk_tokens=512,  # longer prompts come in pieces
            max_prefills_per_step=config.max_rolling_batch_size,
        )
        self._caches: dict[int, list[int]] = {}

    def step(self, batch: StepBatch) -> StepOutput:
        # A real model computes all rows in one forward; what counts is their order: prefills first, then decodes.
        entries: list[Prefill | Decode] = [*batch.prefills, *batch.decodes]
        rows = [row for entry in entries for row in self._read(entry)]
        return StepOutput(logits=torch.stack(rows) if rows else torch.empty(0, VOCAB_SIZE))

    def _read(self, entry: Prefill | Decode) -> list[torch.Tensor]:
        cache = self._caches.setdefault(entry.slot, [])
        cache += entry.ids
        ends = range(len(cache) - entry.n_logits + 1, len(cache) + 1)
        return [made_up_logits(cache[:end]) for end in ends]

    def truncate(self, slot: int, n_tokens: int) -> None:
        del self._caches[slot][n_tokens:]

    def release(self, slot: int) -> None:
        self._caches.pop(slot, None)

    def close(self) -> None:
        self._caches.clear()
