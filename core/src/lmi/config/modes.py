# SPDX-License-Identifier: Apache-2.0
"""How a worker is asked to run: ``engine=Python``, or ``engine=MPI`` and ``mpi_mode=true``."""

from __future__ import annotations

from lmi.config.coerce import is_true
from lmi.config.settings import Setting, Settings

PYTHON = "python"
MPI = "mpi"
ENGINE_MODES = (PYTHON, MPI)
"""Values of ``engine``, in lower case, that say how a worker runs and name no backend."""


def deciding(settings: Settings) -> Setting | None:
    """The setting that says how a worker runs: ``mpi_mode`` if it is true, else ``engine``; None for neither."""
    mpi_mode = settings.get("option.mpi_mode")
    if mpi_mode is not None and is_true(mpi_mode.value):
        return mpi_mode
    return settings.get("engine")


def mode_of(settings: Settings) -> str | None:
    """``python`` or ``mpi`` where one of them is asked for; None where the backend may choose."""
    said = deciding(settings)
    if said is None:
        return None
    if said.key == "engine":
        return said.value.lower() if said.value.lower() in ENGINE_MODES else None
    return MPI
