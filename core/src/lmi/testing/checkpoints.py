# SPDX-License-Identifier: Apache-2.0
"""Tiny random checkpoints for contract tests: no download, no torch, written in a moment, the same everywhere.

The default seed of each architecture is one at which float32 leaves no doubt about the greedy ids: for each of PROMPTS
the two best logits differ by more than 1e-3 at each of the N_COMPARED_TOKENS positions, at least three ids of an answer
differ, and none is a special one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lmi.api import ArtifactError, ConfigError, Problem
from lmi.api.errors import counted
from lmi.config.names import did_you_mean
from lmi.testing.shapes import (
    BOS_ID,
    EOS_ID,
    HIDDEN,
    INITIALIZER_RANGE,
    PAD_ID,
    SHAPES,
    VOCAB_SIZE,
)
from lmi.testing.tiny_tokenizer import write_tokenizer

DType = Literal["float32", "bfloat16", "float16"]
Weights = dict[str, NDArray[np.float32]]

ARCHITECTURES: tuple[str, ...] = tuple(SHAPES)
"""Architectures that ``write_tiny`` writes, by their ``model_type``; ``llama-wide`` is a Llama with heads of 32."""

N_COMPARED_TOKENS = 12
"""Ids after each prompt that the default seeds are chosen for."""

_PROMPT_LENGTHS = (3, 5, 8, 13, 17, 24, 32, 40)
PROMPTS: tuple[tuple[int, ...], ...] = tuple(
    tuple((7 * i * i + 31 * i + 53 * number) % 256 for i in range(length))
    for number, length in enumerate(_PROMPT_LENGTHS)
)
"""Eight prompts of byte ids, 3 to 40 ids long."""

_SEEDS = {  # each the first one that keeps what the module says, found by trying
    "llama": 0,
    "llama-wide": 7,
    "gpt2": 24,
    "mistral": 1,
    "mixtral": 7,
    "qwen2": 18,
    "phi": 0,
    "gpt_neox": 2,
    "gptj": 4,
    "gpt_bigcode": 0,
    "falcon": 44,
    "opt": 295,
    "bloom": 5,
}

_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_ADAPTED = ("q_proj", "v_proj")
_ADAPTER_STD = 0.3
"""Standard deviation of both LoRA matrices. Their product is several times the weights it is added to."""


def write_tiny(
    architecture: str,
    folder: Path | str,
    *,
    seed: int | None = None,
    dtype: DType = "float32",
    eos_token_id: int | None = None,
) -> Path:
    """Write a random model of an architecture, with a byte-level tokenizer of 300 ids.

    Args:
        architecture: one of ARCHITECTURES.
        folder: made if it does not exist.
        seed: of the weights, 0 to 2**32 - 1; None for the one at which greedy ids are beyond doubt.
        dtype: of the stored weights; the narrow ones are the float32 weights, rounded to nearest even.
        eos_token_id: 0 to 299; None for the tokenizer's ``</s>``, which no compared answer contains.
    Returns:
        The folder.
    Raises:
        ConfigError: an argument is out of its bounds; all of them are listed.
    """
    _refuse(
        _unknown("architecture", architecture, ARCHITECTURES)
        + _unknown("dtype", dtype, get_args(DType))
        + _outside("seed", seed, 2**32 - 1)
        + _outside("eos_token_id", eos_token_id, VOCAB_SIZE - 1)
    )
    shape = SHAPES[architecture]
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID if eos_token_id is None else eos_token_id}
    ids["pad_token_id"] = PAD_ID
    path = write_tokenizer(folder)
    config = {
        "architectures": [shape.class_name],
        "model_type": shape.model_type or architecture,
        "vocab_size": VOCAB_SIZE,
    }
    _write_json(path / "config.json", {**config, **shape.config, **ids, "torch_dtype": dtype, "use_cache": True})
    _write_json(path / "generation_config.json", ids)
    weights = _draw(shape.tensors, _SEEDS[architecture] if seed is None else seed)
    _write_safetensors(path / "model.safetensors", weights, dtype)
    return path


def write_tiny_adapter(folder: Path | str, base: Path | str, *, rank: int = 4, seed: int = 0) -> Path:
    """Write a LoRA adapter for a Llama, in PEFT's format; it changes greedy ids.

    Args:
        folder: made if it does not exist.
        base: folder of a Llama, one that ``write_tiny`` wrote or another; the adapter names it as its base model.
        rank: of the two matrices, 1 to 64.
        seed: of the weights, 0 to 2**32 - 1.
    Returns:
        The folder.
    Raises:
        ConfigError: rank or seed is out of its bounds.
        ArtifactError: there is no Llama in ``base``.
    """
    _refuse(_outside("rank", rank, HIDDEN, least=1) + _outside("seed", seed, 2**32 - 1))
    shapes = _adapter_shapes(_llama_config(Path(base)), rank)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(Path(base).resolve()),
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(_ADAPTED),
    }
    _write_json(path / "adapter_config.json", config)
    _write_safetensors(path / "adapter_model.safetensors", _draw(shapes, seed, std=_ADAPTER_STD), "float32")
    return path


def _adapter_shapes(config: Mapping[str, Any], rank: int) -> dict[str, tuple[int, ...]]:
    hidden, n_heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // n_heads
    widths = {"q_proj": n_heads * head_dim, "v_proj": (config.get("num_key_value_heads") or n_heads) * head_dim}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(config["num_hidden_layers"]):
        for module in _ADAPTED:
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            shapes[f"{name}.lora_A.weight"] = (rank, hidden)
            shapes[f"{name}.lora_B.weight"] = (widths[module], rank)
    return shapes


def _draw(shapes: Mapping[str, tuple[int, ...]], seed: int, *, std: float = INITIALIZER_RANGE) -> Weights:
    """Random matrices and biases; the weights of norms, the only vectors that are no bias, are 1."""
    # RandomState, because NumPy promises the same stream in every version of it, and of default_rng it does not
    random = np.random.RandomState(seed)
    return {
        name: np.ones(shape, np.float32)
        if len(shape) == 1 and not name.endswith(".bias")
        else (random.standard_normal(shape) * std).astype(np.float32)
        for name, shape in shapes.items()
    }


def _write_safetensors(path: Path, weights: Weights, dtype: DType) -> None:
    """Write weights in the given type.

    Not through the safetensors package: it has no bfloat16 for NumPy arrays, and its own raw interface is not the same
    before and after 0.8.

    Source: https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    pieces: list[bytes] = []
    end = 0
    for name, values in weights.items():
        pieces.append(_stored(values, dtype).tobytes())
        begin, end = end, end + len(pieces[-1])
        header[name] = {"dtype": _CODES[dtype], "shape": list(values.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))


