# SPDX-License-Identifier: Apache-2.0
"""The spine: from what the user wrote to an engine that answers. Read this file first.

In the server, ``plan``: settings, artifacts, backend, typed configuration, checks; no weight is read and no device is
touched. In the worker, ``load_engine``: the one slow hook.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from lmi.api import (
    Answerer,
    ArtifactError,
    BackendConfig,
    BackendInfo,
    Capability,
    ConfigError,
    Engine,
    EngineLoadError,
    Launch,
    LmiError,
    ModelArtifacts,
    OutOfMemoryError,
    PluginError,
    Problem,
    Progress,
    Stepper,
    StepsAdapters,
    Target,
    Task,
    refuse_engine,
    task_of,
)
from lmi.api.errors import counted
from lmi.artifacts import check
from lmi.artifacts.lora import lora_problems
from lmi.artifacts.places.files import ModelFiles
from lmi.checking import found_problems
from lmi.compiling.judging import build_problems
from lmi.config import ModelOptions, Settings
from lmi.config.batching import turned_off_by
from lmi.config.model_entries import ModelEntry
from lmi.config.settings import Setting
from lmi.custom.extension import ModelExtension
from lmi.custom.model_file import Kind, ModelFile, uncalled_problems
from lmi.custom.secure_mode import secure_problems
from lmi.devices.copies import Copies
from lmi.further import FurtherModels, further_models
from lmi.plugins import Plugins
from lmi.plugins.libraries import library_problems
from lmi.reading import DEFAULT_MODEL_FOLDER
from lmi.requirements import requirement_problems
from lmi.resolution import Resolution, resolve
from lmi.serving.chat_checks import template_problems
from lmi.serving.chat_files import OPTION


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Everything a worker needs to be started, checked.

    Args:
        name: of the model, in URLs.
        url: where it is, as it was given; empty where nobody said.
        version: of the model, in URLs; empty where it has none.
        info: the backend.
        reason: why it was chosen.
        options: the core's options.
        config: the backend's options.
        artifacts: what the model's files are; ArtifactFormat.NONE for a backend that takes none.
        files: where they are; None where there are none.
        further_files: where the models are that options name, by the option's field; they are in
            ``artifacts.further``.
        folder: the one that may hold serving.properties and code; None where there is none.
        task: what the model is served for.
        target: the machine.
        settings: where each value came from.
        copies: how many workers there are, and the devices of each.
        model_file: the model's own Python file, if it has one.
        extension: what of that file runs in the server.
        warnings: what the user should know; nothing here stops the start.
    """

    name: str
    url: str = ""
    version: str = ""
    info: BackendInfo
    reason: str
    options: ModelOptions
    config: BackendConfig
    artifacts: ModelArtifacts
    files: ModelFiles | None
    further_files: Mapping[str, ModelFiles] = field(default_factory=dict)
    folder: Path | None = None
    task: Task = Task.GENERATE
    target: Target
    settings: Settings
    copies: Copies = field(default_factory=Copies)
    model_file: ModelFile | None = None
    extension: ModelExtension | None = None
    warnings: tuple[Problem, ...] = ()

    @property
    def is_custom(self) -> bool:
        """Whether a function of the model's own Python file answers."""
        return self.model_file is not None and self.model_file.kind is Kind.CUSTOM

    @property
    def serves_whole_requests(self) -> bool:
        """Whether requests reach the worker as they come, not as tokens."""
        return self.is_custom or self.task.takes_whole_requests

    @property
    def is_batched(self) -> bool:
        """Whether continuous batching is off, as the settings say."""
        return not self.serves_whole_requests and turned_off_by(self.settings, self.info) is not None

    @property
    def gathered(self) -> tuple[int, float]:
        """How many requests wait for each other to go to the engine together, and for how many seconds at most."""
        options = self.options
        return (options.batch_size, options.max_batch_delay / 1000) if self.is_batched else (1, 0.0)


def ranks_to_start(made: LoadPlan) -> int:
    """Processes that the core starts for one copy of a plan's model, where that is more than one; else 1."""
    is_ranked = made.info.launch is Launch.CORE_MPI and not made.is_custom
    return made.config.tensor_parallel_degree if is_ranked else 1


