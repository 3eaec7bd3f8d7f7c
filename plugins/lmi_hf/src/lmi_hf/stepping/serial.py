# SPDX-License-Identifier: Apache-2.0
"""The slow stepper that is right for every architecture: each slot has the model's own cache and its own forward."""

from __future__ import annotations

from typing import Any

import torch

from lmi.api import Decode, Prefill, StepBatch, StepOutput, Stepper, StepperLimits
from lmi_hf.stepping.lora import AdapterRows, HookedLayers
from lmi_hf.stepping.packed import out_of_memory_named


class SerialStepper(Stepper):
    """One forward an entry of the batch, batch size 1, with whatever cache the model makes for itself.

    A truncated slot is computed again from its ids: not every cache (a recurrent state) can be cut.

    Args:
        model: a causal language model.
        limits: what is promised to the scheduler.
        device: where ids go.
        hooked: the model's layers, for adapters; None for none.
    """

    def __init__(
        self, model: Any, limits: StepperLimits, device: torch.device, hooked: HookedLayers | None = None
    ) -> None:
        self._model = model
        self._hooked = hooked
        self._device = device
        self._caches: dict[int, Any] = {}
        self._ids: dict[int, list[int]] = {}
        self._rotaries = [m for m in model.modules() if getattr(m, "rope_type", "") == "dynamic"]
        self.limits = limits

    def step(self, batch: StepBatch) -> StepOutput:
        with torch.inference_mode(), out_of_memory_named():
            entries: list[Prefill | Decode] = [*batch.prefills, *batch.decodes]
            parts = [self._advance(entry) for entry in entries]
            return StepOutput(logits=torch.cat(parts))

    def truncate(self, slot: int, n_tokens: int) -> None:
        if n_tokens < len(self._ids.get(slot, ())):
            del self._ids[slot][n_tokens:]
            self._caches.pop(slot, None)

    def release(self, slot: int) -> None:
        self._caches.pop(slot, None)
        self._ids.pop(slot, None)

    def close(self) -> None:
        self._caches.clear()
        self._ids.clear()
        self._model = None

    def _advance(self, entry: Prefill | Decode) -> torch.Tensor:
        """Run one entry and return its logits [n_logits, vocab_size]."""
        held = self._ids.setdefault(entry.slot, [])
        if entry.start != len(held):
            raise ValueError(f"slot {entry.slot} holds {len(held)} tokens, the batch says {entry.start}")
        cache = self._caches.pop(entry.slot, None)  # stays out if the forward fails half way
        again = held if cache is None else []
        ids = torch.tensor([[*again, *entry.ids]], device=self._device)
        first = len(held) - len(again)
        positions = torch.arange(first, first + ids.shape[1], device=self._device)[None]
        self._forget_scaling()
        if self._hooked is not None:
            n_rows = ids.shape[1]
            self._hooked.begin(n_rows, AdapterRows([entry.adapter] * n_rows) if entry.adapter else None)
        out = self._forward(ids, positions, cache, entry.n_logits)
        held.extend(entry.ids)
        self._caches[entry.slot] = _cache_of(out)
        logits: torch.Tensor = out.logits[0, out.logits.shape[1] - entry.n_logits :]
        return logits

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any, n_logits: int) -> Any:
        given: dict[str, Any] = {"input_ids": ids, "use_cache": True}
        accepted = _parameters(self._model)
        if "past_key_values" in accepted:
            given["past_key_values"] = cache
        elif "cache_params" in accepted:  # recurrent models keep a state instead
            given["cache_params"] = cache
        if "position_ids" in accepted:
            given["position_ids"] = positions
        if "logits_to_keep" in accepted:
            given["logits_to_keep"] = max(n_logits, 1)
        return self._model(**given)

    def _forget_scaling(self) -> None:
        """Undo what dynamic rope scaling remembers of another slot's length."""
        for rotary in self._rotaries:
            rotary.max_seq_len_cached = rotary.original_max_seq_len
            rotary.inv_freq = rotary.original_inv_freq


def _parameters(model: Any) -> frozenset[str]:
    import inspect

    return frozenset(inspect.signature(model.forward).parameters)


def _cache_of(out: Any) -> Any:
    cache = getattr(out, "past_key_values", None)
    return getattr(out, "cache_params", None) if cache is None else cache
