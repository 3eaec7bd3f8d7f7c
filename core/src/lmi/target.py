# SPDX-License-Identifier: Apache-2.0
"""Which accelerators this machine has, found without any library of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lmi.api import Accelerator, ConfigError, Problem, Target
from lmi.config.names import did_you_mean
from lmi.config.settings import Settings

DEGREE = "option.tensor_parallel_degree"


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


def parse_devices(text: str) -> Target:
    """A machine that is not this one, as ``--devices`` says it: ``cuda:4``, ``neuron:12``, ``cpu``.

    Raises:
        ConfigError: it is no such thing.
    """
    kind, sign, number = text.strip().lower().partition(":")
    kinds = [each.value for each in Accelerator]
    is_number = number.isdecimal() and int(number) > 0
    if kind in kinds and (is_number or not sign):
        return Target(accelerator=Accelerator(kind), n_devices=int(number) if is_number else 1)
    hint = "Write cuda:4, neuron:12 or cpu"
    raise ConfigError(
        "device.unknown", f"--devices {text!r} is no kind of device with a number", (),
        hint if kind in kinds else did_you_mean(kind, kinds, hint),
    )  # fmt: skip


def with_devices(settings: Settings, target: Target) -> Settings:
    """``tensor_parallel_degree=max`` with the number it stands for: all devices there are."""
    setting = settings.get(DEGREE)
    if setting is None or setting.value.lower() != "max":
        return settings
    n_devices = max(1, target.n_devices)
    counted = "1 device" if n_devices == 1 else f"{n_devices} devices"
    return settings.replaced(replace(setting, value=str(n_devices), source=f"{setting.source}, max of {counted}"))


def too_few_devices(settings: Settings, target: Target) -> list[Problem]:
    """A problem where a copy of the model is to be split over more devices than there are."""
    setting = settings.get(DEGREE)
    if setting is None or not setting.value.isdecimal() or target.accelerator is Accelerator.CPU:
        return []
    wanted = int(setting.value)
    if wanted <= target.n_devices or not target.n_devices:
        return []
    kind = target.accelerator.value
    message = f"tensor_parallel_degree={wanted}, and this machine has {target.n_devices} {kind} devices"
    hint = f"Set it to {target.n_devices} or less, to max, or start on a machine with more"
    return [Problem(code="device.too-few", message=message, hint=hint, source=setting.source)]


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
