# SPDX-License-Identifier: Apache-2.0
"""Weights of other programs: what they are, and what to take instead."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from lmi.artifacts.places.files import ModelFiles

_GGUF_MARK = b"GGUF"
_GGUF_READ_BYTES = 64 << 10
_GGUF_MAX_KEYS = 256
_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_TEXT, _GGUF_LIST = 8, 9
_GGUF_ORIGINS = (
    "general.base_model.0.repo_url", "general.source.repo_url", "general.source.huggingface.repository",
    "general.source.url", "general.repo_url",
)  # fmt: skip
_OF_TRAINING = re.compile(r"(global_step\d+|pytorch_model_fsdp_\d+)/([^/]*)")
"""Folders that training leaves its checkpoint in."""
_OF_EXPORT = re.compile(r"(onnx|gguf)/([^/]*)")
_TRAINER = ("optimizer", "scheduler", "rng_state", "random_states", "scaler.", "training_args")
"""How names of a trainer's own state begin, which is beside weights and is none."""
_HUB_NAME = re.compile(r"(?:https?://(?:www\.)?huggingface\.co/)?([\w.-]+/[\w.-]+)/?")


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A kind of weights that is not served.

    Args:
        kind: what it is called.
        pattern: of the names of its files, without folders.
        hint: what to do.
    """

    kind: str
    pattern: str
    hint: str


GGUF = Foreign(
    kind="GGUF",
    pattern=r".*\.(gguf|ggml)",
    hint="Take the repository it was made from: safetensors, config.json and tokenizer_config.json are served",
)
_KINDS = (
    GGUF,
    Foreign(kind="ONNX", pattern=r".*\.onnx(_data)?", hint="Take the safetensors of the same model"),
    Foreign(
        kind="TensorFlow",
        pattern=r".*\.h5|tf_model.*|saved_model\.pb|.*\.ckpt\.(index|meta|data-.*)|.*\.tflite",
        hint="Convert it with transformers 4 (5 cannot): from_pretrained(..., from_tf=True), then save_pretrained",
    ),
    Foreign(
        kind="Flax",
        pattern=r".*\.msgpack|flax_model.*",
        hint="Convert it with transformers 4 (5 cannot): from_pretrained(..., from_flax=True), then save_pretrained",
    ),
    Foreign(kind="NeMo", pattern=r".*\.nemo", hint="Convert it with NeMo's own script to a Hugging Face checkpoint"),
    Foreign(kind="MLX", pattern=r".*\.npz", hint="Take the safetensors of the same model"),
    Foreign(
        kind="a sharded training checkpoint",
        pattern=r".*\.distcp|.*_optim_states\.pt|zero_pp_rank_.*|mp_rank_\d+_model_states\.pt",
        hint="Merge it first, as the program that trained it says (zero_to_fp32.py, accelerate merge-weights)",
    ),
    Foreign(
        kind="PyTorch weights under a name of their own",
        pattern=r".*\.(pth|pt|ckpt|pkl)",
        hint="Convert them with the model's own script to what save_pretrained writes: config.json and safetensors",
    ),
)


def foreign_kinds(names: Iterable[str], *, exported: bool = False) -> dict[Foreign, list[str]]:
    """Files that hold weights of another kind, by kind: in the place itself, or where training leaves a checkpoint.

    Args:
        names: of the files.
        exported: also those in folders where conversions leave theirs.
    """
    found: dict[Foreign, list[str]] = {}
    for name in sorted(names):
        below = _OF_TRAINING.fullmatch(name) or (_OF_EXPORT.fullmatch(name) if exported else None)
        last = below[2] if below else name
        if last.startswith(_TRAINER):
            continue
        kind = next((kind for kind in _KINDS if "/" not in last and re.fullmatch(kind.pattern, last)), None)
        if kind is not None:
            found.setdefault(kind, []).append(name)
    return found


def gguf_origin(files: ModelFiles, name: str) -> str:
    """ORG/NAME of the model that a GGUF file was made from, if its first keys say so; else an empty text."""
    try:
        keys = _gguf_texts(files.read(name, 0, _GGUF_READ_BYTES))
    except OSError:
        return ""
    for key in _GGUF_ORIGINS:
        match = _HUB_NAME.fullmatch(keys.get(key, ""))
        if match:
            return match[1]
    return ""


def _gguf_texts(data: bytes) -> dict[str, str]:
    """The texts among the keys at the beginning of a GGUF file, as far as they are in ``data``.

    Source: the GGUF format, versions 2 and 3: mark, version, number of tensors, number of keys; each key a text, a
    type and a value.
    """
    texts: dict[str, str] = {}
    try:
        if data[:4] != _GGUF_MARK:
            return texts
        (n_keys,) = struct.unpack_from("<Q", data, 16)
        at = 24
        for _ in range(min(n_keys, _GGUF_MAX_KEYS)):
            key, at = _gguf_text(data, at)
            (kind,) = struct.unpack_from("<I", data, at)
            at += 4
            if kind == _GGUF_TEXT:
                texts[key], at = _gguf_text(data, at)
            elif kind == _GGUF_LIST:
                inner, n = struct.unpack_from("<IQ", data, at)
                at += 12
                if inner != _GGUF_TEXT:
                    at += n * _GGUF_SIZES[inner]
                    continue
                for _ in range(n):
                    _, at = _gguf_text(data, at)
            else:
                at += _GGUF_SIZES[kind]
    except (struct.error, KeyError):  # the part that was read is over, or it is no GGUF file
        pass
    return texts


def _gguf_text(data: bytes, at: int) -> tuple[str, int]:
    (n_bytes,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + n_bytes
    if end > len(data):
        raise struct.error("beyond what was read")
    return data[at + 8 : end].decode("utf-8", "replace"), end
