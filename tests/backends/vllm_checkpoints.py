# SPDX-License-Identifier: Apache-2.0
"""Tiny Llamas whose weights are compressed, written by hand in the forms that tools publish; nothing is downloaded.

Beside each lies, on request, the same model with the compressed numbers written out, to compare answers with.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lmi.testing import write_tiny

GROUP = 32
"""Inputs that share a scale, in the forms with four bits."""

_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_PER_WORD = 8
_WEIGHTS = "model.safetensors"

Tensors = dict[str, NDArray[Any]]


def write_compressed(kind: str, folder: Path, written_out: Path | None = None) -> Path:
    """Write a compressed tiny Llama.

    Args:
        kind: one of KINDS.
        folder: made if it does not exist.
        written_out: folder for the same numbers in float32; None writes none.
    Returns:
        The folder.
    """
    compress, quantization = KINDS[kind]
    write_tiny("llama-wide", folder)
    tensors = load_file(folder / _WEIGHTS)
    plain: Tensors = dict(tensors)
    compressed: Tensors = {}
    for name, weight in tensors.items():
        if name.split(".")[-2] in _NAMES:
            parts, plain[name] = compress(weight)
            compressed.update({name.removesuffix("weight") + part: value for part, value in parts.items()})
        else:
            compressed[name] = weight
    _write(folder, compressed, {"quantization_config": quantization})
    if written_out is not None:
        write_tiny("llama-wide", written_out)
        _write(written_out, plain, {})
    return folder


def _write(folder: Path, tensors: Tensors, further: dict[str, Any]) -> None:
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / _WEIGHTS)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **further}), "utf-8")


def _in_groups(weight: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float16], NDArray[np.float32]]:
    """Numbers of four bits from 0 to 15 with 8 for zero, the scale of each group, and the numbers written out."""
    n_out, n_in = weight.shape
    groups = weight.reshape(n_out, n_in // GROUP, GROUP)
    scales = (np.abs(groups).max(axis=2) / 7).astype(np.float16)
    wide = scales.astype(np.float32)[:, :, None]
    numbers = np.clip(np.rint(groups / wide), -8, 7)
    return (numbers + 8).astype(np.int32).reshape(n_out, n_in), scales, (numbers * wide).reshape(n_out, n_in)


def _packed(numbers: NDArray[np.int32], order: tuple[int, ...] = tuple(range(_PER_WORD))) -> NDArray[np.int32]:
    """Eight numbers of four bits in each word, along the last axis."""
    words = numbers.astype(np.uint32).reshape(*numbers.shape[:-1], -1, _PER_WORD)
    shifted = [words[..., source] << np.uint32(4 * place) for place, source in enumerate(order)]
    return np.bitwise_or.reduce(shifted).view(np.int32)


def _int8(weight: NDArray[Any]) -> tuple[Tensors, NDArray[Any]]:
    """A scale for each output, and activations that are compressed while they pass."""
    scales = (np.abs(weight).max(axis=1, keepdims=True) / 127).astype(np.float32)
    numbers = np.clip(np.rint(weight / scales), -128, 127)
    return {"weight": numbers.astype(np.int8), "weight_scale": scales}, (numbers * scales).astype(np.float32)


def _int4(weight: NDArray[Any]) -> tuple[Tensors, NDArray[Any]]:
    numbers, scales, plain = _in_groups(weight)
    shape = np.array(weight.shape, dtype=np.int64)
    return {"weight_packed": _packed(numbers), "weight_scale": scales, "weight_shape": shape}, plain


def _gptq(weight: NDArray[Any]) -> tuple[Tensors, NDArray[Any]]:
    numbers, scales, plain = _in_groups(weight)
    n_out, n_in = weight.shape
    zeros = np.full((n_in // GROUP, n_out), 7, dtype=np.int32)  # this form keeps one less
    parts = {
        "qweight": _packed(numbers).T,
        "qzeros": _packed(zeros),
        "scales": scales.T,
        "g_idx": (np.arange(n_in) // GROUP).astype(np.int32),
    }
    return parts, plain


def _awq(weight: NDArray[Any]) -> tuple[Tensors, NDArray[Any]]:
    numbers, scales, plain = _in_groups(weight)
    n_out, n_in = weight.shape
    zeros = np.full((n_in // GROUP, n_out), 8, dtype=np.int32)
    parts = {
        "qweight": _packed(np.ascontiguousarray(numbers.T), _AWQ_ORDER),
        "qzeros": _packed(zeros, _AWQ_ORDER),
        "scales": scales.T,
    }
    return parts, plain


def _compressed_tensors(form: str, weights: dict[str, Any], activations: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"type": "int", "symmetric": True, "dynamic": False, **weights}}
    if activations is not None:
        group["input_activations"] = {"type": "int", "symmetric": True, "dynamic": True, **activations}
    return {
        "quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"],
    }  # fmt: skip


KINDS: dict[str, tuple[Callable[[NDArray[Any]], tuple[Tensors, NDArray[Any]]], dict[str, Any]]] = {
    "int8": (
        _int8,
        _compressed_tensors(
            "int-quantized", {"num_bits": 8, "strategy": "channel"}, {"num_bits": 8, "strategy": "token"}
        ),
    ),
    "int4": (
        _int4,
        _compressed_tensors("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": GROUP}, None),
    ),
    "gptq": (
        _gptq,
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": GROUP,
            "sym": True,
            "desc_act": False,
            "true_sequential": True,
        },
    ),
    "awq": (_awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
}
"""Kind -> how a matrix is compressed, and what config.json says of it: compressed-tensors with weights and activations
of eight bits, the same with weights of four, GPTQ and AWQ."""
