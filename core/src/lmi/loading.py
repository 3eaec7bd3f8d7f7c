# SPDX-License-Identifier: Apache-2.0
"""The spine: from what the user wrote to an engine that answers. Read this file first.

In the server, ``plan``: settings, artifacts, backend, typed configuration, checks; no weight is read and no device is
touched. In the worker, ``load_engine``: the one slow hook.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmi.api import (
    ArtifactError,
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
from lmi.artifacts import check, detect, is_local, locate, model_root
from lmi.config import ModelOptions, Parsed, Settings, parse, read_settings
from lmi.config.properties import FILE_NAME
from lmi.custom import options as custom_options
from lmi.custom.extension import ModelExtension
from lmi.custom.model_file import BESIDE, Found, Kind, ModelFile, find_model_file
from lmi.plugins import Choice, Plugins
from lmi.plugins.choice import misfits, no_model
from lmi.target import detect_target, parse_devices, too_few_devices, with_devices

DEFAULT_MODEL_FOLDER = Path("/opt/ml/model")
"""Where a container finds its model. Source: the SageMaker container contract."""


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Everything a worker needs to be started, checked.

    Args:
        name: of the model, in URLs.
        info: the backend.
        reason: why it was chosen.
        options: the core's options.
        config: the backend's options.
        artifacts: the model's files; ArtifactFormat.NONE for a backend that takes none.
        target: the machine.
        settings: where each value came from.
        model_file: the model's own Python file, if it has one.
        extension: what of that file runs in the server.
        warnings: what the user should know; nothing here stops the start.
    """

    name: str
    info: BackendInfo
    reason: str
    options: ModelOptions
    config: BackendConfig
    artifacts: ModelArtifacts
    target: Target
    settings: Settings
    model_file: ModelFile | None = None
    extension: ModelExtension | None = None
    warnings: tuple[Problem, ...] = ()

    @property
    def serves_tasks(self) -> bool:
        """Whether requests reach the worker as they come, not as tokens."""
        return self.model_file is not None and self.model_file.kind is Kind.CUSTOM


def plan(
    model: str | None,
    *,
    name: str = "model",
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    plugins: Plugins,
    default_folder: Path = DEFAULT_MODEL_FOLDER,
) -> LoadPlan:
    """Find out what to load and how, and everything that would go wrong. A model from the hub is fetched.

    Args:
        model: a folder, or ORG/NAME; None takes ``option.model_id``, else ``default_folder`` if there is anything in
            it, else nothing, for backends that need no model.
        name: of the model, in URLs.
        flags: keys and values of ``-o key=value``.
        environ: environment variables.
        plugins: what is installed.
        default_folder: see ``model``.
    Raises:
        ConfigError, ArtifactError: with every problem.
        PluginError: no backend, or not the wanted one, can be used.
    """
    folder, settings, target = read_configuration(model, flags=flags, environ=environ, default_folder=default_folder)
    warnings = plugins.extension_problems()
    found = find_model_file(folder, settings, environ)
    warnings += found.warnings
    if found.file is not None and found.file.kind is Kind.CUSTOM:
        return _custom_plan(name, found, settings, folder, target, warnings)
    given, settings = settings, found.settings

    # A model that is elsewhere is fetched only when the configuration holds, and its weights last.
    wanted = plugins.wanted(settings, target)
    is_remote = _is_remote(settings, folder, wanted)
    if wanted is not None and is_remote:
        _typed(plugins, wanted, settings)
    artifacts = find_artifacts(settings, folder, wanted, weights=not is_remote)
    choice = plugins.choose(settings, artifacts, target)
    try:
        parsed = _typed(plugins, choice, settings)
    except ConfigError as error:
        raise _joined(error, [] if is_remote else check(artifacts), artifacts) from error
    if is_remote:
        artifacts = find_artifacts(settings, folder, wanted, weights=True)

    warnings += [*choice.warnings, *parsed.warnings]
    extension = ModelExtension(found.file) if found.file is not None and found.file.runs_in_server else None
    warnings += _checked(plugins, choice, artifacts, parsed.config, target, settings, extension)
    return LoadPlan(
        name=name, info=choice.info, reason=choice.reason, options=parsed.options, config=parsed.config,
        artifacts=artifacts, target=target, settings=given, model_file=found.file, extension=extension,
        warnings=tuple(warnings),
    )  # fmt: skip


