# SPDX-License-Identifier: Apache-2.0
"""Models whose compiled graphs can be saved and loaded, and that read whole prompts at once."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from transformers_neuronx import _device, bucket
from transformers_neuronx._logits import next_logits
from transformers_neuronx.config import NeuronConfig
from transformers_neuronx.module import PretrainedModel

_UNKNOWN = -1


class NeuronModelBase(PretrainedModel):
    """The graphs of a model, and its cache: the ids that each row has at each position."""

    def _set_up(self, config: SimpleNamespace, neuron_config: NeuronConfig | None, **sizes: Any) -> None:
        self.config = config
        self.neuron_config = neuron_config or NeuronConfig()
        self.batch_sizes = bucket.batch_sizes(sizes["batch_size"])
        self.token_buckets = bucket.token_sizes(sizes["n_positions"])
        self.context_buckets = bucket.context_sizes(sizes["context_length_estimate"], self.token_buckets)
        if sizes["amp"] not in ("f32", "f16", "bf16"):
            raise AssertionError(f"unknown amp {sizes['amp']}")
        continuous = self.neuron_config.continuous_batching
        if continuous is not None and continuous.batch_size_for_shared_caches != self.batch_sizes[-1]:
            raise AssertionError("the batch size is not that of the shared caches")
        self._sizes = sizes
        self._steps = _device.Steps()
        self._directory: str | None = None
        self._graphs: dict[str, bytes] = {}
        self._is_ready = False
        self._cache = torch.full((self.batch_sizes[-1], self.token_buckets[-1]), _UNKNOWN)

    # ------------------------------------------------------------------------------------------------------- graphs

    def _names(self) -> list[str]:
        same = [type(self).__name__, _device.dimensions(self.config), self.neuron_config.to_json(), self._sizes]
        sizes = [
            *(("token", each) for each in self.token_buckets),
            *(("context", each) for each in self.context_buckets),
        ]
        return [_device.graph_name([*same, each]) for each in sizes]

    def save(self, directory: str, sharded_weights: bool = False) -> None:
        if not self._graphs:
            raise AssertionError("cannot save a model which has not been successfully compiled")
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name, graph in self._graphs.items():
            (Path(directory) / name).write_bytes(graph)
        _device.record(what="save", directory=directory)

    def load(self, directory: str) -> None:
        self._directory = directory
        _device.record(what="load", directory=directory)

    def compile(self, parallel_degree: int | None = None) -> None:
        self._graphs = {name: _device.compiled(name) for name in self._names()}

    def to_neuron(self) -> None:
        _device.record(what="to_neuron", flags=os.environ.get("NEURON_CC_FLAGS", ""))
        _device.take_cores(self._sizes["tp_degree"])
        if self._directory is None:
            self.compile()
        else:
            self._read_graphs(Path(self._directory))
        self._is_ready = True

    def _read_graphs(self, folder: Path) -> None:
        for name in self._names():
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    "Could not find a matching NEFF for your HLO in this directory. Ensure that the model you are "
                    "trying to load is the same type and has the same parameters as the one you saved."
                )
            self._graphs[name] = (folder / name).read_bytes()

    def is_compiled(self) -> bool:
        return bool(self._graphs)

    def reset(self) -> None:
        self._cache.fill_(_UNKNOWN)

    # -------------------------------------------------------------------------------------------------------- steps

    def _run(self, input_ids: torch.Tensor, cache_ids: Any, start_ids: Any) -> torch.Tensor:
        if not self._is_ready:
            raise RuntimeError("the model is not on the device")
        self._steps.next()
        if self.neuron_config.continuous_batching is not None and start_ids is not None:
            rows = self._run_slots(input_ids, cache_ids, start_ids)
        else:
            rows = self._run_batch(input_ids, cache_ids, start_ids)
        if self.neuron_config.on_device_generation is not None:
            return rows.argmax(-1, keepdim=True)
        return rows.to(getattr(torch, self.neuron_config.cast_logits_dtype))

    def _run_slots(self, input_ids: torch.Tensor, cache_ids: torch.Tensor, seq_ids: torch.Tensor) -> torch.Tensor:
        n_rows, n_ids = input_ids.shape
        if tuple(cache_ids.shape) != (n_rows, n_ids) or tuple(seq_ids.shape) != (n_rows,):
            raise AssertionError(f"{tuple(input_ids.shape)}, {tuple(cache_ids.shape)}, {tuple(seq_ids.shape)}")
        if n_ids > 1:
            bound = bucket.find(self.context_buckets, n_ids)
            if bound is None or n_ids > bound or int(cache_ids.flatten()[0]) != 0:
                raise AssertionError(f"invalid input prompt length ({n_ids} <= {bound})")
            for row, slot in enumerate(seq_ids.tolist()):
                self._cache[slot, :n_ids] = input_ids[row]
            return torch.stack([self._next(slot, 0, n_ids) for slot in seq_ids.tolist()])
        # As the library has it: a row that is not named reads the id 0 at position 0, whatever was there.
        full_ids = torch.zeros(self.batch_sizes[-1], dtype=torch.long)
        places = torch.zeros(self.batch_sizes[-1], dtype=torch.long)
        for row, slot in enumerate(seq_ids.tolist()):
            full_ids[slot], places[slot] = input_ids[row, 0], cache_ids[row, 0]
        for slot in range(self.batch_sizes[-1]):
            self._cache[slot, places[slot]] = full_ids[slot]
        return torch.stack([self._next(slot, 0, int(places[slot]) + 1) for slot in seq_ids.tolist()])

    def _run_batch(self, input_ids: torch.Tensor, cache_ids: Any, start_ids: Any) -> torch.Tensor:
        n_rows, n_ids = input_ids.shape
        if n_rows not in self.batch_sizes:
            raise KeyError((bucket.find(self.context_buckets, n_ids), n_rows))
        places = torch.arange(n_ids) if cache_ids is None else cache_ids
        starts = torch.zeros(n_rows, dtype=torch.long) if start_ids is None else start_ids
        if places.dim() != 1 or len(places) != n_ids or int(places[-1]) >= self.token_buckets[-1]:
            raise AssertionError(f"cache_ids {places.tolist()} for {n_ids} ids of {self.token_buckets[-1]}")
        self._cache[:n_rows, places.long()] = input_ids
        end = int(places[-1]) + 1
        return torch.stack([self._next(row, start, end) for row, start in enumerate(starts.tolist())])

    def _next(self, row: int, start: int, end: int) -> torch.Tensor:
        return next_logits(self._cache[row, start:end].tolist(), self.config.vocab_size)