def _stored(values: NDArray[np.float32], dtype: DType) -> NDArray[Any]:
    """Little-endian words of the given type; bfloat16 is the upper half of a float32, rounded to nearest even."""
    if dtype == "bfloat16":
        words: NDArray[np.uint32] = values.astype("<f4").view("<u4")
        return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype("<u2")
    return values.astype("<f2" if dtype == "float16" else "<f4")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _llama_config(base: Path) -> dict[str, Any]:
    """The configuration of the Llama that a folder holds."""
    try:
        found: dict[str, Any] = json.loads((base / "config.json").read_text("utf-8"))
    except OSError as error:
        reason = f"its config.json cannot be read: {error.strerror}"
    else:
        if found.get("model_type") == "llama":
            return found
        reason = f"it is a {found.get('model_type')}"
    problem = Problem(
        code="adapter.base-missing",
        message=f"{base} is no Llama: {reason}",
        hint="Write one first: write_tiny('llama', folder)",
        path=str(base),
    )
    raise ArtifactError("artifacts.invalid", "1 problem; no adapter was written", [problem])


def _unknown(name: str, value: str, known: tuple[str, ...]) -> list[Problem]:
    if value in known:
        return []
    hint = did_you_mean(value, known, f"Known are: {', '.join(known)}")
    return [Problem(code="config.invalid-value", message=f"{name} '{value}' is not known", hint=hint)]


def _outside(name: str, value: int | None, most: int, *, least: int = 0) -> list[Problem]:
    if value is None or least <= value <= most:
        return []
    message = f"{name} {value} is not between {least} and {most}"
    return [Problem(code="config.invalid-value", message=message, hint=f"Give a number from {least} to {most}")]


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise ConfigError(
            "config.invalid", f"{counted(len(problems), 'problem')} in the arguments; nothing was written", problems
        )
