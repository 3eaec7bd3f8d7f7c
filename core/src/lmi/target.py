# SPDX-License-Identifier: Apache-2.0
"""The machine a model is meant for: this one as its drivers tell, or another one as ``--devices`` says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from lmi.api import Accelerator, ConfigError, Problem, Target
from lmi.api.errors import counted
from lmi.config.names import nearest
from lmi.config.settings import Setting, Settings
from lmi.devices.cuda import visible_gpus
from lmi.devices.neuron import device_name, visible_cores

DEGREE = "option.tensor_parallel_degree"
STAGES = "option.pipeline_parallel_degree"
DEVICE = "option.device"
LOAD_ON = "load_on_devices"
MOST_DEVICES = 1024
"""That ``--devices`` takes; more than any machine has."""

PREFIXES = {Accelerator.CUDA: "gpu", Accelerator.NEURON: "nc", Accelerator.CPU: "cpu"}
"""What LMI calls each kind of device: ``gpu.minWorkers``, ``load_on_devices=nc0``."""

_NO_DEVICE = ("cpu", "-1")
_KINDS = tuple(each.value for each in Accelerator)
_ALMOST_KINDS = {
    Accelerator.CUDA: ("gpu", "gpus", "nvidia", "cudas"),
    Accelerator.NEURON: ("nc", "ncs", "neurons", "neuroncore", "neuroncores", "inferentia", "trainium", "inf", "trn"),
}
"""What people call the kinds, too."""

_INSTANCE = re.compile(r"(?:ml\.)?(?:inf|trn)\d[a-z]*(?:\.\w+)?")
"""A type of machine with Neuron devices: ``inf2``, ``ml.trn1.32xlarge``."""


_ALMOST = re.compile(r"(?P<kind>[a-z]+)[\s:=_*-]*(?P<number>[0-9]{1,4})?|(?P<first>[0-9]{1,4})\s*x?\s*(?P<last>[a-z]+)")
"""``gpu4``, ``cuda 4``, ``4 gpus``."""


class Part(Target, frozen=True, kw_only=True):
    """A machine of which a model may have some devices.

    Args:
        n_there: devices there are.
    """

    n_there: int


def on_machine(
    settings: Settings, environ: Mapping[str, str], devices: str | Target | None = None
) -> tuple[Settings, Target]:
    """The settings as they hold on a machine, with what is wrong about its devices, and the machine.

    Args:
        settings: of a model.
        environ: variables that show and hide devices of this machine.
        devices: another machine than this one, or its devices as ``cuda:4``; ``environ`` says nothing about that one.
    Raises:
        ConfigError: ``devices`` is no machine.
    """
    device = settings.text(DEVICE)
    if devices:
        machine = parse_devices(devices) if isinstance(devices, str) else devices
        target, problems = _of_kind(machine, device), []
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


def _of_kind(target: Target, device: str | None) -> Target:
    """What ``option.device`` leaves of a machine: 0 devices where that has another kind; the CPU is always there."""
    wanted = (device or "").lower()
    if wanted not in _KINDS or wanted == target.accelerator.value:
        return target
    return Target(accelerator=Accelerator(wanted), n_devices=int(wanted == Accelerator.CPU.value))


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
    if kind not in _KINDS or bool(sign) != (re.fullmatch("[0-9]+", number) is not None):
        message = f"--devices {text!r} is no kind of device with a number"
        raise ConfigError("device.unknown", message, (), _meant(text.strip().lower()))
    if sign and (len(number) > len(str(MOST_DEVICES)) or not 0 < int(number) <= MOST_DEVICES):
        message = f"--devices {text!r} asks for {number} devices; it takes 1 to {MOST_DEVICES}"
        raise ConfigError("device.unknown", message, (), f"Write a number of devices that machines have: {kind}:4")
    return Target(accelerator=Accelerator(kind), n_devices=int(number or 1))


def _meant(text: str) -> str:
    """The hint for what is no machine: the nearest one with the number that was given."""
    if _INSTANCE.fullmatch(text):
        return "Did you mean 'neuron'? Write neuron:2 with the number of cores: 2 on inf2.xlarge, 12 on inf2.24xlarge"
    found = _ALMOST.fullmatch(text)
    if found is not None:
        name, number = found["kind"] or found["last"], found["number"] or found["first"]
        kinds = [kind.value for kind, names in _ALMOST_KINDS.items() if name in names]
        near = nearest(name, _KINDS) if not kinds else kinds[0]
        if near:
            machine = near if near == Accelerator.CPU.value else f"{near}:{number or 1}"
            return f"Write {machine}" if near == name else f"Did you mean '{near}'? Write {machine}"
    return "Write cuda:4, neuron:12 or cpu"


def devices_of(target: Target) -> tuple[str, ...]:
    """The devices by the names that the variables give them, in their order."""
    return target.devices or tuple(str(number) for number in range(target.n_devices))


def loaded_on(settings: Settings, target: Target) -> tuple[Target, list[Problem]]:
    """The part of a machine that ``load_on_devices`` names, and what is wrong with it.

    Numbers count what is visible: ``gpu0`` is the first entry of CUDA_VISIBLE_DEVICES.
    """
    setting = settings.get(LOAD_ON)
    entries = [] if setting is None else [each.strip().lower() for each in re.split("[;,]", setting.value)]
    if setting is None or "*" in entries or not target.n_devices:  # no device at all is told by itself
        return target, []
    if all(entry in _NO_DEVICE for entry in entries):
        return Target(), _against_device(settings, setting, (Accelerator.CUDA, Accelerator.NEURON))
    numbers = {entry: _device_number(entry, target) for entry in entries}
    unknown = [entry for entry, number in numbers.items() if number is None]
    if unknown and target.accelerator is Accelerator.CPU:
        told = _against_device(settings, setting, (Accelerator.CPU,))
        return target, told or [_not_there(unknown, setting, "It has cpu alone")]
    if unknown:
        prefix = PREFIXES[target.accelerator]
        there = f"{prefix}0 to {prefix}{target.n_devices - 1}" if target.n_devices > 1 else f"{prefix}0"
        return target, [_not_there(unknown, setting, f"It has {there}; * means all")]
    devices = devices_of(target)
    kept = tuple(devices[number] for number in dict.fromkeys(numbers.values()) if number is not None)
    target_left = msgspec.structs.replace(target, devices=kept, n_devices=len(kept))
    if len(kept) == target.n_devices:
        return target_left, []
    return Part(**msgspec.structs.asdict(target_left), n_there=target.n_devices), []


def _not_there(entries: Sequence[str], setting: Setting, hint: str) -> Problem:
    message = f"load_on_devices names {', '.join(map(repr, entries))}, which this machine does not have"
    return Problem(code="device.unknown", message=message, hint=hint, source=setting.source)


def _against_device(settings: Settings, load_on: Setting, kinds: Sequence[Accelerator]) -> list[Problem]:
    """A problem where ``option.device`` wants one of these kinds and ``load_on_devices`` has none of it."""
    device = settings.get(DEVICE)
    if device is None or device.value.lower() not in [kind.value for kind in kinds]:
        return []
    return [
        Problem(
            code="config.conflict",
            message=f"load_on_devices={load_on.value} and option.device={device.value} leave no device",
            hint="Take one of them out, or let both name one kind of device",
            source=f"{load_on.source}, {device.source}",
        )
    ]


def _device_number(entry: str, target: Target) -> int | None:
    """The place of ``gpu1``, ``nc1`` or ``1`` among the devices; None where there is no such one."""
    if target.accelerator is Accelerator.CPU:
        return None
    match = re.fullmatch(rf"(?:{PREFIXES[target.accelerator]}|{target.accelerator.value}:?)?(\d{{1,5}})", entry)
    return int(match[1]) if match is not None and int(match[1]) < target.n_devices else None


def with_devices(settings: Settings, target: Target) -> Settings:
    """The settings as they hold on a machine.

    ``tensor_parallel_degree=max`` becomes the number it stands for, all devices there are, and ``gpu.minWorkers``
    (``cpu.``, ``nc.``) takes the place of ``minWorkers`` on its kind of device, unless that is set in a higher layer.
    """
    for key in ("minWorkers", "maxWorkers"):
        bare, own = settings.get(key), settings.get(f"{PREFIXES[target.accelerator]}.{key}")
        if own is None or not own.value.isdecimal():
            continue
        if bare is not None and bare.rank > own.rank:
            beaten = (*bare.overrode, replace(own, overrode=()), *own.overrode)
            settings = settings.replaced(replace(bare, overrode=beaten))
            continue
        beaten = () if bare is None else (replace(bare, overrode=()), *bare.overrode)
        settings = settings.replaced(replace(own, key=key, overrode=(*own.overrode, *beaten), written=own.key))
    setting = settings.get(DEGREE)
    if setting is None or setting.value.lower() != "max":
        return settings
    n_devices, n_stages = max(1, target.n_devices), n_stages_of(settings)
    source = f"{setting.source}, max of {counted(n_devices, 'device')}"
    if n_stages > 1:
        source += f" in {n_stages} stages"
    return settings.replaced(replace(setting, value=str(max(1, n_devices // n_stages)), source=source))


def n_stages_of(settings: Settings) -> int:
    """Stages that a copy of the model is to be spread over, each as many devices as the degree says; 1 unless set."""
    said = settings.text(STAGES) or "1"
    return max(1, int(said)) if said.isdecimal() and len(said) <= len(str(MOST_DEVICES)) else 1


def split_text(settings: Settings, n_devices: int) -> str:
    """How a copy comes to take so many devices: ``tensor_parallel_degree=2, pipeline_parallel_degree=2``."""
    n_stages = n_stages_of(settings)
    if n_stages == 1:
        return f"tensor_parallel_degree={n_devices}"
    return f"tensor_parallel_degree={n_devices // n_stages}, pipeline_parallel_degree={n_stages}"


def too_few_devices(settings: Settings, target: Target, n_devices: int | None = None) -> list[Problem]:
    """A problem where a copy of the model is to be split over more devices than there are.

    Args:
        settings: as they hold on this machine.
        target: the machine.
        n_devices: of a copy; None takes the degree that the settings say.
    """
    setting = settings.get(DEGREE)
    if n_devices is None:
        if setting is None or not setting.value.isdecimal():
            return []
        n_devices = int(setting.value)
    if target.accelerator is Accelerator.CPU or n_devices <= target.n_devices or not target.n_devices:
        return []
    if any(problem.code == "backend.misfit" for problem in settings.problems):
        return []  # the number is no matter
    there = f"this machine has {counted(target.n_devices, f'{target.accelerator.value} device')}"
    otherwise = "start on a machine with more"
    if isinstance(target, Part):
        load_on = settings.get(LOAD_ON)
        source = f"load_on_devices, {load_on.source}" if load_on is not None else "load_on_devices"
        all_there = counted(target.n_there, f"{target.accelerator.value} device")
        there = f"{target.n_devices} of the {all_there} may be used ({source})"
        otherwise = "let load_on_devices name more"
    stages = settings.get(STAGES) if n_stages_of(settings) > 1 else None
    how = f"Set it to {target.n_devices} or less, to max"
    if stages is not None:
        there = f"which are {n_devices} devices for a copy; {there}"
        how = f"Set them so that their product is {target.n_devices} or less"
    message = f"{split_text(settings, n_devices)}, {'' if stages else 'and '}{there}"
    sources = dict.fromkeys(each.source for each in (setting, stages) if each is not None)
    return [Problem(code="device.too-few", message=message, hint=f"{how}, or {otherwise}", source=", ".join(sources))]
