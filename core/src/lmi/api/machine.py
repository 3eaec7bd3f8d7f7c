# SPDX-License-Identifier: Apache-2.0
"""What a machine without an accelerator offers one process of a model, and its share where there are several."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COPY = "LMI_COPY"
"""Tells a copy on CPU which it is of how many, from 0: ``1/4``."""
GROUP = "LMI_GROUP"
"""The same in all processes of one model's workers, and in no others."""

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
_QUOTA = "/sys/fs/cgroup/cpu.max"
_OLD_QUOTA = ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """A process's place among those that share one copy of a model.

    Args:
        rank: of this process, from 0.
        size: how many there are.
        local_rank: the place among those on this machine.
        local_size: how many are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def ranks_of(environ: Mapping[str, str]) -> Ranks:
    """Which rank this process is; the only one where nobody says otherwise.

    Args:
        environ: the variables that torch.distributed reads, too: RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE.
    """
    names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    found = {field: environ.get(name, "") for field, name in names.items()}
    if not all(value.isdigit() for value in found.values()):
        return Ranks()
    return Ranks(**{field: int(value) for field, value in found.items()})


def copy_of(environ: Mapping[str, str]) -> tuple[int, int]:
    """Which copy of the model this process is of, from 0, and how many share the machine.

    Args:
        environ: LMI_COPY, which the server sets where there are several: ``1/4``.
    """
    index, _, number = environ.get(COPY, "").partition("/")
    if index.isdigit() and number.isdigit() and int(index) < int(number):
        return int(index), int(number)
    return 0, 1


def n_cores() -> int:
    """Cores that this process may run on: its affinity, cut by a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, n_quota_cores() or cores)


def n_quota_cores() -> int:
    """Cores whose time the container may use; 0 where it is not limited."""
    parts = _read(_QUOTA).split() or [_read(path).strip() for path in _OLD_QUOTA]
    if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]):
        return max(1, int(parts[0]) // int(parts[1]))
    return 0


def free_memory_bytes() -> int:
    """Memory that can be used without swapping or reaching the container's limit."""
    lines = _read("/proc/meminfo").splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    free = int(fields.get("MemAvailable", 0)) * 1024 or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit_file, usage_file, stat_file in _CGROUPS:
        limit, usage = _read(limit_file).strip(), _read(usage_file).strip()
        if limit.isdigit() and usage.isdigit():
            pairs = (line.split() for line in _read(stat_file).splitlines())
            # What the kernel keeps of files counts as used, and is given up when it is needed.
            files = sum(int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == "inactive_file")
            free = min(free, int(limit) - int(usage) + files)
    return max(0, free)


def memory_share_bytes(environ: Mapping[str, str] | None = None) -> int:
    """What this process may still take, where copies and ranks of its model share the machine evenly.

    What the others hold already counts as theirs: one that starts again beside three that are loaded gets what it had.

    Args:
        environ: of this process.
    """
    environ = os.environ if environ is None else environ
    free = free_memory_bytes()
    n_shares = copy_of(environ)[1] * ranks_of(environ).local_size
    if n_shares == 1:
        return free
    held = _held_bytes(environ.get(GROUP, ""))
    own = held.pop(os.getpid(), 0)
    return max(0, min(free, (free + own + sum(held.values())) // n_shares - own))


def _held_bytes(group: str) -> dict[int, int]:
    """Memory of each process of a model's workers; pages that several have are divided among them."""
    import psutil

    held: dict[int, int] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, AttributeError):
            if process.pid == os.getpid() or (group and process.environ().get(GROUP) == group):
                held[process.pid] = int(process.memory_full_info().pss)
    return held


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
