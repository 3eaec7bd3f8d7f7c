# SPDX-License-Identifier: Apache-2.0
"""The spine: from what the user wrote to an engine that answers. Read this file first.

In the server, ``plan``: settings, artifacts, backend, typed configuration, checks; no weight is read and no device is
touched. In the worker, ``load_engine``: the one slow hook.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lmi.api import (
    ArtifactFormat,
    BackendConfig,
    BackendInfo,
    ConfigError,
    Engine,
    EngineLoadError,
    LmiError,
    ModelArtifacts,
    OutOfMemoryError,
    PluginError,
    Problem,
    Progress,
    Severity,
    Stepper,
    Target,
)
from lmi.api.errors import counted
from lmi.artifacts import check, detect, is_local, locate
from lmi.checking import certain_problems_told, found_problems, problems_of
from lmi.config import ModelOptions, Parsed, Settings, parse
from lmi.config.model_entries import ModelEntry
from lmi.config.properties import FILE_NAME
from lmi.config.settings import Setting, is_placeholder
from lmi.config.typed import config_error
from lmi.custom import options as custom_options
from lmi.custom.extension import ModelExtension
from lmi.custom.model_file import BESIDE, Found, Kind, ModelFile, find_model_file
from lmi.devices.copies import Copies, copies_of, copies_of_custom
from lmi.devices.degree import refusals_of, with_default_degree
from lmi.memory import too_little_memory
from lmi.plugins import Choice, Plugins
from lmi.plugins.fit import cannot_load_yet
from lmi.reading import DEFAULT_MODEL_FOLDER, Start, read_configuration


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Everything a worker needs to be started, checked.

    Args:
        name: of the model, in URLs.
        version: of the model, in URLs; empty where it has none.
        info: the backend.
        reason: why it was chosen.
        options: the core's options.
        config: the backend's options.
        artifacts: the model's files; ArtifactFormat.NONE for a backend that takes none.
        target: the machine.
        settings: where each value came from.
        copies: how many workers there are, and the devices of each.
        model_file: the model's own Python file, if it has one.
        extension: what of that file runs in the server.
        warnings: what the user should know; nothing here stops the start.
    """

    name: str
    version: str = ""
    info: BackendInfo
    reason: str
    options: ModelOptions
    config: BackendConfig
    artifacts: ModelArtifacts
    target: Target
    settings: Settings
    copies: Copies = field(default_factory=Copies)
    model_file: ModelFile | None = None
    extension: ModelExtension | None = None
    warnings: tuple[Problem, ...] = ()

    @property
    def serves_tasks(self) -> bool:
        """Whether requests reach the worker as they come, not as tokens."""
        return self.model_file is not None and self.model_file.kind is Kind.CUSTOM


