# SPDX-License-Identifier: Apache-2.0
"""Whether there is room for one more model beside those that a server has."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from lmi.api import Accelerator
from lmi.api.errors import OutOfMemoryError
from lmi.devices.cuda import free_bytes_of
from lmi.loading import LoadPlan
from lmi.memory import MB
from lmi.planning.estimates import estimate, why_unknown
from lmi.planning.units import shown_bytes
from lmi.planning.weights import stored_bytes

_ROUGHLY = 1.2
"""Memory of a model whose sizes are not known, as a multiple of its files. Source: DJL Serving, for SageMaker's
multi-model endpoints."""


def refuse_without_room(made: LoadPlan, coming: Sequence[LoadPlan] = (), *, free_bytes: int | None = None) -> None:
    """Refuse a model that does not fit beside the others, before anything of it is loaded.

    What is loaded already has taken its memory; of what is being loaded, all that it will take is counted.

    Args:
        made: the plan of the model.
        coming: plans of the models that are being loaded.
        free_bytes: free memory of each device, or of the host on a CPU; None looks.
    Raises:
        OutOfMemoryError: with both numbers.
    """
    needed = needed_bytes(made)
    free = _free_bytes(made) if free_bytes is None else free_bytes
    if not needed or free is None:
        return
    spoken_for = sum(needed_bytes(each) for each in coming if _share_memory(each, made))
    reserved = made.options.reserved_memory_mb * MB if _is_on_cpu(made) else 0
    if needed + spoken_for + reserved > free:
        parts = [f"model {made.name!r} takes about {shown_bytes(needed)}", f"{shown_bytes(free)} are free"]
        if spoken_for:
            parts.append(f"{shown_bytes(spoken_for)} of it for models that are being loaded")
        if reserved:
            parts.append(f"reserved_memory_mb keeps {shown_bytes(reserved)}")
        raise OutOfMemoryError("model.no-room", "; ".join(parts), "Unload another model first (DELETE /models/NAME)")


def needed_bytes(made: LoadPlan) -> int:
    """What a model takes before the first token: one copy of a device, all copies of the host on a CPU; 0 where nobody
    knows."""
    n_copies = made.options.min_workers if _is_on_cpu(made) else 1
    if why_unknown(made.artifacts):
        return round(_ROUGHLY * stored_bytes(made.artifacts)) * n_copies
    fit = estimate(made.artifacts, made.config, made.info, made.target).fit
    return (fit.weight_bytes + fit.activation_bytes + fit.overhead_bytes) * n_copies


def _free_bytes(made: LoadPlan) -> int | None:
    """Of the fullest device, or of the host on a CPU; None where that is not known."""
    if _is_on_cpu(made):
        return int(psutil.virtual_memory().available)
    if made.target.accelerator is not Accelerator.CUDA:
        return None
    return min(free_bytes_of(_devices(made)), default=None)


def _devices(made: LoadPlan) -> list[str]:
    """Those of all copies that are started, each once."""
    slices = (made.copies.slice_of(index) for index in range(made.options.min_workers))
    return list(dict.fromkeys(device for each in slices for device in each))


def _is_on_cpu(made: LoadPlan) -> bool:
    return made.target.accelerator is Accelerator.CPU


def _share_memory(one: LoadPlan, other: LoadPlan) -> bool:
    """Whether two models take memory of the same device, or both of the host."""
    if one.target.accelerator is not other.target.accelerator:
        return False
    return _is_on_cpu(one) or not set(_devices(one)).isdisjoint(_devices(other))
