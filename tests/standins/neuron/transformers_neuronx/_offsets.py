# SPDX-License-Identifier: Apache-2.0
"""Models that read one id of every row at a time, all rows at the same position, and take no notice of padding."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch

from transformers_neuronx import _device
from transformers_neuronx._logits import next_logits
from transformers_neuronx.bucket import token_sizes
from transformers_neuronx.module import PretrainedModel


class OneByOne(PretrainedModel):
    def _set_up(
        self, config: SimpleNamespace, batch_size: int, n_positions: int, neuron_config: Any, **sizes: Any
    ) -> None:
        self.config = config
        self.neuron_config = neuron_config
        self._n_positions = n_positions
        self._sizes = {"batch_size": batch_size, "n_positions": n_positions, **sizes}
        self._steps = _device.Steps()
        self._cache = torch.full((batch_size, n_positions), -1)
        self._is_ready = False

    def to_neuron(self) -> None:
        _device.record(what="to_neuron", flags=os.environ.get("NEURON_CC_FLAGS", ""))
        _device.take_cores(self._sizes["tp_degree"])
        config = self.neuron_config.to_json() if self.neuron_config else None
        same = [type(self).__name__, _device.dimensions(self.config), self._sizes, config]
        for size in token_sizes(self._n_positions):
            _device.compiled(_device.graph_name([*same, size]))
        self._is_ready = True

    def reset(self) -> None:
        self._cache.fill_(-1)

    def _run(self, input_ids: torch.Tensor, cache_offset: torch.Tensor) -> torch.Tensor:
        if not self._is_ready:
            raise RuntimeError("the model is not on the device")
        n_rows, n_ids = input_ids.shape
        if n_rows != len(self._cache) or tuple(cache_offset.shape) != (n_ids,):
            raise AssertionError(f"{tuple(input_ids.shape)} at {cache_offset.tolist()} for {len(self._cache)} rows")
        if int(cache_offset[-1]) >= self._n_positions:
            raise StopIteration  # no bucket is so large
        self._steps.next()
        self._cache[:, cache_offset.long()] = input_ids
        end = int(cache_offset[-1]) + 1
        return torch.stack([next_logits(row[:end].tolist(), self.config.vocab_size) for row in self._cache])
