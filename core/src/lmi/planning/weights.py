# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's weights come to in memory: after the number type, and after quantization."""

from __future__ import annotations

import msgspec

from lmi.api import ArtifactFormat, ModelArtifacts, quantization_of, shape_of
from lmi.api.shapes import language_part

DTYPE_BYTES = {"fp64": 8.0, "fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "4 bits": 0.5}
"""LMI's names of number types -> bytes of one number."""

_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Types of safetensors that an engine casts to the one it computes in; all others stay as they are stored."""

_STORED_NAMES = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_CONFIG_NAMES = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "half": "fp16"}

QUANTIZED_BITS = {
    "bitsandbytes4": 4.5, "bitsandbytes8": 8.0, "bitsandbytes": 8.0, "awq": 4.25, "gptq": 4.25, "squeezellm": 4.0,
    "fp8": 8.0, "int8": 8.0, "static_int8": 8.0, "dynamic_int8": 8.0, "smoothquant": 8.0,
}  # fmt: skip
"""Value of ``option.quantize`` -> bits of one number of a layer's matrices, with its share of the scales.

Sources: bitsandbytes 4 bits have one fp32 scale for 64 numbers; AWQ and GPTQ one fp16 scale and 4 bits of zero for 128
numbers, rounded up; the 8-bit ways have a scale a row or a matrix, which is next to nothing.
"""

_COMPILED = (ArtifactFormat.ENGINES, ArtifactFormat.TRITON_REPOSITORY)


class ServedWeights(msgspec.Struct, frozen=True, kw_only=True):
    """What the weights come to.

    Args:
        n_bytes: in memory, over all devices.
        stored_bytes: in the files.
        dtype: that numbers which are not quantized are served in: ``bf16``.
        quantization: how the matrices are compressed; empty where they are not.
        table_bytes: of the embedding, and of the output head where it is not the same.
        n_tables: how many of these two there are.
        copied_bytes: of the output head that shares the embedding's memory on disk and gets its own where it is served.
    """

    n_bytes: int
    stored_bytes: int
    dtype: str
    quantization: str = ""
    table_bytes: int = 0
    n_tables: int = 0
    copied_bytes: int = 0


def stored_dtype(artifacts: ModelArtifacts) -> str:
    """The type most of the numbers are stored in, by LMI's name: as the headers tell, else as config.json says."""
    floats = {name: n for name, n in artifacts.weights.bytes_by_dtype.items() if name in _FLOATS}
    if floats and not own_quantization(artifacts):
        return _STORED_NAMES[max(floats, key=lambda name: floats[name])]
    text = language_part(artifacts.config)
    said = str(text.get("torch_dtype") or text.get("dtype") or "").removeprefix("torch.")
    if said in _CONFIG_NAMES:
        return _CONFIG_NAMES[said]
    return _STORED_NAMES[max(floats, key=lambda name: floats[name])] if floats else "fp32"


def own_quantization(artifacts: ModelArtifacts) -> str:
    """How a checkpoint is quantized already, as its files say; empty where it is not."""
    return str(quantization_of(artifacts).get("quant_method") or "").replace("unknown", "quantized")


def served_weights(artifacts: ModelArtifacts, *, dtype: str, quantize: str = "") -> ServedWeights:
    """What the weights come to when they are served in a type, compressed or not.

    Args:
        artifacts: the model; where headers tell nothing, the files' sizes and config.json's type count.
        dtype: ``fp32``, ``fp16``, ``bf16``.
        quantize: value of ``option.quantize``; a checkpoint that is quantized already stays as it is stored.
    """
    stored = stored_bytes(artifacts)
    own = own_quantization(artifacts)
    if artifacts.format in _COMPILED:
        return ServedWeights(n_bytes=stored, stored_bytes=stored, dtype=dtype, quantization=own)
    size = DTYPE_BYTES.get(dtype, 2.0)
    n_bytes = _cast(artifacts, stored, size)
    bits = None if own else QUANTIZED_BITS.get(quantize)
    if bits is not None:
        n_linear = artifacts.weights.n_linear_parameters or _n_linear(artifacts, stored)
        n_bytes += n_linear * (bits / 8 - size)
    shape = shape_of(artifacts)
    return ServedWeights(
        n_bytes=round(n_bytes), stored_bytes=stored, dtype=dtype,
        quantization=own or ("" if bits is None else quantize),
        table_bytes=round(shape.vocab * shape.hidden * size), n_tables=_n_tables(artifacts),
    )  # fmt: skip


def stored_bytes(artifacts: ModelArtifacts) -> int:
    """Bytes of the weights as they are stored: of the tensors, else of the files."""
    if artifacts.weights.n_bytes:
        return artifacts.weights.n_bytes
    named = sum(artifacts.files.get(name, 0) for name in artifacts.weight_files)
    return named or sum(n_bytes for name, n_bytes in artifacts.files.items() if name.endswith(".engine"))


def _cast(artifacts: ModelArtifacts, stored: int, size: float) -> float:
    """Bytes of the weights with every number that is cast in the size it is cast to."""
    by_dtype = artifacts.weights.bytes_by_dtype
    if not by_dtype:
        return stored / DTYPE_BYTES[stored_dtype(artifacts)] * size
    return sum(n / _FLOATS[name] * size if name in _FLOATS else n for name, n in by_dtype.items())


def _n_linear(artifacts: ModelArtifacts, stored: int) -> float:
    """Numbers in the matrices of the layers, where headers do not tell: all but embedding and head."""
    n_all = artifacts.weights.n_parameters or stored / DTYPE_BYTES[stored_dtype(artifacts)]
    shape = shape_of(artifacts)
    return max(0.0, n_all - _n_tables(artifacts) * shape.vocab * shape.hidden)


def _n_tables(artifacts: ModelArtifacts) -> int:
    """Embedding and output head, or one for both: as the headers tell, else as config.json says."""
    shape, found = shape_of(artifacts), artifacts.weights
    if found.n_linear_parameters and shape.vocab * shape.hidden:
        return 1 if found.n_parameters - found.n_linear_parameters < 1.5 * shape.vocab * shape.hidden else 2
    return 1 if artifacts.config.get("tie_word_embeddings") else 2
