# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's GPUs, as the driver counts them and as CUDA_VISIBLE_DEVICES shows them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmi.api import Problem

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"
"""The order in which the driver's own library counts, and this module with it. Source: CUDA's programming guide, on
environment variables."""

_DRIVER_FILES = ("proc/driver/nvidia", "dev/nvidiactl", "dev/dxg")
"""At least one is there where the driver is; the last one is that of Windows' subsystem for Linux."""

_NO_MORE = ("", "-1", "nodevfiles")
"""Entries that end the list: the driver reads no further."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, or a part of one (MIG).

    Args:
        entry: what names it in CUDA_VISIBLE_DEVICES.
        uuid: ``GPU-...`` or ``MIG-...``; empty where unknown.
        memory_bytes: all of its memory; 0 where unknown.
        name: as NVIDIA sells it.
        compute_capability: ``9.0``; empty where unknown.
        parts: the MIG devices it is split into.
    """

    entry: str
    uuid: str = ""
    memory_bytes: int = 0
    name: str = ""
    compute_capability: str = ""
    parts: tuple[Gpu, ...] = ()


@functools.lru_cache(maxsize=8)
def all_gpus(root: Path) -> tuple[Gpu, ...]:
    """Every GPU of the machine in the driver's order; nothing is loaded where there is no driver.

    Args:
        root: where /proc and /dev are.
    """
    if not any((root / name).exists() for name in _DRIVER_FILES):
        return ()
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:  # an engine's own environment need not have it
        return _of_proc(root)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        # The driver without its library is what a container sees that was given no GPU.
        return ()
    try:
        found = (_gpu(nvml, number) for number in range(nvml.nvmlDeviceGetCount()))
        return tuple(gpu for gpu in found if gpu is not None)
    finally:
        nvml.nvmlShutdown()


def visible_gpus(environ: Mapping[str, str], root: Path) -> tuple[list[Gpu], list[Problem]]:
    """The GPUs that a process with these variables sees, in their order, and what is wrong with the variable."""
    gpus = all_gpus(root)
    text = environ.get(VISIBLE)
    if text is None or not gpus:
        # A process that names no device of a GPU in parts sees one part alone, so each part is a device.
        return [part for gpu in gpus for part in gpu.parts or (gpu,)], []
    entries = _entries(text)
    parts = [part for gpu in gpus for part in gpu.parts]
    found = [_named(entry, gpus, parts) for entry in entries]
    seen = [gpu for gpu in found if gpu is not None]
    return list({gpu.entry: gpu for gpu in seen}.values()), _problems(entries, found, gpus, parts)


def hides_all(text: str) -> bool:
    """Whether a process with this list of devices sees no GPU."""
    return not _entries(text)


def _entries(text: str) -> list[str]:
    entries: list[str] = []
    for part in text.split(","):
        if part.strip().lower() in _NO_MORE:
            break
        entries.append(part.strip())
    return entries


def _named(entry: str, gpus: Sequence[Gpu], parts: Sequence[Gpu]) -> Gpu | None:
    """The GPU of one entry, under that very entry; None where there is none."""
    if entry.isdecimal():
        found = [gpus[int(entry)]] if int(entry) < len(gpus) else []
    else:  # the driver takes the beginning of a UUID, too
        found = [each for each in (*gpus, *parts) if each.uuid and each.uuid.lower().startswith(entry.lower())]
        is_uuid = entry.upper().startswith(("GPU-", "MIG-"))
        is_old_form = entry.upper().startswith("MIG-GPU-")
        if is_uuid and (is_old_form or not all(gpu.uuid for gpu in gpus)):
            found = found or [Gpu(entry=entry)]  # nothing here can tell
        found = found if is_uuid else []
    return Gpu(**{**vars(found[0]), "entry": entry}) if found else None


