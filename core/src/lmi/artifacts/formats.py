# SPDX-License-Identifier: Apache-2.0
"""What a model folder holds, from its json files and its listing alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmi.api import ArtifactFormat, ModelArtifacts

SAFETENSORS_INDEX = "model.safetensors.index.json"
BIN_INDEX = "pytorch_model.bin.index.json"

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
"""Names that architectures give to the longest sequence they were made for, the usual one first."""

_NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "random_states")
_ADAPTER_PREFIX = "adapter_model"


def detect(folder: Path) -> ModelArtifacts:
    """Describe a model folder; what is missing or unreadable stays empty, and ``check`` says so.

    Args:
        folder: the model's folder; no weight in it is opened.
    """
    folder = folder.resolve()
    config = read_json(folder / "config.json") or {}
    is_adapter = not (folder / "config.json").exists() and (folder / "adapter_config.json").is_file()
    text_config = config.get("text_config")
    layers = [config, text_config if isinstance(text_config, dict) else {}]
    return ModelArtifacts(
        folder=str(folder),
        format=ArtifactFormat.ADAPTER if is_adapter else ArtifactFormat.PRETRAINED,
        config=config,
        architectures=_texts(config.get("architectures")),
        model_type=str(config.get("model_type") or ""),
        weight_files=_adapter_files(folder) if is_adapter else _weight_files(folder),
        eos_token_ids=_eos_token_ids([read_json(folder / "generation_config.json") or {}, *layers]),
        max_context_tokens=_context_tokens(layers),
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a json file; None where there is no such file or no object in it."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def indexed_shards(folder: Path, index_name: str) -> tuple[str, ...]:
    """The weight files that an index names, in order; empty where there is no readable index."""
    weight_map = (read_json(folder / index_name) or {}).get("weight_map")
    return tuple(sorted(set(map(str, weight_map.values())))) if isinstance(weight_map, dict) else ()


def index_in_use(folder: Path) -> str:
    """The name of the index that says which weights count, or ""; safetensors before PyTorch files."""
    if (folder / SAFETENSORS_INDEX).is_file():
        return SAFETENSORS_INDEX
    has_safetensors = any(not path.name.startswith(_ADAPTER_PREFIX) for path in folder.glob("*.safetensors"))
    return BIN_INDEX if not has_safetensors and (folder / BIN_INDEX).is_file() else ""


def _weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the weights there are: what the index names, else one whole file, else all of the better kind."""
    shards = indexed_shards(folder, index_in_use(folder))
    if shards:
        return tuple(name for name in shards if (folder / name).is_file())
    for suffix, whole in ((".safetensors", "model.safetensors"), (".bin", "pytorch_model.bin")):
        if (folder / whole).is_file():
            return (whole,)
        found = tuple(
            path.name
            for path in sorted(folder.glob(f"*{suffix}"))
            if path.is_file() and not path.name.startswith((*_NOT_WEIGHTS, _ADAPTER_PREFIX))
        )
        if found:
            return found
    return ()


def _adapter_files(folder: Path) -> tuple[str, ...]:
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return (name,)
    return ()


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _eos_token_ids(layers: list[dict[str, Any]]) -> tuple[int, ...]:
    """The first layer that says counts, alone: generation_config.json is the later word."""
    for layer in layers:
        value = layer.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        found = tuple(each for each in ids if isinstance(each, int) and not isinstance(each, bool))
        if found:
            return found
    return ()


def _context_tokens(layers: list[dict[str, Any]]) -> int:
    for layer in layers:
        for key in _CONTEXT_KEYS:
            value = layer.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return 0
