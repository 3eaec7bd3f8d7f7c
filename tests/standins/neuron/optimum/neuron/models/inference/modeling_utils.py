# SPDX-License-Identifier: Apache-2.0
"""The class that finds a model's own one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from optimum.neuron.models.inference.backend.config import NxDNeuronConfig, _read, _write
from transformers_neuronx import _device

_VERSION = "0.4.5"
_TARGET = "trn1"
_NO_TENSORS = (2).to_bytes(8, "little") + b"{}"


class NeuronPreTrainedModel:
    task: str | None = None

    @classmethod
    def get_neuron_config(
        cls,
        model_name_or_path: Any,
        config: Any = None,
        token: Any = None,
        revision: Any = None,
        instance_type: Any = None,
        batch_size: Any = None,
        sequence_length: Any = None,
        tensor_parallel_size: Any = None,
    ) -> NxDNeuronConfig:
        return NxDNeuronConfig(
            checkpoint_id=None,
            batch_size=batch_size,
            sequence_length=sequence_length,
            tp_degree=tensor_parallel_size,
            target=instance_type or _TARGET,
            on_device_sampling=True,
            fused_qkv=True,
            continuous_batching=bool(batch_size and batch_size > 1),
        )

    @classmethod
    def export(
        cls,
        model_id: str,
        neuron_config: NxDNeuronConfig,
        config: Any = None,
        token: Any = None,
        revision: Any = None,
        load_weights: Any = False,
        **kwargs: Any,
    ) -> Any:
        _device.record(what="export", path=str(model_id), **vars(neuron_config), further=sorted(kwargs))
        _device.take_cores(neuron_config.tp_degree)
        _device.compiled(_device.graph_name([str(model_id), vars(neuron_config)]))
        return _made(Path(model_id), neuron_config)

    @classmethod
    def from_pretrained(cls, model_id: str, **kwargs: Any) -> Any:
        folder = Path(model_id)
        neuron_config = _read(folder)
        _device.record(what="from_pretrained", path=str(folder), **vars(neuron_config), further=sorted(kwargs))
        said = json.loads((folder / "neuron_config.json").read_text())
        if said["optimum_neuron_version"] != _VERSION:
            raise ValueError(f"optimum_neuron_version {said['optimum_neuron_version']} is not {_VERSION}")
        if neuron_config.target != os.environ.get("STANDIN_NEURON_TARGET", _TARGET):
            raise ValueError(f"The model was compiled for {neuron_config.target}")
        _device.take_cores(neuron_config.tp_degree)
        if not (folder / "checkpoint").exists() and not [*folder.glob("*.safetensors")]:
            raise ValueError(f"Checkpoint file not found under {folder}.")  # checkpoint_id is not looked for
        return _made(folder, neuron_config)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        versions = {"optimum_neuron_version": _VERSION, "neuronxcc_version": _device.compiler_version()}
        _write(self.neuron_config, folder, **versions)  # type: ignore[attr-defined]
        (folder / "config.json").write_text(json.dumps(vars(self.config)))  # type: ignore[attr-defined]
        (folder / "model.pt").write_bytes(b"graphs")
        shards = folder / "checkpoint" / "weights"
        shards.mkdir(parents=True)
        for rank in range(self.neuron_config.tp_degree):  # type: ignore[attr-defined]
            (shards / f"tp{rank}_sharded_checkpoint.safetensors").write_bytes(_NO_TENSORS)


class NeuronModelForCausalLM(NeuronPreTrainedModel):
    pass


def _made(folder: Path, neuron_config: NxDNeuronConfig) -> Any:
    from optimum.neuron.models.inference.backend.modules.decoder.modeling_decoder import NxDModelForCausalLM

    config = SimpleNamespace(**json.loads((folder / "config.json").read_text()))
    return NxDModelForCausalLM(config, neuron_config, None, [])