def plan(
    entry: ModelEntry,
    *,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    plugins: Plugins,
    default_folder: Path = DEFAULT_MODEL_FOLDER,
    defaults: Sequence[Setting] = (),
    devices: str | None = None,
    weights: bool = True,
) -> LoadPlan:
    """Find out what to load and how, and everything that would go wrong. A model from the hub is fetched.

    Args:
        entry: what to load, and its name. Its URL is a folder, an object store's prefix, or ORG/NAME; None takes
            ``option.model_id``, else ``default_folder`` if there is anything in it, else nothing, for backends that
            need no model.
        flags: keys and values of ``-o key=value``.
        environ: environment variables.
        plugins: what is installed.
        default_folder: see ``entry``.
        defaults: what config.properties says of every model.
        devices: another machine than this one, as ``cuda:4``.
        weights: False leaves the weights of a model that is elsewhere where they are, and unchecked.
    Raises:
        ConfigError, ArtifactError: with every problem.
        PluginError: no backend, or not the wanted one, can be used.
    """
    written = read_configuration(
        entry, flags=flags, environ=environ, default_folder=default_folder, defaults=defaults, devices=devices
    )
    folder, settings, target = written.folder, written.settings, written.target
    warnings = plugins.extension_problems()
    found = find_model_file(folder, settings, environ)
    warnings += found.warnings
    if found.file is not None and found.file.kind is Kind.CUSTOM:
        return _custom_plan(entry, found, settings, folder, target, warnings, environ)
    given, settings = settings, found.settings

    # A model that is elsewhere is fetched only when the configuration holds, and its weights last.
    with certain_problems_told(settings, plugins):
        wanted = plugins.wanted(settings, target)
    is_remote = _is_remote(settings, folder, wanted)
    if wanted is not None and is_remote:
        _typed(plugins, wanted, settings)
    with certain_problems_told(settings, plugins):
        artifacts = find_artifacts(settings, folder, wanted, weights=not is_remote)
        choice = plugins.choose(settings, artifacts, target)
    refusals = refusals_of(plugins, choice.info, artifacts, target)
    settings = with_default_degree(settings, choice.info, target, refusals)
    try:
        parsed = _typed(plugins, choice, settings)
    except ConfigError as error:
        raise _joined(error, [] if is_remote else check(artifacts), artifacts) from error
    if is_remote and weights:
        artifacts = find_artifacts(settings, folder, wanted, weights=True)

    warnings += [*choice.warnings, *parsed.warnings]
    extension = ModelExtension(found.file) if found.file is not None and found.file.runs_in_server else None
    degree = parsed.config.tensor_parallel_degree
    copies = copies_of(settings, parsed.options, degree, choice.info, target, environ)
    warnings += found_problems(
        plugins, choice, artifacts, parsed.config, target, settings,
        [*copies.problems, *(check(artifacts) if weights or not is_remote else [])], extension,
    )  # fmt: skip
    return LoadPlan(
        name=entry.name, version=entry.version, info=choice.info, reason=choice.reason,
        options=copies.applied(parsed.options), config=parsed.config, artifacts=artifacts, target=target,
        settings=given, copies=copies, model_file=found.file, extension=extension, warnings=tuple(warnings),
    )  # fmt: skip


def plan_all(start: Start, plugins: Plugins) -> list[LoadPlan]:
    """The plans of every model that a server starts with.

    Raises:
        ConfigError, ArtifactError, PluginError: as ``plan`` does; where several models have problems, all of them.
    """
    plans, errors = [], {}
    for entry in start.entries:
        try:
            made = plan(
                entry, flags=start.flags, environ=start.environ, plugins=plugins, defaults=start.defaults,
                default_folder=start.default_folder,
            )  # fmt: skip
            _stop_before_loading(made, plugins)
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
    return plans


def _stop_before_loading(made: LoadPlan, plugins: Plugins) -> None:
    """Say at once what a worker would find out later.

    Raises:
        EngineLoadError: the backend cannot load models yet.
        ConfigError: there is less memory than the model is said to need.
    """
    if not made.info.is_loadable:
        raise cannot_load_yet(made.info, made.reason, made.artifacts, made.target, plugins.backends.values())
    problems = too_little_memory(made.options, made.settings, made.target)
    if problems:
        raise config_error(problems)


def _of_model(name: str, error: LmiError) -> list[Problem]:
    found = problems_of(error)
    return [msgspec.structs.replace(problem, message=f"model '{name}': {problem.message}") for problem in found]


def _custom_plan(
    entry: ModelEntry,
    found: Found,
    settings: Settings,
    folder: Path | None,
    target: Target,
    warnings: list[Problem],
    environ: Mapping[str, str],
) -> LoadPlan:
    """The plan of a model that is a Python file of its own; no backend is asked."""
    assert found.file is not None  # noqa: S101 - the caller looked
    file, parsed = custom_options.parse_custom(found.settings, found.file, folder, target)
    copies = copies_of_custom(settings, parsed.options, custom_options.INFO, target, environ)
    return LoadPlan(
        name=entry.name, version=entry.version, info=custom_options.INFO,
        reason=f"{file.name} has the function {file.function}",
        options=copies.applied(parsed.options), config=parsed.config, artifacts=ModelArtifacts(), target=target,
        settings=settings, copies=copies, model_file=file, warnings=(*warnings, *parsed.warnings, *copies.problems),
    )  # fmt: skip


