# SPDX-License-Identifier: Apache-2.0
"""What a model is compiled for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


class NxDNeuronConfig:
    def __init__(
        self,
        checkpoint_id: str | None = None,
        checkpoint_revision: str | None = None,
        batch_size: int = 1,
        max_batch_size: int | None = None,
        continuous_batching: bool = False,
        speculation_length: int = 0,
        sequence_length: int = 128,
        tp_degree: int = 1,
        ep_degree: int = 1,
        pp_degree: int = 1,
        torch_dtype: Any = torch.bfloat16,
        n_active_tokens: int | None = None,
        max_context_length: int | None = None,
        output_logits: bool = False,
        fused_qkv: bool = False,
        target: str | None = None,
        on_device_sampling: bool = False,
        max_topk: int = 256,
        start_rank_id: int = 0,
        local_ranks_size: int | None = None,
        capacity_factor: float | None = None,
        glu_mlp: bool = True,
    ) -> None:
        self.checkpoint_id = checkpoint_id
        self.checkpoint_revision = checkpoint_revision
        self.batch_size = batch_size
        self.max_batch_size = batch_size if max_batch_size is None else max_batch_size
        self.continuous_batching = continuous_batching
        self.speculation_length = speculation_length
        self.sequence_length = sequence_length
        self.tp_degree = tp_degree
        self.torch_dtype = getattr(torch, torch_dtype) if isinstance(torch_dtype, str) else torch_dtype
        self.max_context_length = max_context_length or sequence_length
        self.output_logits = output_logits
        self.fused_qkv = fused_qkv
        self.target = target
        self.on_device_sampling = on_device_sampling
        self.max_topk = max_topk

    @property
    def ctx_batch_size(self) -> int:
        return 1 if self.continuous_batching else self.batch_size

    @property
    def tkg_batch_size(self) -> int:
        return self.batch_size


def _write(config: NxDNeuronConfig, folder: Path, **versions: str) -> None:
    content = {**vars(config), "torch_dtype": str(config.torch_dtype).removeprefix("torch."), **versions}
    text = json.dumps({"_serialized_key": "NxDNeuronConfig", **content}, indent=2)
    (folder / "neuron_config.json").write_text(text)


def _read(folder: Path) -> NxDNeuronConfig:
    content = json.loads((folder / "neuron_config.json").read_text())
    own = ("_serialized_key", "neuronxcc_version", "optimum_neuron_version")
    return NxDNeuronConfig(**{key: value for key, value in content.items() if key not in own})
