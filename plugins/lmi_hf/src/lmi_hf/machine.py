# SPDX-License-Identifier: Apache-2.0
"""What the machine offers: processor features, cores and memory, read without an engine library."""

from __future__ import annotations

import os
from pathlib import Path

from lmi.api import n_cores, ranks_of


def computes_bf16() -> bool:
    """Whether the processor multiplies bf16 numbers itself (avx512_bf16 or amx_bf16)."""
    flags = next((line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def prepare_threads(n_threads: int, wait_policy: str) -> int:
    """Set how many threads OpenMP makes and how they wait; must run before torch is imported, which reads it once.

    Measured with two threads on two cores (tokens a second at batch 1 / 32; beside a process that takes a quarter of a
    core; beside one that takes a whole core): OpenMP's own way 46 / 373, 36 / 272, 11 / 94; passive 19 / 289,
    19 / 192, 25 / 216. A serving process takes a few hundredths of a core, so auto is OpenMP's own way.

    Args:
        n_threads: 0 for one a core of those that this process shares with no other rank.
        wait_policy: ``active`` (spin), ``passive`` (sleep at once) or ``auto`` (OpenMP's own way: spin for a while).
            Variables that are set already win.
    Returns:
        Threads to use.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # one number a nesting level
    own = max(1, n_cores() // ranks_of(os.environ).local_size)
    n_threads = n_threads or (int(given) if given.isdigit() and int(given) else own)
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    if wait_policy != "auto":
        os.environ.setdefault("OMP_WAIT_POLICY", wait_policy.upper())
    return n_threads
