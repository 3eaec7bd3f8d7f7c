# SPDX-License-Identifier: Apache-2.0
"""Which of a model's files are its weights, and how much there is of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from lmi.api.artifacts import ArtifactFormat, WeightSummary
from lmi.artifacts.documents import NotReadable, parsed, why
from lmi.artifacts.headers import Tensor, headers_of
from lmi.artifacts.places.files import ModelFiles

SAFETENSORS_INDEX = "model.safetensors.index.json"
WHOLE_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights that are in one file."""

BIN_INDEX = "pytorch_model.bin.index.json"
SAFETENSORS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""Endings of files that PyTorch writes: pickles, most of them inside a zip archive."""

MAX_INDEX_BYTES = 64 << 20
SPLIT_FOLDER = "pytorch_model.bin"

_NOT_WEIGHTS = ("training_args.bin", "optimizer", "scheduler", "random_states", "rng_state", "scaler", "consolidated")
_ADAPTER_PREFIX = "adapter_model"
_IN_LAYERS = re.compile(r"(^|\.)\d+\.")
_NOT_LINEAR = re.compile(r"embed|norm|(^|\.)(ln_|wte\b|wpe\b)|\.conv1d\.|(^|\.)bias$")
_NOT_LOADED = re.compile(r"(^|\.)(attn|attention)\.(bias|masked_bias)$|(^|\.)rotary_emb\.inv_freq$")
"""Masks and positions that older versions of transformers stored; every engine makes its own."""

_COMPANION = re.compile(r"(scales?|scale_inv|zeros|zero_point|g_idx|absmax|quant_map|quant_state.*|lookup_table)$")
"""Tensors that a compressed matrix is stored with, whatever their shape."""
_KNOWN: WeakKeyDictionary[ModelFiles, dict[str, dict[str, str] | NotReadable]] = WeakKeyDictionary()


def weight_files(files: ModelFiles, layout: ArtifactFormat, documents: dict[str, Any], inner: str) -> tuple[str, ...]:
    """Names of the files that a layout keeps its weights, or its engines, in.

    Args:
        files: the place.
        layout: as recognised.
        documents: of the place.
        inner: folder that holds a repository's configuration.
    """
    names = sorted(files.sizes)
    found: list[str] = []
    if layout is ArtifactFormat.ADAPTER:
        return tuple(name for name in ("adapter_model.safetensors", "adapter_model.bin") if name in files.sizes)[:1]
    if layout in (ArtifactFormat.ENGINES, ArtifactFormat.TRITON_REPOSITORY):
        start = f"{inner}/" if inner else ""
        found = [name for name in names if name.startswith(start) and name.endswith(".engine")]
    elif layout is ArtifactFormat.MISTRAL:
        whole = [name for name in names if "/" not in name and name.endswith(SAFETENSORS)]
        found = [name for name in whole if name.startswith("consolidated")] or whole
    elif layout is ArtifactFormat.RANKED_CHECKPOINT:
        listed = {name for document in documents.values() for name in ranked_files(document)}
        found = [name for name in names if name in listed]
    elif layout is ArtifactFormat.NEURON_SPLIT:
        found = [name for name in names if name.startswith(f"{SPLIT_FOLDER}/") and not name.endswith(".json")]
    else:
        plain = _plain_files(files)
        is_whole = layout is not ArtifactFormat.NEURON or any(name.endswith(SAFETENSORS) for name in plain)
        split = [n for n in names if n.startswith("checkpoint/") and not n.endswith((".json", ".txt", ".py"))]
        return plain if is_whole or not split else tuple(split)
    return tuple(found)


def ranked_files(document: Any) -> list[str]:
    """The weight files that a ranked checkpoint's json lists; empty where it is no such json."""
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        return []
    listed = document.get("checkpoints")
    parts = list(listed.values()) if isinstance(listed, dict) else [listed]
    start = document.get("base_dir")
    folder = f"{start.strip('/')}/" if isinstance(start, str) and start and not start.startswith(("/", ".")) else ""
    return [name if "/" in name else folder + name for name in _texts_in(parts)]


