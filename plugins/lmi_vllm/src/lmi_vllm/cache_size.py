# SPDX-License-Identifier: Apache-2.0
"""How much memory the cache of keys and values gets on CPU, where vLLM would take 92 percent of the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmi.api import ModelArtifacts, OutOfMemoryError, Target, shape_of
from lmi_vllm.config import VLLMConfig
from lmi_vllm.memory import MEMORY

_GIB = 1 << 30
_RANK_BYTES = 700 << 20
"""What a further rank takes beside weights and cache; measured."""

_LEAST_BYTES = 64 << 20
_BLOCK_TOKENS = 128
"""Tokens of a block on CPU; a sequence takes whole ones."""

_BYTES_OF = {"fp32": 4.0, "float32": 4.0}
_ONE_BYTE = ("fp8", "int8")
_STORED = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, kw_only=True)
class CacheSize:
    """What the cache gets.

    Args:
        n_bytes: of each rank, which is how vLLM counts.
        line: what was chosen, and why.
    """

    n_bytes: int
    line: str


def choose_cache_size(config: VLLMConfig, artifacts: ModelArtifacts, free_bytes: int, n_copies: int = 1) -> CacheSize:
    """Half of what is free beside the weights, but no more than the longest sequences can use.

    Args:
        config: says how many sequences there may be, and how long.
        artifacts: the model.
        free_bytes: memory that this copy can use.
        n_copies: of the model, which share the machine.
    Raises:
        OutOfMemoryError: the weights alone are more than what is free.
    """
    weight_bytes = _weight_bytes(config, artifacts)
    if weight_bytes > free_bytes:
        raise OutOfMemoryError(
            "engine.out-of-memory",
            f"the weights take {_text(weight_bytes)}, and {_text(free_bytes)} of memory are free"
            + (f" for each of {n_copies} copies" if n_copies > 1 else ""),
            "Take a larger machine or a smaller model, or end other processes",
        )
    beside = MEMORY.host_bytes + _RANK_BYTES * (config.n_devices - 1)
    left_bytes = max(0, free_bytes - weight_bytes - beside) // config.n_devices
    n_tokens = _longest(config, artifacts)
    one_bytes = _token_bytes(config, artifacts) * math.ceil(n_tokens / _BLOCK_TOKENS) * _BLOCK_TOKENS
    all_bytes = one_bytes * config.max_rolling_batch_size
    if 0 < all_bytes <= left_bytes // 2:
        reason = f"all that {config.max_rolling_batch_size} sequences of {n_tokens} tokens can use"
        return _size(max(all_bytes, _LEAST_BYTES), config, reason)
    half = f"half of the {_text(left_bytes)} that are free beside the weights"
    if left_bytes // 2 < one_bytes <= left_bytes:
        return _size(one_bytes, config, f"one sequence of {n_tokens} tokens, more than {half}")
    return _size(max(left_bytes // 2, _LEAST_BYTES), config, half)


def _size(n_bytes: int, config: VLLMConfig, reason: str) -> CacheSize:
    each = f" for each of {config.n_devices} ranks" if config.n_devices > 1 else ""
    line = f"KV cache: {_text(n_bytes)}{each} ({reason}; option.kv_cache_memory_bytes sets another size)"
    return CacheSize(n_bytes=n_bytes, line=line)


def _longest(config: VLLMConfig, artifacts: ModelArtifacts) -> int:
    """Tokens of the longest sequence; 0 where nobody says."""
    asked, own = max(0, config.max_model_len or 0), artifacts.max_context_tokens
    return asked or (own if config.max_model_len != -1 else 0)


def _token_bytes(config: VLLMConfig, artifacts: ModelArtifacts) -> int:
    """What a token takes of one rank's cache; 0 where it cannot be told: it may be more than keys and values."""
    shape = shape_of(artifacts)
    n_layers = shape.n_full_layers + shape.n_window_layers
    if n_layers < shape.n_layers or (config.speculative_config or {}).get("model") or getattr(config, "spec_model", ""):
        return 0
    n_heads = math.ceil(shape.n_kv_heads / config.tensor_parallel_degree)
    n_numbers = shape.n_cached_numbers if shape.is_latent else n_heads * (shape.head_dim + shape.v_head_dim)
    return math.ceil(
        math.ceil(n_layers / config.pipeline_parallel_degree) * n_numbers * _number_bytes(config, artifacts)
    )


def _number_bytes(config: VLLMConfig, artifacts: ModelArtifacts) -> float:
    name = str(getattr(config, "kv_cache_dtype", "auto"))
    if name.startswith(_ONE_BYTE):
        return 1.0
    return _BYTES_OF.get(served_dtype(config, artifacts) if name == "auto" else name, 2.0)


def served_dtype(config: VLLMConfig, artifacts: ModelArtifacts) -> str:
    """The number type that a model is computed in on CPU."""
    return _auto_dtype(artifacts) if config.dtype == "auto" else config.dtype


def _stored_dtype(artifacts: ModelArtifacts) -> str:
    name = str(artifacts.config.get("dtype") or artifacts.config.get("torch_dtype") or "")
    kinds = artifacts.weights.bytes_by_dtype
    most = max(kinds, key=lambda kind: kinds[kind], default="")
    return _STORED.get(name) or {"F32": "fp32", "F16": "fp16"}.get(most, "bf16")


def _auto_dtype(artifacts: ModelArtifacts) -> str:
    stored = _stored_dtype(artifacts)
    return stored if MEMORY.dtype_of is None else MEMORY.dtype_of(stored, Target())


def _weight_bytes(config: VLLMConfig, artifacts: ModelArtifacts) -> int:
    """The weights as they are computed with: fp32 takes twice what 16 bits take; compressed ones stay what they are."""
    kinds = artifacts.weights.bytes_by_dtype
    is_wide = served_dtype(config, artifacts) == "fp32"
    if not kinds:
        return artifacts.weights.n_bytes
    wide = {"F32": 1.0 if is_wide else 0.5, "F16": 2.0 if is_wide else 1.0, "BF16": 2.0 if is_wide else 1.0}
    return math.ceil(sum(n_bytes * wide.get(kind, 1.0) for kind, n_bytes in kinds.items()))


def _text(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:.1f} GiB" if n_bytes >= _GIB else f"{n_bytes / (1 << 20):.0f} MiB"