def _problems(
    entries: Sequence[str], found: Sequence[Gpu | None], gpus: Sequence[Gpu], parts: Sequence[Gpu]
) -> list[Problem]:
    """More entries than GPUs, entries that name none, and entries that name one again."""
    source = f"{VISIBLE}={','.join(entries)}"
    n_parts = sum(entry.upper().startswith("MIG-") for entry in entries)
    for n_named, n_there, kind in ((len(entries) - n_parts, len(gpus), "GPU"), (n_parts, len(parts), "MIG device")):
        if n_named > n_there > 0:
            message = f"{VISIBLE} names {n_named} {kind}s, and this machine has {n_there}"
            hint = f"Name at most {n_there}, or take the variable out"
            return [Problem(code="device.too-many-visible", message=message, hint=hint, source=source)]
    problems = []
    for place, (entry, gpu) in enumerate(zip(entries, found, strict=True)):
        if gpu is None:
            there = ", ".join(each.entry for each in (*gpus, *parts))
            message = f"{VISIBLE} names {entry!r}, and this machine has no such GPU"
            problems.append(Problem(code="device.unknown", message=message, hint=f"It has {there}", source=source))
        elif entry in entries[:place]:
            message = f"{VISIBLE} names {entry} twice"
            problems.append(Problem(code="device.named-twice", message=message, hint="Name it once", source=source))
    return problems


def _of_proc(root: Path) -> tuple[Gpu, ...]:
    """The GPUs that the kernel lists."""
    folder = root / _DRIVER_FILES[0]
    n_gpus = len(list((folder / "gpus").glob("*"))) or int(folder.exists())
    return tuple(Gpu(entry=str(number)) for number in range(n_gpus))


def _gpu(nvml: Any, number: int) -> Gpu | None:
    """One GPU as NVML tells it; None where it does not answer any more."""
    try:
        device = nvml.nvmlDeviceGetHandleByIndex(number)
        uuid = nvml.nvmlDeviceGetUUID(device)
    except nvml.NVMLError:
        return None
    major, minor = _asked(nvml, "nvmlDeviceGetCudaComputeCapability", device) or (0, 0)
    return Gpu(
        entry=str(number),
        uuid=uuid,
        memory_bytes=_memory_bytes(nvml, device),
        name=str(_asked(nvml, "nvmlDeviceGetName", device) or ""),
        compute_capability=f"{major}.{minor}" if major else "",
        parts=_parts(nvml, device),
    )


def _parts(nvml: Any, device: Any) -> tuple[Gpu, ...]:
    parts = []
    is_split = (_asked(nvml, "nvmlDeviceGetMigMode", device) or (0,))[0]
    for number in range(_asked(nvml, "nvmlDeviceGetMaxMigDeviceCount", device) or 0 if is_split else 0):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, number)
            uuid = nvml.nvmlDeviceGetUUID(part)
        except nvml.NVMLError:  # there may be fewer than the most
            continue
        name = str(_asked(nvml, "nvmlDeviceGetName", part) or "")
        parts.append(Gpu(entry=uuid, uuid=uuid, memory_bytes=_memory_bytes(nvml, part), name=name))
    return tuple(parts)


def _memory_bytes(nvml: Any, device: Any) -> int:
    memory = _asked(nvml, "nvmlDeviceGetMemoryInfo", device)  # not there where CPU and GPU share it
    return 0 if memory is None else int(memory.total)


def free_bytes_of(entries: Sequence[str]) -> list[int]:
    """Memory that is free now on each GPU, or part of one; of those alone whose driver tells.

    Args:
        entries: as CUDA_VISIBLE_DEVICES names them.
    """
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # no library, or no driver
        return []
    found = []
    try:
        for entry in entries:
            by = "nvmlDeviceGetHandleByIndex" if entry.isdecimal() else "nvmlDeviceGetHandleByUUID"
            device = _asked(nvml, by, int(entry) if entry.isdecimal() else entry)
            memory = None if device is None else _asked(nvml, "nvmlDeviceGetMemoryInfo", device)
            found += [] if memory is None else [int(memory.free)]
    finally:
        nvml.nvmlShutdown()
    return found


def driver_version() -> str:
    """The version of the driver; empty where there is none."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # no library, or no driver
        return ""
    try:
        version = nvml.nvmlSystemGetDriverVersion()
    except nvml.NVMLError:
        return ""
    finally:
        nvml.nvmlShutdown()
    return version.decode() if isinstance(version, bytes) else str(version)


def _asked(nvml: Any, function: str, device: Any) -> Any:
    """What one of NVML's functions says of a device; None where this device has no such thing."""
    try:
        return getattr(nvml, function)(device)
    except nvml.NVMLError:
        return None
