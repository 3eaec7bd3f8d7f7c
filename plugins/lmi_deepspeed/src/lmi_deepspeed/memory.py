# SPDX-License-Identifier: Apache-2.0
"""What DeepSpeed takes of a device, for estimates."""

from __future__ import annotations

from lmi.api import Accelerator, MemoryOverhead, Target

FAMILIES = ("g5", "g6", "g6e", "p4d", "p4de", "p5", "p5e", "p5en")
"""SageMaker's machines that it is offered on. Source: LMI's feature matrix, and the successors of its rows."""

_MIB = 1 << 20
_AMPERE = 8.0


def served_dtype(stored: str, target: Target) -> str:
    """What ``option.dtype=auto`` means on a GPU: bf16 where it computes that, else fp16. On a CPU bf16 is assumed."""
    is_old = bool(target.compute_capability) and float(target.compute_capability) < _AMPERE
    return "fp16" if target.accelerator is Accelerator.CUDA and is_old else "bf16"


MEMORY = MemoryOverhead(
    context_bytes=400 * _MIB,
    host_bytes=400 * _MIB,
    parallel_bytes=400 * _MIB,
    cache_share=0.5,
    keeps_latent=False,
    takes_uneven=True,
    dtype_of=served_dtype,
    source="Context and cache as those of the backend hf, whose steppers it builds on; for NCCL's buffers as much "
    "again is assumed.",
)