def load_engine(
    plugins: Plugins, backend_name: str, artifacts: ModelArtifacts, options: dict[str, Any], progress: Progress
) -> Engine:
    """Load the model in this process. A stepper comes back inside the core's scheduler, as an engine.

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
    try:
        loaded = hooks.lmi_load_engine(artifacts=artifacts, config=config, progress=progress)
    except LmiError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(
            "engine.out-of-memory", f"{backend_name} ran out of host memory while loading"
        ) from error
    except Exception as error:
        absent = _absent_library(error, plugins.backends[backend_name])
        if absent:
            message = f"{backend_name} needs {absent}, which {sys.executable} does not have"
            raise EngineLoadError("engine.not-installed", message, plugins.backends[backend_name].install) from error
        what = artifacts.folder or "its engine"
        message = f"{backend_name} could not load {what}: {type(error).__name__}: {error}"
        raise EngineLoadError("engine.load-failed", message, "The traceback above names the line") from error
    if isinstance(loaded, Stepper):
        from lmi.scheduling.engine import StepperEngine

        return StepperEngine(loaded, artifacts.eos_token_ids, max_batch_size=config.max_rolling_batch_size)
    if isinstance(loaded, Engine):
        return loaded
    raise PluginError(
        "plugin.hook-failed", f"lmi_load_engine of {backend_name} gave {loaded!r}, neither an Engine nor a Stepper"
    )


def _absent_library(error: Exception, info: BackendInfo) -> str:
    """The engine library whose import failed, by its distribution's name; empty if it was something else."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    module = (error.name or "").partition(".")[0]
    names = [library.distribution for library in info.engine_libraries]
    return next((name for name in names if name.lower().replace("-", "_") == module.lower()), "")


def _takes_files(choice: Choice | None) -> bool:
    if choice is None or choice.info.needs_model:
        return True
    return any(each != ArtifactFormat.NONE.value for each in choice.info.artifact_formats)


def _is_remote(settings: Settings, folder: Path | None, wanted: Choice | None) -> bool:
    model_id = settings.text("option.model_id")
    return model_id is not None and _takes_files(wanted) and not is_local(model_id, folder)


def find_artifacts(settings: Settings, folder: Path | None, wanted: Choice | None, *, weights: bool) -> ModelArtifacts:
    """The model's files; none for a backend that takes none, or where nothing but configuration and code is there."""
    model_id = settings.text("option.model_id")
    if not _takes_files(wanted):
        return ModelArtifacts()
    if model_id is not None and is_placeholder(model_id):  # it is not looked for in a network
        raise config_error([each for each in settings.problems if each.severity is Severity.ERROR])
    found = locate(model_id, settings.text("option.revision"), folder, weights=weights)
    if found is None:
        return ModelArtifacts()
    visible = [path.name for path in found.iterdir() if not path.name.startswith(".")]
    is_bare = bool(visible) and BESIDE.union({FILE_NAME}).issuperset(visible)
    return ModelArtifacts() if model_id is None and is_bare else detect(found)


def _typed(plugins: Plugins, choice: Choice, settings: Settings) -> Parsed:
    types = plugins.config_types()
    return parse(settings, choice.info, types.pop(choice.info.name), types)


def _joined(error: ConfigError, file_problems: list[Problem], artifacts: ModelArtifacts) -> ConfigError:
    """A configuration's problems and its model's, in one message."""
    if not file_problems:
        return error
    found = counted(len(error.problems), "problem")
    message = f"{found} in the configuration and {len(file_problems)} in {artifacts.folder}"
    return ConfigError(error.code, f"{message}; nothing was loaded", [*error.problems, *file_problems])
