# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: read from a folder, written as one file a tensor."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from transformers_neuronx import _device


def save_split(state_dict: dict[str, torch.Tensor], save_dir: str) -> None:
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    names = {key: f"p{place}.{key}" for place, key in enumerate(state_dict)}
    (folder / "key_to_filename.json").write_text(json.dumps(names))
    for key, tensor in state_dict.items():
        torch.save(tensor, folder / names[key])


def save_pretrained_split(model: Any, save_directory: str) -> None:
    """Write a model of transformers with its configuration, the weights split."""
    model.config.save_pretrained(save_directory)
    save_split(model.state_dict(), str(Path(save_directory) / "pytorch_model.bin"))


class PretrainedModel:
    @classmethod
    def from_pretrained(cls, pretrained_model_path: str, *model_args: Any, **kwargs: Any) -> Any:
        folder = Path(pretrained_model_path)
        config = SimpleNamespace(**json.loads((folder / "config.json").read_text()))
        split = folder / "pytorch_model.bin"
        indexes = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json")
        whole = [each for each in (*indexes, split.name) if (folder / each).is_file()]
        if not whole and not (split / "key_to_filename.json").is_file():
            raise FileNotFoundError(f"Can not find model.safetensors or pytorch_model.bin in {folder}")
        model = cls(config, *model_args, **kwargs)
        _device.record(
            what="from_pretrained", of=cls.__name__, path=str(folder), is_split=not whole, **_written(kwargs)
        )
        return model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)  # type: ignore[attr-defined]


def _written(kwargs: dict[str, Any]) -> dict[str, Any]:
    neuron_config = kwargs.pop("neuron_config", None)
    return {**kwargs, "neuron_config": json.loads(neuron_config.to_json()) if neuron_config else None}
