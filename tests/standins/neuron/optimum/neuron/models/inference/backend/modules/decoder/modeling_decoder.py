# SPDX-License-Identifier: Apache-2.0
"""Reads prompts padded on the right, and one id of every row, each at its own position."""

from __future__ import annotations

from typing import Any

import torch
from optimum.neuron.models.inference.modeling_utils import NeuronModelForCausalLM
from transformers_neuronx import _device
from transformers_neuronx._logits import next_logits


class NxDModelForCausalLM(NeuronModelForCausalLM):
    def __init__(self, config: Any, neuron_config: Any, traced_model: Any, graph_builders: Any) -> None:
        self.config = config
        self.neuron_config = neuron_config
        self._steps = _device.Steps()
        self._cache = torch.full((neuron_config.max_batch_size, neuron_config.sequence_length), -1)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def reset(self) -> None:
        self._cache.fill_(-1)

    def forward(
        self,
        input_ids: Any,
        position_ids: Any,
        seq_ids: Any = None,
        sampling_params: Any = None,
        output_attentions: Any = None,
        output_hidden_states: Any = None,
        return_dict: Any = None,
    ) -> Any:
        self._steps.next()
        sizes = self.neuron_config
        if tuple(sampling_params.shape) != (len(seq_ids), 3) or len(seq_ids) > sizes.max_batch_size:
            raise ValueError(f"{tuple(sampling_params.shape)} for {len(seq_ids)} rows of {sizes.max_batch_size}")
        if input_ids.shape[1] > 1 and int(position_ids.min()) == 0:
            rows = self._read(input_ids, position_ids, seq_ids.tolist())
        else:
            rows = self._decode(input_ids, position_ids, seq_ids.tolist())
        logits = torch.stack(rows)
        return logits.argmax(-1) if sizes.on_device_sampling else logits

    def _read(self, input_ids: Any, position_ids: Any, slots: list[int]) -> list[torch.Tensor]:
        if len(slots) % self.neuron_config.ctx_batch_size:
            raise ValueError(f"{len(slots)} prompts, compiled for {self.neuron_config.ctx_batch_size}")
        found = []
        for row, slot in enumerate(slots):
            self._cache[slot, : input_ids.shape[1]] = input_ids[row]
            found.append(self._next(slot, int(position_ids[row].max()) + 1))
        return found

    def _decode(self, input_ids: Any, position_ids: Any, slots: list[int]) -> list[torch.Tensor]:
        # As the library has it: rows that are not named get the id and the position of the first one.
        for slot in range(self.neuron_config.max_batch_size):
            row = slots.index(slot) if slot in slots else 0
            self._cache[slot, int(position_ids[row, 0])] = input_ids[row, 0]
        return [self._next(slot, int(position_ids[row, 0]) + 1) for row, slot in enumerate(slots)]

    def _next(self, slot: int, end: int) -> torch.Tensor:
        return next_logits(self._cache[slot, :end].tolist(), self.config.vocab_size)
