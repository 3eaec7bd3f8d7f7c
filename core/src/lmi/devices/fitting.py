# SPDX-License-Identifier: Apache-2.0
"""What speaks against the devices of a machine: none of the wanted kind, too few, or the backend runs on others."""

from __future__ import annotations

from lmi.api import BackendInfo, Problem, Target
from lmi.config.settings import Settings
from lmi.devices.hostfile import slot_problems, slots_of
from lmi.plugins.fit import elsewhere
from lmi.target import too_few_devices


def device_problems(
    settings: Settings, info: BackendInfo | None, target: Target, n_devices: int | None = None
) -> list[Problem]:
    """What is wrong with the devices for a model; their number is no matter where their kind is the wrong one.

    Args:
        settings: as they hold on this machine.
        info: the backend; None where none could be chosen.
        target: the machine.
        n_devices: of a copy, as the typed options say; None where those are not known.
    """
    missing = missing_device(settings, target)
    if missing:
        return missing
    reason = "" if info is None else elsewhere(info, target)
    if info is None or not reason:
        is_listed = bool(slots_of(settings))
        return (slot_problems if is_listed else too_few_devices)(settings, target, n_devices)
    return [Problem(code="backend.misfit", message=f"{info.name} {reason}", hint="Choose another backend")]


def missing_device(settings: Settings, target: Target) -> list[Problem]:
    """A problem where ``option.device`` wants a kind of device of which there is none."""
    device = settings.get("option.device")
    if target.n_devices or device is None:
        return []
    return [
        Problem(
            code="device.missing",
            message=f"option.device={device.value}, but this machine has no such device",
            hint="Take the option out, or start on a machine that has one",
            source=device.source,
        )
    ]