def plan(
    entry: ModelEntry,
    *,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    plugins: Plugins,
    default_folder: Path = DEFAULT_MODEL_FOLDER,
    defaults: Sequence[Setting] = (),
    devices: str | Target | None = None,
    progress: Progress | None = None,
) -> LoadPlan:
    """Find out what to load and how, and everything that would go wrong. A model from the hub is fetched.

    Args:
        entry, flags, environ, plugins, default_folder, defaults, devices, progress: as ``resolve`` has them.
    Raises:
        ConfigError, ArtifactError: with every problem.
        PluginError: no backend, or not the wanted one, can be used.
    """
    found = resolve(
        entry, flags=flags, environ=environ, plugins=plugins, default_folder=default_folder, defaults=defaults,
        devices=devices, progress=progress,
    )  # fmt: skip
    return plan_of(found, plugins)


def plan_of(found: Resolution, plugins: Plugins) -> LoadPlan:
    """The plan of a configuration that was resolved with its files.

    Args:
        found: the configuration.
        plugins: what is installed.
    Raises:
        ConfigError, ArtifactError, PluginError: as ``plan`` does.
    """
    warnings = plugins.extension_problems()
    if found.failure is not None:
        raise _joined(found)
    warnings += found.problems
    choice, parsed, file = found.choice, found.parsed, found.model_file
    assert choice is not None and parsed is not None  # noqa: S101 - nothing failed
    artifacts, is_seen = found.artifacts or ModelArtifacts(), found.artifacts is not None
    extension, further = None, FurtherModels()
    task = task_of(artifacts, parsed.options.task)
    known = secure_problems(artifacts, found.folder, found.given, found.environ) + uncalled_problems(file, task)
    if is_seen and (file is None or file.kind is not Kind.CUSTOM):
        extension = ModelExtension(file) if file is not None and file.runs_in_server else None
        further = further_models(
            parsed.config, found.settings, found.folder, environ=found.environ, progress=found.progress
        )
        artifacts = msgspec.structs.replace(artifacts, further=dict(further.artifacts))
        known += [*found.copies.problems, *check(artifacts, found.files), *further.problems]
        if Capability.ADAPTERS in choice.info.capabilities and parsed.config.serves_adapters:
            known += lora_problems(artifacts, found.files)
        is_seen_here = found.is_here and parsed.options.python_executable is None
        known += build_problems(artifacts, choice.info, parsed.config, is_seen=is_seen_here)
        known += requirement_problems(artifacts, found.folder, parsed.options)
        if task is Task.GENERATE:
            option, setting = parsed.options.chat_template, found.settings.get(OPTION)
            known += template_problems(artifacts, found.files, option=option, setting=setting, folder=found.folder)
        known = found_problems(
            plugins, choice, artifacts, parsed.config, found.target, found.settings, known, extension,
            is_here=found.is_here,
        )  # fmt: skip
        warnings += [problem for problem in known if problem not in found.problems]
    elif known:
        raise ArtifactError("artifacts.invalid", f"{counted(len(known), 'problem')}; nothing was loaded", known)
    return LoadPlan(
        name=found.entry.name, url=found.entry.url or parsed.options.model_id or str(found.folder or ""),
        version=found.entry.version, info=choice.info, reason=choice.reason,
        options=found.copies.applied(parsed.options), config=parsed.config, artifacts=artifacts, files=found.files,
        further_files=further.places,
        folder=found.folder, task=task, target=found.target, settings=found.given,
        copies=found.copies, model_file=file, extension=extension, warnings=tuple(warnings),
    )  # fmt: skip


def load_engine(
    plugins: Plugins, backend_name: str, artifacts: ModelArtifacts, options: dict[str, Any], progress: Progress
) -> Engine:
    """Load the model in this process. A stepper comes back inside the core's scheduler, as an engine; an answerer, too.

    Args:
        plugins, backend_name, artifacts, options, progress: as ``load_backend`` has them.
    Raises:
        EngineLoadError, OutOfMemoryError, PluginError: as ``load_backend`` does.
    """
    loaded = load_backend(plugins, backend_name, artifacts, options, progress)
    if isinstance(loaded, Answerer):
        from lmi.scheduling.answering import engine_of

        return engine_of(loaded)
    return scheduled(plugins, backend_name, loaded, artifacts, options) if isinstance(loaded, Stepper) else loaded