def _custom_plan(
    name: str,
    found: Found,
    settings: Settings,
    folder: Path | None,
    target: Target,
    warnings: list[Problem],
) -> LoadPlan:
    """The plan of a model that is a Python file of its own; no backend is asked."""
    assert found.file is not None  # noqa: S101 - the caller looked
    file, parsed = custom_options.parse_custom(found.settings, found.file, folder, target)
    return LoadPlan(
        name=name, info=custom_options.INFO, reason=f"{file.name} has the function {file.function}",
        options=parsed.options, config=parsed.config, artifacts=ModelArtifacts(), target=target, settings=settings,
        model_file=file, warnings=(*warnings, *parsed.warnings),
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


def read_configuration(
    model: str | None,
    *,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    default_folder: Path,
    devices: str | None = None,
) -> tuple[Path | None, Settings, Target]:
    """The folder that may hold serving.properties, every setting, and the machine they are for.

    Args:
        model, flags, environ, default_folder: as ``plan`` has them.
        devices: another machine than this one, as ``cuda:4``.
    Raises:
        ConfigError: ``devices`` is no machine.
    """
    folder = _model_folder(model, default_folder)
    model_id = model if folder is None else None
    settings = read_settings(model_folder=folder, environ=environ, flags=flags, model=model_id)
    target = parse_devices(devices) if devices else detect_target(environ, settings.text("option.device"))
    return folder, with_devices(settings, target), target


def _model_folder(model: str | None, default_folder: Path) -> Path | None:
    """The folder that may hold serving.properties."""
    if model is not None:
        return model_root(Path(model)) if Path(model).is_dir() else None
    is_filled = default_folder.is_dir() and any(not path.name.startswith(".") for path in default_folder.iterdir())
    return model_root(default_folder) if is_filled else None


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
    found = locate(model_id, settings.text("option.revision"), folder, weights=weights)
    if found is None:
        return ModelArtifacts()
    visible = [path.name for path in found.iterdir() if not path.name.startswith(".")]
    is_bare = bool(visible) and BESIDE.union({FILE_NAME}).issuperset(visible)
    return ModelArtifacts() if model_id is None and is_bare else detect(found)


def _typed(plugins: Plugins, choice: Choice, settings: Settings) -> Parsed:
    types = plugins.config_types()
    return parse(settings, choice.info, types.pop(choice.info.name), types)


def _checked(
    plugins: Plugins,
    choice: Choice,
    artifacts: ModelArtifacts,
    config: BackendConfig,
    target: Target,
    settings: Settings,
    extension: ModelExtension | None,
) -> list[Problem]:
    """Everything known to be doubtful, found without reading a weight.

    Raises:
        ConfigError: the backend needs a model and there is none.
        ArtifactError: something would stop the model.
    """
    if choice.info.needs_model and artifacts.format is ArtifactFormat.NONE:
        raise no_model(f"{choice.info.name} needs a model and none was given")
    problems = _device_problems(choice, artifacts, target, settings) + check(artifacts)
    problems += _validated(plugins, choice, artifacts, config, target)
    if extension is not None:
        problems += extension.validate(artifacts, config, target)
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors:
        where = f" in {artifacts.folder}" if artifacts.folder else ""
        raise ArtifactError("artifacts.invalid", f"{_counted(errors)}{where}; nothing was loaded", errors)
    return problems


def _device_problems(choice: Choice, artifacts: ModelArtifacts, target: Target, settings: Settings) -> list[Problem]:
    """What the backend's own description says against this machine and these files."""
    device = settings.get("option.device")
    if target.n_devices == 0 and device is not None:
        return [
            Problem(
                code="device.missing",
                message=f"option.device={device.value}, but this machine has no such device",
                hint="Take the option out, or start on a machine that has one",
                source=device.source,
            )
        ]
    return too_few_devices(settings, target) + [
        Problem(code="backend.misfit", message=f"{choice.info.name} {reason}", hint="Choose another backend")
        for reason in misfits(choice.info, artifacts, target, architectures=False)
    ]


def _validated(
    plugins: Plugins, choice: Choice, artifacts: ModelArtifacts, config: BackendConfig, target: Target
) -> list[Problem]:
    """What the backend and the extensions find wrong."""
    try:
        answers = plugins.hooks(choice.info.name).lmi_validate_artifacts(
            artifacts=artifacts, config=config, target=target
        )
    except Exception as error:
        message = f"lmi_validate_artifacts failed for {choice.info.name}: {type(error).__name__}: {error}"
        raise PluginError("plugin.hook-failed", message, "This is a fault of the plugin, not of the model") from error
    return [problem for answer in answers for problem in answer]


def _joined(error: ConfigError, file_problems: list[Problem], artifacts: ModelArtifacts) -> ConfigError:
    """A configuration's problems and its model's, in one message."""
    if not file_problems:
        return error
    message = f"{_counted(error.problems)} in the configuration and {len(file_problems)} in {artifacts.folder}"
    return ConfigError(error.code, f"{message}; nothing was loaded", [*error.problems, *file_problems])


def _counted(problems: Sequence[Problem]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
