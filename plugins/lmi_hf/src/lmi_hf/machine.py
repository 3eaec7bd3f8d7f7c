# SPDX-License-Identifier: Apache-2.0
"""What the machine offers: processor features, cores and memory, read without an engine library."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def n_cores() -> int:
    """Cores this process may run on: its affinity, cut by a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def computes_bf16() -> bool:
    """Whether the processor multiplies bf16 numbers itself (avx512_bf16 or amx_bf16)."""
    flags = next((line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def available_memory_bytes() -> int:
    """Memory that can be used without swapping or reaching the container's limit."""
    lines = _read("/proc/meminfo").splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    available = int(fields.get("MemAvailable", 0)) * 1024 or _total_memory_bytes()
    for limit_file, usage_file, stat_file in _CGROUPS:
        limit, usage = _read(limit_file).strip(), _read(usage_file).strip()
        if limit.isdigit() and usage.isdigit():
            reclaimable = _stat(stat_file).get("inactive_file", 0)
            available = min(available, int(limit) - int(usage) + reclaimable)
    return max(0, available)


def _total_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _stat(path: str) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


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
        n_threads: 0 for one a core.
        wait_policy: ``active`` (spin), ``passive`` (sleep at once) or ``auto`` (OpenMP's own way: spin for a while).
            Variables that are set already win.
    Returns:
        Threads to use.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # one number a nesting level
    n_threads = n_threads or (int(given) if given.isdigit() and int(given) else n_cores())
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    if wait_policy != "auto":
        os.environ.setdefault("OMP_WAIT_POLICY", wait_policy.upper())
    return n_threads
