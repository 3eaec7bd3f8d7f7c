# SPDX-License-Identifier: Apache-2.0
"""Which accelerators this machine has, found without any library of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmi.api import Accelerator, Target


def detect_target(environ: Mapping[str, str], device: str | None = None, root: Path = Path("/")) -> Target:
    """The machine as a model sees it.

    Args:
        environ: read for CUDA_VISIBLE_DEVICES; an empty list hides every GPU.
        device: value of ``option.device``; ``auto`` and None take the accelerator there is.
        root: where /proc and /dev are.
    Returns:
        The wanted kind of device with 0 devices where there is none of it.
    """
    counted = {
        Accelerator.CUDA: _n_visible_gpus(environ, root),
        Accelerator.NEURON: len(list((root / "dev").glob("neuron[0-9]*"))),
        Accelerator.CPU: 1,
    }
    wanted = [each for each in Accelerator if each.value == (device or "").lower()]
    found = [each for each, n_devices in counted.items() if n_devices > 0]
    accelerator = (wanted or found)[0]
    return Target(accelerator=accelerator, n_devices=counted[accelerator])


def _n_visible_gpus(environ: Mapping[str, str], root: Path) -> int:
    driver = root / "proc/driver/nvidia"
    if not driver.exists():
        return 0
    n_gpus = len(list((driver / "gpus").glob("*"))) or 1
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return n_gpus
    listed: list[str] = []
    for entry in visible.split(","):
        # The driver reads the list up to the first entry that is no device.
        if entry.strip() in ("", "-1"):
            break
        listed.append(entry)
    return min(n_gpus, len(listed))
