# SPDX-License-Identifier: Apache-2.0
"""What a place holds, from its listing, its small documents and the headers of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi.api.shapes import left_out
from lmi.artifacts.documents import read_documents
from lmi.artifacts.foreign import foreign_kinds
from lmi.artifacts.places.files import LocalFiles, ModelFiles
from lmi.artifacts.weights import (
    PICKLES,
    SAFETENSORS,
    SPLIT_FOLDER,
    WHOLE_NAMES,
    ranked_files,
    summary_of,
    weight_files,
)

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
PARAMS = "params.json"
PIPELINE = "model_index.json"
COMPILED_CONFIG = "neuron_config.json"
REPOSITORY_CONFIG = "config.pbtxt"

_CODE = "model.py"
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
"""Names that architectures give to the longest sequence they were made for, the usual one first."""


def detect(place: Path | ModelFiles) -> ModelArtifacts:
    """Describe a model; what is missing or unreadable stays empty, and ``check`` says so.

    Args:
        place: the model's folder, or its files wherever they are. Listing, documents, an index and headers are read,
            no weight; from a place elsewhere, the documents and the headers each at the same time.
    """
    files = LocalFiles(place) if isinstance(place, Path) else place
    documents = read_documents(files)
    layout, inner = _layout(files.sizes, documents)
    if layout is ArtifactFormat.NONE:
        return ModelArtifacts(files=dict(files.sizes), documents=documents)
    config = _object(documents, config_name(layout, inner)) if layout is not ArtifactFormat.ADAPTER else {}
    names = weight_files(files, layout, documents, inner)
    layers = _layers(config)
    return ModelArtifacts(
        folder=files.place,
        format=layout,
        inner=inner,
        config=config,
        architectures=_architectures(layers),
        model_type=str(config.get("model_type") or ""),
        weight_files=names,
        files=dict(files.sizes),
        documents=documents,
        weights=summary_of(files, names),
        eos_token_ids=_eos_token_ids([_object(documents, within(inner, "generation_config.json")), *layers]),
        max_context_tokens=_context_tokens([*layers, dict(left_out(config))]),
    )


def within(inner: str, name: str) -> str:
    """The name of a file beside the configuration, relative to the model's folder."""
    return f"{inner}/{name}" if inner else name


def config_name(layout: ArtifactFormat, inner: str) -> str:
    """The name of the file that says what the model is."""
    if layout is ArtifactFormat.ADAPTER:
        return ADAPTER_CONFIG
    return PARAMS if layout is ArtifactFormat.MISTRAL else within(inner, CONFIG)


def _layout(sizes: Mapping[str, int], documents: dict[str, Any]) -> tuple[ArtifactFormat, str]:
    repository = _repository(sizes)
    if repository is not None:
        return ArtifactFormat.TRITON_REPOSITORY, repository
    return (_with_config(sizes, documents) if CONFIG in sizes else _without_config(sizes)), ""


def _with_config(sizes: Mapping[str, int], documents: dict[str, Any]) -> ArtifactFormat:
    config = _object(documents, CONFIG)
    if "build_config" in config or any(_is_engine(name, "") for name in sizes):
        return ArtifactFormat.ENGINES
    if isinstance(config.get("neuron"), dict) or COMPILED_CONFIG in sizes:
        return ArtifactFormat.NEURON
    if any(name.startswith(f"{SPLIT_FOLDER}/") for name in sizes):
        return ArtifactFormat.NEURON_SPLIT
    of_ranks = {file for name, content in documents.items() if "/" not in name for file in ranked_files(content)}
    whole = [name for name in sizes if name.endswith(SAFETENSORS) and (name not in of_ranks or name in WHOLE_NAMES)]
    if of_ranks and not whole:
        return ArtifactFormat.RANKED_CHECKPOINT
    return ArtifactFormat.PRETRAINED


def _without_config(sizes: Mapping[str, int]) -> ArtifactFormat:
    if COMPILED_CONFIG in sizes:
        return ArtifactFormat.NEURON
    if any(name.startswith(f"{SPLIT_FOLDER}/") for name in sizes):
        return ArtifactFormat.NEURON_SPLIT
    if ADAPTER_CONFIG in sizes:
        return ArtifactFormat.ADAPTER
    has_weights = any(name.endswith((SAFETENSORS, *PICKLES)) for name in sizes)
    is_mistral = any(name.startswith("consolidated") and name.endswith(SAFETENSORS) for name in sizes)
    if PARAMS in sizes and (is_mistral or not has_weights):
        return ArtifactFormat.MISTRAL
    if _CODE in sizes and not has_weights and PIPELINE not in sizes and not foreign_kinds(sizes):
        return ArtifactFormat.NONE
    return ArtifactFormat.PRETRAINED


def _repository(sizes: Mapping[str, int]) -> str | None:
    """The folder that holds ``config.pbtxt`` beside a tokenizer or engines: the place itself, or one in it.

    Of several, as a pipeline with steps of its own before and behind has them, the one with engines.
    """
    parents = [name.rpartition("/")[0] for name in sizes if name.rpartition("/")[2] == REPOSITORY_CONFIG]
    found = []
    for folder in parents:
        has_engines = any(_is_engine(name, within(folder, "1")) for name in sizes)
        has_tokenizer = within(folder, "tokenizer_config.json") in sizes
        if "/" not in folder and (has_engines or has_tokenizer):
            found.append((not has_engines, not has_tokenizer, folder))
    return min(found)[2] if found else None


def _is_engine(name: str, folder: str) -> bool:
    return name.endswith(".engine") and name.rpartition("/")[0] == folder


def _object(documents: dict[str, Any], name: str) -> dict[str, Any]:
    content = documents.get(name)
    return content if isinstance(content, dict) else {}


def _layers(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The configuration, and those inside it that speak of the text or of what was built."""
    inside = [config.get(key) for key in ("text_config", "build_config", "pretrained_config", "language_config")]
    return [config, *(each for each in inside if isinstance(each, dict))]


def _architectures(layers: list[dict[str, Any]]) -> tuple[str, ...]:
    for layer in layers:
        value = layer.get("architectures")
        found = tuple(map(str, value)) if isinstance(value, list) else ()
        if not found and isinstance(layer.get("architecture"), str):
            found = (layer["architecture"],)
        if found:
            return found
    return ()


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
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return 0
