# SPDX-License-Identifier: Apache-2.0
"""The machine a model is meant for: this one as its drivers tell, or another one as ``--devices`` says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from lmi.api import Accelerator, ConfigError, Problem, Target
from lmi.api.errors import counted
from lmi.config.names import did_you_mean
from lmi.config.settings import Setting, Settings
from lmi.devices.cuda import visible_gpus
from lmi.devices.neuron import device_name, visible_cores

DEGREE = "option.tensor_parallel_degree"
LOAD_ON = "load_on_devices"

PREFIXES = {Accelerator.CUDA: "gpu", Accelerator.NEURON: "nc", Accelerator.CPU: "cpu"}
"""What LMI calls each kind of device: ``gpu.minWorkers``, ``load_on_devices=nc0``."""


def on_machine(settings: Settings, environ: Mapping[str, str], devices: str | None = None) -> tuple[Settings, Target]:
    """The settings as they hold on a machine, with what is wrong about its devices, and the machine.

    Args:
        settings: of a model.
        environ: variables that show and hide devices of this machine.
        devices: another machine than this one, as ``cuda:4``; ``environ`` says nothing about that one.
    Raises:
        ConfigError: ``devices`` is no machine.
    """
    device = settings.text("option.device")
    if devices:
        target, problems = parse_devices(devices), []
    else:
        target, problems = detect_target(environ, device), visible_problems(environ, device)
    target, unknown = loaded_on(settings, target)
    return with_devices(settings.with_problems([*problems, *unknown]), target), target


def detect_target(environ: Mapping[str, str], device: str | None = None, root: Path = Path("/")) -> Target:
    """The machine as a model sees it.

    Args:
        environ: read for CUDA_VISIBLE_DEVICES and the Neuron runtime's variables; an empty list hides every device.
        device: value of ``option.device``; ``auto`` and None take the accelerator there is.
        root: where /proc, /dev and /sys are.
    Returns:
        The wanted kind of device with 0 devices where there is none of it.
    """
    wanted = (device or "").lower()
    for kind in (Accelerator.CUDA, Accelerator.NEURON):
        if wanted in (each.value for each in Accelerator) and wanted != kind.value:
            continue
        target = _cuda(environ, root) if kind is Accelerator.CUDA else _neuron(environ, root)
        if target.n_devices or wanted == kind.value:
            return target
    return Target()


def _cuda(environ: Mapping[str, str], root: Path) -> Target:
    gpus, _ = visible_gpus(environ, root)
    return Target(
        accelerator=Accelerator.CUDA,
        n_devices=len(gpus),
        device_memory_bytes=min((gpu.memory_bytes for gpu in gpus), default=0),
        devices=tuple(gpu.entry for gpu in gpus),
        device_name=gpus[0].name if gpus else "",
        compute_capability=gpus[0].compute_capability if gpus else "",
    )


def _neuron(environ: Mapping[str, str], root: Path) -> Target:
    cores, _ = visible_cores(environ, root)
    name = device_name(root) if cores else ""
    return Target(accelerator=Accelerator.NEURON, n_devices=len(cores), devices=tuple(cores), device_name=name)


def visible_problems(environ: Mapping[str, str], device: str | None = None, root: Path = Path("/")) -> list[Problem]:
    """What is wrong with the variables that show and hide this machine's devices; hiding all of them is no problem.

    Args:
        environ, device, root: as ``detect_target`` has them; variables of another kind of device are not looked at.
    """
    wanted = (device or "").lower()
    problems = []
    if wanted not in (Accelerator.CPU.value, Accelerator.NEURON.value):
        problems += visible_gpus(environ, root)[1]
    if wanted not in (Accelerator.CPU.value, Accelerator.CUDA.value):
        problems += visible_cores(environ, root)[1]
    return problems


def parse_devices(text: str) -> Target:
    """A machine that is not this one, as ``--devices`` says it: ``cuda:4``, ``neuron:12`` (cores), ``cpu``.

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


def devices_of(target: Target) -> tuple[str, ...]:
    """The devices by the names that the variables give them, in their order."""
    return target.devices or tuple(str(number) for number in range(target.n_devices))


def loaded_on(settings: Settings, target: Target) -> tuple[Target, list[Problem]]:
    """The part of a machine that ``load_on_devices`` names, and what is wrong with it.

    Numbers count what is visible: ``gpu0`` is the first entry of CUDA_VISIBLE_DEVICES.
    """
    setting = settings.get(LOAD_ON)
    entries = [] if setting is None else [each.strip().lower() for each in re.split("[;,]", setting.value)]
    if setting is None or "*" in entries:
        return target, []
    if all(entry in ("cpu", "-1") for entry in entries):
        return Target(), []
    numbers = {entry: _device_number(entry, target) for entry in entries}
    unknown = [entry for entry, number in numbers.items() if number is None]
    if unknown:
        prefix = PREFIXES[target.accelerator]
        there = f"{prefix}0 to {prefix}{target.n_devices - 1}" if target.n_devices > 1 else f"{prefix}0"
        has = f"It has {there}; * means all" if target.accelerator is not Accelerator.CPU else "It has cpu alone"
        message = f"load_on_devices names {', '.join(map(repr, unknown))}, which this machine does not have"
        return target, [Problem(code="device.unknown", message=message, hint=has, source=setting.source)]
    devices = devices_of(target)
    kept = tuple(devices[number] for number in dict.fromkeys(numbers.values()) if number is not None)
    return msgspec.structs.replace(target, devices=kept, n_devices=len(kept)), []


def _device_number(entry: str, target: Target) -> int | None:
    """The place of ``gpu1``, ``nc1`` or ``1`` among the devices; None where there is no such one."""
    if target.accelerator is Accelerator.CPU:
        return None
    match = re.fullmatch(rf"(?:{PREFIXES[target.accelerator]}|{target.accelerator.value}:?)?(\d{{1,5}})", entry)
    return int(match[1]) if match is not None and int(match[1]) < target.n_devices else None


def with_devices(settings: Settings, target: Target) -> Settings:
    """The settings as they hold on a machine.

    ``tensor_parallel_degree=max`` becomes the number it stands for, all devices there are, and ``gpu.minWorkers``
    (``cpu.``, ``nc.``) takes the place of ``minWorkers`` on its kind of device.
    """
    for key in ("minWorkers", "maxWorkers"):
        bare, own = settings.get(key), settings.get(f"{PREFIXES[target.accelerator]}.{key}")
        if own is not None and own.value.isdecimal():
            beaten = () if bare is None else (replace(bare, overrode=()), *bare.overrode)
            settings = settings.replaced(Setting(key, own.value, own.source, (*own.overrode, *beaten), own.key))
    setting = settings.get(DEGREE)
    if setting is None or setting.value.lower() != "max":
        return settings
    n_devices = max(1, target.n_devices)
    source = f"{setting.source}, max of {counted(n_devices, 'device')}"
    return settings.replaced(replace(setting, value=str(n_devices), source=source))


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
