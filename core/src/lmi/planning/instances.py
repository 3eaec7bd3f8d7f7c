# SPDX-License-Identifier: Apache-2.0
"""Machines by name, or by their devices' memory, as targets to plan for."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from lmi.api import Accelerator, ConfigError, Target
from lmi.config.names import nearest
from lmi.planning.units import GIB, MIB

_FILE = Path(__file__).with_name("instances.json")

_MEMORY = re.compile(
    r"(?P<number>\d{1,6}(?:\.\d{1,3})?)\s*(?P<unit>[KMGT]i?B?)(?:\s*[x*]\s*(?P<n>\d{1,4}))?", re.IGNORECASE
)
_WITHOUT_ACCELERATOR = re.compile(r"ml\.[cmrtxz]\d[a-z0-9-]*\.[a-z0-9-]+")
"""Machines for general work, much computing or much memory: AWS gives none of these families an accelerator."""

_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_MOST_DEVICES = 1024


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One type of machine.

    Args:
        name: as SageMaker has it, ``ml.g5.12xlarge``.
        family: ``g5``.
        device: what its accelerators are sold as.
        accelerator: their kind.
        n_devices: devices that a model may be split over; of Neuron devices, their cores.
        device_memory_bytes: of one of those.
        has_nvlink: whether its GPUs are joined by NVLink.
        compute_capability: ``8.6``; empty for what is not CUDA.
        n_vcpu: virtual processors.
        host_memory_bytes: of the machine itself.
        network_gbps: the highest rate of its network.
        is_burst: whether that rate does not last.
        source: where the row is from.
    """

    name: str
    family: str
    device: str
    accelerator: Accelerator
    n_devices: int
    device_memory_bytes: int
    has_nvlink: bool
    compute_capability: str
    n_vcpu: int
    host_memory_bytes: int
    network_gbps: float
    is_burst: bool
    source: str

    @property
    def total_memory_bytes(self) -> int:
        """Memory of all devices together."""
        return self.n_devices * self.device_memory_bytes

    def target(self) -> Target:
        """The machine as configuration and checks see one."""
        return Target(
            accelerator=self.accelerator,
            n_devices=self.n_devices,
            device_memory_bytes=self.device_memory_bytes,
            device_name=self.device,
            compute_capability=self.compute_capability,
            instance=self.name,
        )


@cache
def all_instances() -> tuple[Instance, ...]:
    """Every machine that is known, in the order of the table."""
    table: dict[str, Any] = json.loads(_FILE.read_text("utf-8"))
    devices = {each["name"]: each for each in table["devices"]}
    return tuple(_instance(row, devices[row["device"]]) for row in table["instances"])


def instance_of(name: str) -> Instance:
    """The machine of a name; case and the leading ``ml.`` do not matter.

    Raises:
        ConfigError: there is none of that name, with the nearest one.
    """
    wanted = "ml." + name.strip().lower().removeprefix("ml.")
    known = {each.name: each for each in all_instances()}
    if wanted in known:
        return known[wanted]
    if _WITHOUT_ACCELERATOR.fullmatch(wanted):
        message = f"--instance '{name}' has no accelerator that LMI knows"
        raise ConfigError("instance.unknown", message, (), "For a CPU use --devices cpu")
    near = nearest(wanted, known)
    families = ", ".join(dict.fromkeys(each.family for each in known.values()))
    hint = f"Did you mean '{near}'?" if near else f"Families that are known: {families}; or give --device-memory"
    raise ConfigError("instance.unknown", f"--instance '{name}' is no machine that LMI knows", (), hint)


def family_of(instance: str) -> str:
    """The family of a machine's name: ``g5`` of ``ml.g5.12xlarge``; empty for none."""
    return instance.lower().removeprefix("ml.").partition(".")[0]


def parse_memory(text: str) -> Target:
    """A machine by the memory of its GPUs: ``24GiB``, ``24GiBx4``, ``80GB x8``.

    Raises:
        ConfigError: it is nothing of that form.
    """
    match = _MEMORY.fullmatch(text.strip())
    n_devices = int(match["n"] or 1) if match is not None else 0
    if match is None or not 0 < n_devices <= _MOST_DEVICES or not float(match["number"]):
        message = f"--device-memory {text!r} is no amount of memory with a number of devices"
        raise ConfigError("instance.bad-memory", message, (), "Write 24GiB, or 24GiBx4 for four devices")
    unit = match["unit"].lower()
    step = 1024 if "i" in unit else 1000
    n_bytes = int(float(match["number"]) * step ** _POWERS[unit[0]])
    return Target(accelerator=Accelerator.CUDA, n_devices=n_devices, device_memory_bytes=n_bytes)


def _instance(row: dict[str, Any], device: dict[str, Any]) -> Instance:
    n_cores = int(device["n_cores"])
    return Instance(
        name=row["name"],
        family=row["family"],
        device=row["device"],
        accelerator=Accelerator(device["accelerator"]),
        n_devices=row["n_devices"] * n_cores,
        device_memory_bytes=device["memory_mib"] * MIB // n_cores,
        has_nvlink=device["has_nvlink"] and row["n_devices"] > 1,
        compute_capability=device["compute_capability"],
        n_vcpu=row["n_vcpu"],
        host_memory_bytes=row["memory_gib"] * GIB,
        network_gbps=row["network_gbps"],
        is_burst=row["is_burst"],
        source=row["source"],
    )