def index_in_use(files: ModelFiles) -> str:
    """The name of the index that says which weights count, or ""; safetensors before PyTorch files."""
    if SAFETENSORS_INDEX in files.sizes:
        return SAFETENSORS_INDEX
    has_safetensors = any(_is_plain(name) and name.endswith(SAFETENSORS) for name in files.sizes)
    return BIN_INDEX if not has_safetensors and BIN_INDEX in files.sizes else ""


def weight_map(files: ModelFiles, index: str) -> dict[str, str]:
    """Tensor -> file, as an index says.

    Raises:
        NotReadable: it says nothing, or cannot be read.
    """
    known = _KNOWN.setdefault(files, {})
    if index not in known:
        try:
            known[index] = _read_weight_map(files, index)
        except NotReadable as error:
            known[index] = error
    found = known[index]
    if isinstance(found, NotReadable):
        raise found
    return found


def _read_weight_map(files: ModelFiles, index: str) -> dict[str, str]:
    if files.sizes.get(index, 0) > MAX_INDEX_BYTES:
        raise NotReadable(f"has {files.sizes[index]} bytes, at most {MAX_INDEX_BYTES} are read")
    (data,) = files.read_all([(index, 0, MAX_INDEX_BYTES)])
    if isinstance(data, OSError):
        reason, hint = why(data)
        raise NotReadable(f"cannot be read: {reason}", hint)
    content = parsed(data)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise NotReadable("has no weight_map")
    return {str(tensor): str(name) for tensor, name in found.items()}


def summary_of(files: ModelFiles, names: Sequence[str]) -> WeightSummary:
    """How much there is in these files, by their headers alone."""
    others = sum(files.sizes[name] for name in names if not name.endswith(SAFETENSORS))
    headers = headers_of(files, [name for name in names if name.endswith(SAFETENSORS)])
    stored = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    tensors = {name: tensor for name, tensor in stored.items() if not _is_left(name, tensor)}
    linear = [tensor for name, tensor in tensors.items() if _is_linear(name, tensor)]
    by_dtype: dict[str, int] = {}
    for tensor in tensors.values():
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.n_bytes
    return WeightSummary(
        n_bytes=sum(by_dtype.values()) + others,
        n_parameters=sum(tensor.n_numbers for tensor in tensors.values()),
        bytes_by_dtype=dict(sorted(by_dtype.items())),
        n_linear_parameters=sum(tensor.n_numbers for tensor in linear),
        n_linear_bytes=sum(tensor.n_bytes for tensor in linear),
        n_tensors=len(tensors),
    )


def _is_left(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is no weight. A mask has four dimensions or none; an attention's own bias has one."""
    return _NOT_LOADED.search(name) is not None and (len(tensor.shape) != 1 or name.endswith("inv_freq"))


def _is_linear(name: str, tensor: Tensor) -> bool:
    """Whether a tensor belongs to a matrix of a layer: one with a number in its name, and neither norm nor bias."""
    if not _IN_LAYERS.search(name) or _NOT_LINEAR.search(name):
        return False
    return len(tensor.shape) > 1 or _COMPANION.search(name) is not None


def _plain_files(files: ModelFiles) -> tuple[str, ...]:
    """Weights as save_pretrained writes them: what the index names, else one whole file, else all of a kind."""
    index = index_in_use(files)
    if index:
        try:
            listed = sorted(set(weight_map(files, index).values()))
        except NotReadable:
            listed = []
        if listed:
            return tuple(name for name in listed if name in files.sizes)
    for suffix, whole in zip((SAFETENSORS, ".bin"), WHOLE_NAMES, strict=True):
        if whole in files.sizes:
            return (whole,)
        found = tuple(sorted(name for name in files.sizes if _is_plain(name) and name.endswith(suffix)))
        if found:
            return found
    return ()


def _is_plain(name: str) -> bool:
    return "/" not in name and not name.startswith((*_NOT_WEIGHTS, _ADAPTER_PREFIX))


def _texts_in(parts: Iterable[Any]) -> list[str]:
    """The texts of lists that may hold lists: some checkpoints have several files a rank."""
    found = []
    for part in parts:
        for each in part if isinstance(part, list) else []:
            found += [each] if isinstance(each, str) else [text for text in _flat(each) if isinstance(text, str)]
    return found


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
