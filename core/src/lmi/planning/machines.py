# SPDX-License-Identifier: Apache-2.0
"""The machines that a model fits, the one with the least memory first."""

from __future__ import annotations

import msgspec

from lmi.api import BackendConfig, BackendInfo, ModelArtifacts
from lmi.planning.estimates import estimate
from lmi.planning.fit import Fit
from lmi.planning.instances import Instance, all_instances


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that a model fits.

    Args:
        instance: it.
        fit: at the smallest degree that fits.
        n_copies: copies of the model that it holds at that degree.
    """

    instance: Instance
    fit: Fit
    n_copies: int


def recommended(
    artifacts: ModelArtifacts,
    config: BackendConfig | None,
    info: BackendInfo,
    *,
    n_tokens: int = 0,
    concurrency: int = 1,
) -> list[Machine]:
    """Machines that hold a model, by the memory of all their devices, not by their price.

    Of machines with the same devices the one with the smallest host is named.

    Args:
        artifacts: the model; ``why_unknown`` has nothing against it.
        config: options of the backend; None takes what its description tells.
        info: the backend.
        n_tokens: of one sequence; 0 takes the longest that the configuration allows.
        concurrency: sequences that run at a time, over all copies.
    """
    found: dict[tuple[str, int], Machine] = {}
    by_size = sorted(all_instances(), key=lambda each: (each.total_memory_bytes, each.n_devices, each.n_vcpu))
    for instance in by_size:
        key = (instance.device, instance.n_devices)
        if key in found or not is_offered_on(info, instance):
            continue
        machine = _smallest(artifacts, config, info, instance, n_tokens, concurrency)
        if machine is not None:
            found[key] = machine
    return list(found.values())


def is_offered_on(info: BackendInfo, instance: Instance) -> bool:
    """Whether a backend runs on a machine's devices and is offered on its family."""
    return instance.accelerator in info.accelerators and (not info.instances or instance.family in info.instances)


def degrees_of(n_devices: int) -> list[int]:
    """The ways to split a machine into copies of equal size: the divisors of its devices."""
    return [degree for degree in range(1, n_devices + 1) if n_devices % degree == 0]


def _smallest(
    artifacts: ModelArtifacts,
    config: BackendConfig | None,
    info: BackendInfo,
    instance: Instance,
    n_tokens: int,
    concurrency: int,
) -> Machine | None:
    target = instance.target()
    for degree in degrees_of(instance.n_devices):
        fit = estimate(artifacts, config, info, target, degree=degree, is_here=False).fit
        n_copies = instance.n_devices // fit.degree
        n_sequences = fit.sequences_of(n_tokens or fit.max_model_len)
        if n_sequences and n_copies and n_sequences * n_copies >= concurrency:
            return Machine(instance=instance, fit=fit, n_copies=n_copies)
    return None
