# SPDX-License-Identifier: Apache-2.0
"""Several models on the same devices."""

from __future__ import annotations

from collections.abc import Mapping

from lmi.api import Accelerator, Problem, Severity
from lmi.devices.copies import Copies

_HINT = (
    "Give each model devices of its own, unless they have memory for both: in its entry of load_models "
    "(NAME:VERSION:ENGINE:DEVICES=URL), or with load_on_devices"
)


def shared_devices(named_copies: Mapping[str, Copies]) -> dict[str, list[Problem]]:
    """A warning for each model that may run on a device of an earlier one; on CPU there is nothing to share.

    Args:
        named_copies: the copies of every model of a server, by the model's name, in their order.
    Returns:
        For every name its warnings, none or one.
    """
    found: dict[str, list[Problem]] = {}
    taken: list[tuple[str, Accelerator, dict[str, None]]] = []
    for name, copies in named_copies.items():
        own = _devices(copies)
        kind = copies.accelerator
        shared = {
            earlier: [device for device in own if device in devices]
            for earlier, its_kind, devices in taken
            if its_kind is kind and not own.keys().isdisjoint(devices)
        }
        found[name] = [_warning(name, shared, kind)] if shared else []
        taken.append((name, kind, own))
    return found


def _devices(copies: Copies) -> dict[str, None]:
    """The devices of every copy that may run, in their order."""
    return {device: None for each in copies.slices[: copies.n_max] for device in each}


def _warning(name: str, shared: Mapping[str, list[str]], kind: Accelerator) -> Problem:
    # Of several earlier models, each device is named once.
    devices = ",".join(dict.fromkeys(device for each in shared.values() for device in each))
    others = " and ".join(f"'{each}'" for each in shared)
    take = f"model {others} takes" if len(shared) == 1 else f"models {others} take"
    return Problem(
        code="device.shared",
        message=f"model '{name}' takes {kind.value}:{devices}, which {take} too",
        hint=_HINT,
        severity=Severity.WARNING,
    )
