# SPDX-License-Identifier: Apache-2.0
"""What vLLM takes of a device, for estimates."""

from __future__ import annotations

from lmi.api import Accelerator, MemoryOverhead, Target

FAMILIES = ("g4dn", "g5", "g6", "g6e", "p4d", "p4de", "p5", "p5e", "p5en")
"""SageMaker's machines that it is offered on. Source: LMI's feature matrix, and the successors of its rows."""

_MIB = 1 << 20
_AMPERE = 8.0


def served_dtype(stored: str, target: Target) -> str:
    """What ``option.dtype=auto`` means: the checkpoint's type, 16 bits for one in fp32; no bf16 before Ampere."""
    is_cuda = target.accelerator is Accelerator.CUDA and bool(target.compute_capability)
    is_old = is_cuda and float(target.compute_capability) < _AMPERE
    if stored == "fp32":
        return "fp16" if is_old else "bf16"
    return "fp16" if stored == "bf16" and is_old else stored


MEMORY = MemoryOverhead(
    context_bytes=400 * _MIB,
    host_bytes=2200 * _MIB,
    parallel_bytes=400 * _MIB,
    graph_bytes=500 * _MIB,
    memory_share=0.9,
    prefill_tokens=8192,
    ends_window=True,
    dtype_of=served_dtype,
    source="Context: 0.33 GiB in the log of vllm#14452, rounded up; for NCCL's buffers as much again is assumed. "
    "Graphs: 0.36 GiB in the log of gpustack/runner#251, rounded up; they count inside the share since 0.21. Host: its "
    "three processes measured on a CPU. Share and step: vLLM's documentation of its engine arguments.",
)
