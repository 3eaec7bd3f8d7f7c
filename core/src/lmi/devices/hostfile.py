# SPDX-License-Identifier: Apache-2.0
"""The machines of a copy that is split over several, as mpirun's file of hosts lists them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from lmi.api import Accelerator, Problem, Target
from lmi.api.errors import counted
from lmi.config.settings import Settings
from lmi.target import DEGREE

HOSTFILE = "option.mpi_hostfile"

_SLOTS = re.compile(r"\bslots\s*=\s*([1-9]\d{0,4})\b")


def slots_of(settings: Settings) -> list[int]:
    """Slots of each machine of a copy, this one's first; empty where no file lists them, or one has no number.

    A file that is not there is told when the ranks are started.

    Source:
        Open MPI's hostfile: a line ``NAME slots=N`` a machine; ``#`` begins a comment; lines of one name add up.
    """
    name = settings.text(HOSTFILE)
    if not name:
        return []
    try:
        lines = [line.partition("#")[0].strip() for line in Path(name).read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    slots: dict[str, int] = {}
    for line in filter(None, lines):
        found = _SLOTS.search(line)
        if found is None:
            return []  # mpirun counts that machine's cores
        host = line.split()[0]
        slots[host] = slots.get(host, 0) + int(found[1])
    return list(slots.values())


def n_devices_here(settings: Settings, n_devices: int) -> int:
    """Devices of a copy that are on this machine: all of them, or where the file lists several, its own slots.

    Args:
        settings: of the model.
        n_devices: of a copy.
    """
    slots = slots_of(settings)
    return min(n_devices, slots[0]) if slots else n_devices


def over_machines(settings: Settings, target: Target) -> Target:
    """The machine with the devices of all machines that the file lists for a copy."""
    return msgspec.structs.replace(target, n_devices=max(target.n_devices, sum(slots_of(settings))))


def slot_problems(settings: Settings, target: Target, n_devices: int | None = None) -> list[Problem]:
    """What is wrong with the slots that the file lists for a copy; nothing where it lists none.

    Args:
        settings: as they hold on this machine.
        target: the machine.
        n_devices: of a copy; None takes the degree that the settings say.
    """
    slots, degree = slots_of(settings), settings.get(DEGREE)
    if n_devices is None and degree is not None and degree.value.isdecimal():
        n_devices = int(degree.value)
    if not slots or n_devices is None:
        return []
    name, n_here = settings.text(HOSTFILE), min(n_devices, slots[0])
    message = ""
    if sum(slots) < n_devices:
        message = f"tensor_parallel_degree={n_devices}, and {name} lists {counted(sum(slots), 'slot')} on "
        message += counted(len(slots), "machine")
        hint = "List a slot for each rank, or lower tensor_parallel_degree"
    elif target.accelerator is not Accelerator.CPU and n_here > target.n_devices:
        there = counted(target.n_devices, f"{target.accelerator.value} device")
        message = f"{name} lists {counted(slots[0], 'slot')} on its first machine, which is this one and has {there}"
        hint = f"Write slots={target.n_devices} for it, or start on a machine with more"
    if not message:
        return []
    sources = dict.fromkeys(each.source for each in (degree, settings.get(HOSTFILE)) if each is not None)
    return [Problem(code="device.too-few", message=message, hint=hint, source=", ".join(sources))]