def load_backend(
    plugins: Plugins, backend_name: str, artifacts: ModelArtifacts, options: dict[str, Any], progress: Progress
) -> Engine | Stepper | Answerer:
    """Load the model in this process, as the backend gives it.

    Args:
        plugins: what this process has discovered.
        backend_name: of ``LoadPlan.info``.
        artifacts: of the plan.
        options: plain values of the plan's config, as ``config.model_dump(mode="json")`` gives them.
        progress: told how far the loading is.
    Raises:
        EngineLoadError, OutOfMemoryError: with the cause.
        PluginError: the backend is not usable in this process.
    """
    hooks = plugins.hooks(backend_name)
    config = plugins.config_type(backend_name).model_validate(options)
    info = plugins.backends[backend_name]
    refuse_engine(backend_name, library_problems(info))
    with told_by_hook(info, artifacts, "load"):
        loaded = hooks.lmi_load_engine(artifacts=artifacts, config=config, progress=progress)
    if isinstance(loaded, Engine | Stepper | Answerer):
        return loaded
    raise PluginError(
        "plugin.hook-failed",
        f"lmi_load_engine of {backend_name} gave {loaded!r}, neither an Engine nor a Stepper nor an Answerer",
    )


@contextlib.contextmanager
def told_by_hook(info: BackendInfo, artifacts: ModelArtifacts, what: Literal["load", "build"]) -> Iterator[None]:
    """Whatever a backend's slow hook raises, as an error that can be told.

    Args:
        info: the backend.
        artifacts: the model.
        what: the hook does with it.
    Raises:
        LmiError: what the hook raised, or what it comes to.
    """
    try:
        yield
    except LmiError:
        raise
    except MemoryError as error:
        message = f"{info.name} ran out of host memory while {what}ing"
        raise OutOfMemoryError("engine.out-of-memory", message) from error
    except Exception as error:
        absent = _absent_library(error, info)
        if absent:
            message = f"{info.name} needs {absent}, which {sys.executable} does not have"
            raise EngineLoadError("engine.not-installed", message, info.install) from error
        message = f"{info.name} could not {what} {artifacts.folder or 'its engine'}: {type(error).__name__}: {error}"
        raise EngineLoadError("engine.load-failed", message, "The traceback above names the line") from error


def scheduled(
    plugins: Plugins, backend_name: str, stepper: Stepper, artifacts: ModelArtifacts, options: dict[str, Any]
) -> Engine:
    """A stepper inside the core's scheduler.

    Args:
        plugins, backend_name, artifacts, options: as ``load_backend`` has them.
        stepper: what it gave, or what stands for it.
    """
    from lmi.scheduling.adapters import AdapterStepperEngine
    from lmi.scheduling.engine import StepperEngine

    config = plugins.config_type(backend_name).model_validate(options)

    def read_tokenizer() -> str:
        from lmi.serving.tokenizer import definition_of

        # What the server converted is kept, and found again.
        return definition_of(artifacts, trust_remote_code=config.trust_remote_code)

    engine = AdapterStepperEngine if isinstance(stepper, StepsAdapters) else StepperEngine
    return engine(
        stepper,
        artifacts.eos_token_ids,
        max_batch_size=config.max_rolling_batch_size,
        read_tokenizer=read_tokenizer,
    )


def _absent_library(error: Exception, info: BackendInfo) -> str:
    """The engine library whose import failed, by its distribution's name; empty if it was something else."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    module = (error.name or "").partition(".")[0]
    names = [library.distribution for library in info.engine_libraries]
    return next((name for name in names if name.lower().replace("-", "_") == module.lower()), "")


def _joined(found: Resolution) -> LmiError:
    """What stopped a configuration, with what is wrong with the model's files."""
    error, artifacts = found.failure, found.artifacts
    assert error is not None  # noqa: S101 - the caller looked
    file_problems = check(artifacts, found.files) if artifacts is not None else []
    if not file_problems or artifacts is None or not isinstance(error, ConfigError):
        return error
    counted_errors = counted(len(error.problems), "problem")
    message = f"{counted_errors} in the configuration and {len(file_problems)} in {artifacts.folder}"
    return ConfigError(error.code, f"{message}; nothing was loaded", [*error.problems, *file_problems])
