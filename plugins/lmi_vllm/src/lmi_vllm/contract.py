# SPDX-License-Identifier: Apache-2.0
"""What the contract is tested with: ``lmi contract vllm``, or pytest."""

import multiprocessing
from typing import Any

from lmi.testing import BackendCase


def _kill_core(engine: Any) -> None:
    """vLLM's engine core is a process of its own, started by this one."""
    for process in multiprocessing.active_children():
        process.kill()


CASE = BackendCase(
    backend="vllm",
    settings={"dtype": "fp32", "enforce_eager": True, "enable_lora": True, "kv_cache_memory_bytes": 1 << 28},
    model="llama-wide",  # vLLM's kernels for CPU take no heads of 16
    hot_temperature=2.0,
    kill_engine=_kill_core,
)
