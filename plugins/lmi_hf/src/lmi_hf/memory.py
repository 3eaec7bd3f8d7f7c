# SPDX-License-Identifier: Apache-2.0
"""What the backends hf and lmi-dist take of a device, for estimates; nothing is imported that an engine needs."""

from __future__ import annotations

from lmi.api import Accelerator, MemoryOverhead, Target
from lmi_hf.machine import computes_bf16

FAMILIES = ("g4dn", "g5", "g6", "g6e", "p4d", "p4de", "p5", "p5e", "p5en")
"""SageMaker's machines with GPUs that torch supports. Source: LMI's feature matrix, and the successors of its rows."""

DIST_FAMILIES = tuple(family for family in FAMILIES if family != "g4dn")
"""The same for lmi-dist, which the matrix does not have on G4."""

_MIB = 1 << 20
_AMPERE = 8.0
"""Compute capability from which GPUs multiply bf16 numbers themselves."""


def served_dtype(stored: str, target: Target) -> str:
    """What ``option.dtype=auto`` means on a machine, as the loading of a model decides it."""
    if target.accelerator is Accelerator.CUDA:
        is_old = bool(target.compute_capability) and float(target.compute_capability) < _AMPERE
        return "fp16" if stored == "bf16" and is_old else stored
    return "fp32" if stored == "fp32" or not computes_bf16() else "bf16"


def checkpoint_dtype(stored: str, target: Target) -> str:
    """What ``option.dtype=auto`` means for lmi-dist: the checkpoint's type, 16 bits for one in fp32."""
    return "fp16" if stored == "fp32" else stored


HF_MEMORY = MemoryOverhead(
    context_bytes=400 * _MIB,
    host_bytes=400 * _MIB,
    cache_share=0.5,
    prefill_tokens=2048,
    keeps_latent=False,
    splits_layers=True,
    copied_heads=frozenset({"llama", "mistral", "qwen2", "qwen3"}),
    dtype_of=served_dtype,
    source="Host: a process with torch and transformers 5 measured, 366 MB. Context: vLLM's log in vllm#14452, "
    "0.33 GiB, rounded up. Share of the cache and length of a step: lmi_hf.stepping and lmi_hf.engine.",
)

DIST_MEMORY = MemoryOverhead(
    context_bytes=400 * _MIB,
    host_bytes=400 * _MIB,
    parallel_bytes=400 * _MIB,
    memory_share=0.9,
    keeps_latent=False,
    dtype_of=checkpoint_dtype,
    source="Context as hf's; for NCCL's buffers as much again is assumed.",
)
