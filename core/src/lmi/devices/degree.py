# SPDX-License-Identifier: Apache-2.0
"""How many devices one copy of a model takes where nothing says so."""

from __future__ import annotations

from collections.abc import Callable, Set

from lmi.api import Accelerator, BackendInfo, ConfigError, Launch, ModelArtifacts, Severity, Target
from lmi.api.errors import counted
from lmi.config import parse
from lmi.config.modes import MPI, PYTHON, mode_of
from lmi.config.settings import Setting, Settings
from lmi.plugins import Plugins
from lmi.target import DEGREE, devices_of, n_stages_of

_MOST = "default: the most that goes, of"

Refusals = Callable[[Settings], Set[str]]
"""Everything that speaks against these settings: of the configuration and of the model."""


def is_mpi(settings: Settings, info: BackendInfo) -> bool:
    """Whether a copy has one process a rank: ``engine=MPI``, ``mpi_mode=true``, or a backend that always does."""
    return mode_of(settings) == MPI or info.launch is Launch.CORE_MPI


def with_default_degree(settings: Settings, info: BackendInfo, target: Target, refusals: Refusals) -> Settings:
    """The settings with the degree that holds when nobody sets one.

    It is all devices under MPI and where no ``engine`` is given, and 1 for ``engine=Python``; on Neuron 1 wherever an
    engine is given. Where the model or another option does not go with all devices, it is the largest divisor of them
    that they do go with: a default never stops a start, and no device is left over. Where 1 is the default anyway,
    nothing is added.

    Args:
        settings: of the model.
        info: the chosen backend.
        target: the machine.
        refusals: judges settings with a degree in them.
    """
    if settings.get(DEGREE) is not None or not _is_max(settings, info, target):
        return settings
    n_devices = max(1, target.n_devices // n_stages_of(settings))
    unavoidable = refusals(_with(settings, 1, "default"))
    for degree in (each for each in range(n_devices, 1, -1) if n_devices % each == 0):
        source = "default: max of" if degree == n_devices else _MOST
        wanted = _with(settings, degree, f"{source} {counted(n_devices, 'device')}")
        if refusals(wanted) <= unavoidable:
            return wanted
    # A degree under another of its names is one that somebody set, which a 1 here would contradict.
    is_free = unavoidable <= refusals(settings)
    return _with(settings, 1, f"{_MOST} {counted(n_devices, 'device')}") if is_free else settings


def refusals_of(plugins: Plugins, info: BackendInfo, artifacts: ModelArtifacts | None, target: Target) -> Refusals:
    """What the backend says against settings: its options alone, and with a model where there is one."""

    def refusals(settings: Settings) -> Set[str]:
        types = plugins.config_types()
        try:
            config = parse(settings, info, types.pop(info.name), types).config
        except ConfigError as error:
            return {problem.message for problem in error.problems}
        if artifacts is None:
            return set()
        try:
            answers = plugins.hooks(info.name).lmi_validate_artifacts(artifacts=artifacts, config=config, target=target)
        except Exception as error:  # reported when it is asked in earnest
            return {str(error)}
        problems = [problem for answer in answers for problem in answer]
        return {problem.message for problem in problems if problem.severity is Severity.ERROR}

    return refusals


def _is_max(settings: Settings, info: BackendInfo, target: Target) -> bool:
    if target.accelerator is Accelerator.CPU or target.n_devices < 2 or target.accelerator not in info.accelerators:
        return False
    if any(device.upper().startswith("MIG-") for device in devices_of(target)):
        return False  # a process sees one part of a GPU, never two
    if target.accelerator is Accelerator.NEURON:
        return "engine" not in settings
    return mode_of(settings) != PYTHON or is_mpi(settings, info)


def _with(settings: Settings, degree: int, source: str) -> Settings:
    return settings.replaced(Setting(DEGREE, str(degree), source))
