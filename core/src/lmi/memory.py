# SPDX-License-Identifier: Apache-2.0
"""Whether there is the memory that a configuration asks for before a model is loaded."""

from __future__ import annotations

import psutil

from lmi.api import Accelerator, Problem, Target
from lmi.config import ModelOptions
from lmi.config.rules import sources
from lmi.config.settings import Settings

MB = 1024 * 1024
"""Bytes in a unit of ``required_memory_mb``, ``reserved_memory_mb`` and those of GPUs."""


def too_little_memory(
    options: ModelOptions, settings: Settings, target: Target, free_bytes: int | None = None
) -> list[Problem]:
    """What is missing of ``required_memory_mb`` and ``reserved_memory_mb``, where either is set.

    Of a GPU its whole memory counts; nothing is said where that is not known.

    Args:
        options: the core's.
        settings: where they were set.
        target: the machine.
        free_bytes: of the host; None looks.
    """
    problems = []
    if not settings.keys().isdisjoint({"required_memory_mb", "reserved_memory_mb"}):
        n_bytes = psutil.virtual_memory().available if free_bytes is None else free_bytes
        problems += _missing(options.required_memory_mb, options.reserved_memory_mb, n_bytes, settings, "")
    is_known = target.accelerator is Accelerator.CUDA and target.device_memory_bytes > 0
    if is_known and not settings.keys().isdisjoint({"gpu.required_memory_mb", "gpu.reserved_memory_mb"}):
        n_bytes = target.device_memory_bytes
        problems += _missing(options.gpu_required_memory_mb, options.gpu_reserved_memory_mb, n_bytes, settings, "gpu.")
    return problems


def _missing(required_mb: int, reserved_mb: int, n_bytes: int, settings: Settings, prefix: str) -> list[Problem]:
    has_mb = n_bytes // MB
    if has_mb >= required_mb + reserved_mb:
        return []
    where = "each GPU has" if prefix else "the host has free"
    keys = f"{prefix}required_memory_mb", f"{prefix}reserved_memory_mb"
    return [
        Problem(
            code="memory.too-little",
            message=f"{keys[0]}={required_mb} and {keys[1]}={reserved_mb} ask for {required_mb + reserved_mb} MB; "
            f"{where} {has_mb} MB",
            hint=f"Take a larger machine, end other processes, or lower {keys[0]}",
            source=sources(settings, *keys),
        )
    ]
