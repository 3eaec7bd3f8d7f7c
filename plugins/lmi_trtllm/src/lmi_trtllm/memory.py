# SPDX-License-Identifier: Apache-2.0
"""What TensorRT-LLM takes of a device, for estimates."""

from __future__ import annotations

from lmi.api import MemoryOverhead, Target

FAMILIES = ("g5", "g6", "g6e", "p4d", "p4de", "p5", "p5e", "p5en")
"""SageMaker's machines that it is offered on. Source: LMI's feature matrix, and the successors of its rows."""

_MIB = 1 << 20


def served_dtype(stored: str, target: Target) -> str:
    """What ``option.dtype=auto`` means: the checkpoint's type, 16 bits for one in fp32."""
    return "fp16" if stored == "fp32" else stored


MEMORY = MemoryOverhead(
    context_bytes=1000 * _MIB,
    parallel_bytes=400 * _MIB,
    cache_share=0.95,
    prefill_tokens=8192,
    dtype_of=served_dtype,
    source="Assumed: context and execution context together somewhat more than torch's alone, and NCCL's buffers. "
    "Share of the cache: LMI's default of kv_cache_free_gpu_mem_fraction. Step: the library's default of "
    "max_num_tokens.",
)
