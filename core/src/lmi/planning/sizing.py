# SPDX-License-Identifier: Apache-2.0
"""What a configuration says about memory, under the names LMI's options have whatever the backend."""

from __future__ import annotations

from typing import Any

import msgspec

from lmi.api import BackendConfig, BackendInfo, ModelArtifacts, Target, dtype_name
from lmi.planning.weights import QUANTIZED_BITS, stored_dtype

UNKNOWN_CONTEXT_TOKENS = 2048
"""For a model that names no limit."""

_WHOLE_LENGTHS = ("max_model_len", "n_positions", "max_tokens")
PART_LENGTHS = ("max_input_len", "max_output_len")
"""Names of options that limit a sequence as a whole, or its prompt and its answer."""

_QUANTIZED_TYPES = ("int8", "fp8")
_FOUR_BITS = ("4bit", "int4", "fp4", "3bit")


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how much memory a copy of a model takes.

    Args:
        dtype: number type that is not quantized: ``bf16``.
        quantize: how the weights are compressed while they load; empty where they are not.
        cache_dtype: number type of keys and values.
        max_model_len: most tokens of one sequence.
        model_tokens: most tokens the model was made for; 0 where it does not say.
        max_sequences: most sequences at a time.
        prefill_tokens: most prompt tokens of a step.
        degree: devices one copy is split over.
        n_stages: further parts, one after another, that a copy is split into.
        memory_share: part of a device's memory that is used at all.
        cache_share: part of what is left that the cache takes.
        cache_bytes: the cache's size in bytes on each device where it is set; 0 otherwise.
        offload_bytes: weights of each device that are kept in the host's memory.
        has_graphs: whether graphs are captured.
    """

    dtype: str
    quantize: str = ""
    cache_dtype: str = "bf16"
    max_model_len: int = UNKNOWN_CONTEXT_TOKENS
    model_tokens: int = 0
    max_sequences: int = 32
    prefill_tokens: int = 2048
    degree: int = 1
    n_stages: int = 1
    memory_share: float = 1.0
    cache_share: float = 1.0
    cache_bytes: int = 0
    offload_bytes: int = 0
    has_graphs: bool = True

    @classmethod
    def of(cls, artifacts: ModelArtifacts, config: BackendConfig | None, info: BackendInfo, target: Target) -> Sizing:
        """Read the options of a backend.

        Args:
            artifacts: the model.
            config: the options; None takes the backend's defaults, as far as its description tells them.
            info: the backend.
            target: the machine.
        """

        def said(*names: str) -> Any:
            return next((value for name in names if (value := getattr(config, name, None))), None)

        memory = info.memory
        dtype, quantize = _number_types(said, artifacts, info, target)
        most = artifacts.max_context_tokens
        wanted = _wanted_tokens(said) or most or UNKNOWN_CONTEXT_TOKENS
        return cls(
            dtype=dtype,
            quantize=quantize,
            cache_dtype=_cache_dtype(str(said("kv_cache_dtype") or ""), dtype),
            max_model_len=min(wanted, most or wanted),
            model_tokens=most,
            max_sequences=said("max_rolling_batch_size") or 32,
            prefill_tokens=said("max_rolling_batch_prefill_tokens", "max_num_tokens") or memory.prefill_tokens,
            degree=said("tensor_parallel_degree") or 1,
            n_stages=said("pipeline_parallel_degree") or 1,
            memory_share=said("gpu_memory_utilization") or memory.memory_share,
            cache_share=said("kv_cache_free_gpu_mem_fraction") or memory.cache_share,
            cache_bytes=said("kv_cache_memory_bytes") or 0,
            offload_bytes=int((said("cpu_offload_gb_per_gpu") or 0) * (1 << 30)),
            has_graphs=not said("enforce_eager"),
        )


def length_options(config: BackendConfig) -> tuple[str, ...]:
    """Names of a backend's options that limit a sequence: one for all of it, or one for its prompt and one for its
    answer, which count together."""
    known = type(config).model_fields
    if all(name in known for name in PART_LENGTHS):
        return PART_LENGTHS
    return tuple(name for name in _WHOLE_LENGTHS if name in known)[:1]


def _number_types(said: Any, artifacts: ModelArtifacts, info: BackendInfo, target: Target) -> tuple[str, str]:
    """What numbers are served in, and how the weights are compressed."""
    stored = stored_dtype(artifacts)
    dtype = str(dtype_name(said("dtype") or "auto"))
    quantize = str(said("quantize") or "").lower()
    if not quantize and said("load_in_4bit"):
        quantize = "bitsandbytes4"
    if not quantize and said("load_in_8bit"):
        quantize = "int8"
    if dtype in _QUANTIZED_TYPES:  # the old way to ask for compressed weights
        dtype, quantize = "fp16", quantize or dtype
    if dtype == "auto":
        dtype = stored if info.memory.dtype_of is None else info.memory.dtype_of(stored, target)
    return dtype, quantize if quantize in QUANTIZED_BITS else ""


def _wanted_tokens(said: Any) -> int:
    """The longest sequence that the options ask for, prompt and answer; 0 where they do not say."""
    if all(map(said, PART_LENGTHS)):
        return sum(int(said(name)) for name in PART_LENGTHS)
    return int(said(*_WHOLE_LENGTHS) or 0)


def _cache_dtype(name: str, dtype: str) -> str:
    if not name or name == "auto":
        return dtype
    if any(each in name for each in _FOUR_BITS):
        return "4 bits"
    return next((each for each in _QUANTIZED_TYPES if each in name or name.endswith("8v4")), str(dtype_name(name)))
