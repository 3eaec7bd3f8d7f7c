# SPDX-License-Identifier: Apache-2.0
"""What a server starts with: every model planned, refused if it cannot be loaded, and only then fetched."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from lmi.api import ArtifactError, ConfigError, LmiError, Problem, Progress, Severity
from lmi.api.errors import counted
from lmi.artifacts import check, detect, wanted_files
from lmi.artifacts.places.finding import fetched
from lmi.checking import problems_of
from lmi.config.typed import config_error
from lmi.devices.sharing import shared_devices
from lmi.further import with_fetched
from lmi.loading import LoadPlan, plan, ranks_to_start
from lmi.memory import too_little_memory
from lmi.plugins import Plugins
from lmi.plugins.fit import cannot_load_yet
from lmi.reading import Start
from lmi.requirements import install, requirement_files
from lmi.workers.mpi.launch import mpirun_of


class ProgressOfModels(Protocol):
    """Told how far the work for one of several models is, as ``Progress`` is."""

    def __call__(self, model: str, stage: str, fraction: float | None = None) -> None: ...


def plan_all(start: Start, plugins: Plugins, progress: ProgressOfModels) -> list[LoadPlan]:
    """The plans of every model that a server starts with, and their files on this machine.

    Nothing is fetched before everything is known to be right, as far as listings and headers tell.

    Args:
        start: what to serve.
        plugins: what is installed.
        progress: told how far the fetching is.
    Raises:
        ConfigError, ArtifactError, PluginError: as ``plan`` does; where several models have problems, all of them.
    """
    plans, errors = [], {}
    for entry in start.entries:
        try:
            made = plan(
                entry, flags=start.flags, environ=start.environ, plugins=plugins, defaults=start.defaults,
                default_folder=start.default_folder, progress=partial(progress, entry.name),
            )  # fmt: skip
            refuse_start(made, plugins)
            plans.append(made)
        except LmiError as error:
            errors[entry.name] = error
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        raise ConfigError(
            "config.invalid",
            f"{len(errors)} of {len(start.entries)} models cannot be loaded; nothing was loaded",
            [each for name, error in errors.items() for each in _of_model(name, error)],
        )
    shared = shared_devices({made.name: made.copies for made in plans})
    plans = [replace(made, warnings=(*made.warnings, *shared[made.name])) for made in plans]
    brought = [bring_here(made, start.environ, partial(progress, made.name)) for made in plans]
    for made in brought:
        install_requirements(made, start.environ, partial(progress, made.name))
    return brought


def bring_here(made: LoadPlan, environ: Mapping[str, str], progress: Progress) -> LoadPlan:
    """The plan with the files of its models on this machine, fetched if they are elsewhere and then judged once more.

    Args:
        made: the plan.
        environ: says where the cache is.
        progress: told how far the fetching is.
    Raises:
        ArtifactError: they cannot be had, or are not what was listed.
    """
    files, artifacts = made.files, made.artifacts
    if files is not None and not files.is_here:
        artifacts = detect(fetched(files, wanted_files(made.artifacts), environ=environ, progress=progress))
        errors = [problem for problem in check(artifacts) if problem.severity is Severity.ERROR]
        if errors:
            found = f"{counted(len(errors), 'problem')} in {artifacts.folder}, fetched from {files.place}"
            raise ArtifactError("artifacts.invalid", f"{found}; nothing was loaded", errors)
        artifacts = msgspec.structs.replace(artifacts, further=made.artifacts.further)
    return replace(made, artifacts=with_fetched(artifacts, made.further_files, environ, progress))


def install_requirements(made: LoadPlan, environ: Mapping[str, str], progress: Progress) -> None:
    """Install what the model's requirements.txt asks for, into the Python of its workers, where the user wants that.

    Args:
        made: the plan of a model that is here.
        environ: of this process; the model's own variables come on top.
        progress: told that it goes on.
    Raises:
        ArtifactError: it could not be installed.
    """
    options = made.options
    if not options.install_requirements:
        return
    folder = made.folder if made.folder is not None or made.model_file is None else Path(made.model_file.path).parent
    for file in requirement_files(made.artifacts, folder):
        install(
            Path(file), options.python_executable or sys.executable, {**environ, **options.env}, progress,
            timeout_s=options.model_loading_timeout,
        )  # fmt: skip


def refuse_start(made: LoadPlan, plugins: Plugins, *, is_here: bool = True) -> None:
    """Say at once what a worker would find out later.

    Args:
        made: the plan.
        plugins: what is installed.
        is_here: whether the plan is for this machine, whose free memory counts.
    Raises:
        EngineLoadError: the backend cannot load models yet, or there is nothing to start its ranks with.
        ConfigError: there is less memory than the model is said to need.
    """
    if not made.info.is_loadable:
        raise cannot_load_yet(made.info, made.reason, made.artifacts, made.target, plugins.backends.values())
    if is_here and (n_ranks := ranks_to_start(made)) > 1:
        mpirun_of(made.options.python_executable or sys.executable, n_ranks, {**os.environ, **made.options.env})
    problems = too_little_memory(made.options, made.settings, made.target) if is_here else []
    if problems:
        raise config_error(problems)


def _of_model(name: str, error: LmiError) -> list[Problem]:
    found = problems_of(error)
    return [msgspec.structs.replace(problem, message=f"model '{name}': {problem.message}") for problem in found]
