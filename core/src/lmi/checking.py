# SPDX-License-Identifier: Apache-2.0
"""What would stop a model whose configuration holds: its files, its machine, its backend; no weight is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import msgspec

from lmi.api import (
    ArtifactError,
    ArtifactFormat,
    BackendConfig,
    BackendInfo,
    LmiError,
    ModelArtifacts,
    PluginError,
    Problem,
    ProblemsError,
    Severity,
    Target,
)
from lmi.api.errors import counted
from lmi.config import ModelOptions, Settings
from lmi.config.strangers import certain
from lmi.config.typed import config_error, sources_of
from lmi.custom.extension import ModelExtension
from lmi.devices.fitting import device_problems
from lmi.devices.hostfile import over_machines
from lmi.planning.problems import memory_problems
from lmi.planning.ranking import instance_problems
from lmi.plugins import Choice, Plugins
from lmi.plugins.choice import misfits, no_model
from lmi.plugins.tasks import NOT_SERVED, task_problems

_REMOTE_CODE = "model.remote-code"
_CODE_MISSING = "model.code-missing"


def found_problems(
    plugins: Plugins,
    choice: Choice,
    artifacts: ModelArtifacts,
    config: BackendConfig,
    target: Target,
    settings: Settings,
    known: Sequence[Problem] = (),
    extension: ModelExtension | None = None,
    *,
    is_here: bool = True,
) -> list[Problem]:
    """Everything known to be doubtful, found without reading a weight.

    Args:
        plugins: what is installed.
        choice: the backend.
        artifacts: the model's files.
        config: the backend's options.
        target: the machine.
        settings: where each value came from.
        known: what was found before: in the files, about the copies.
        extension: what of the model's own Python file runs in the server.
        is_here: whether the machine is this one, whose free memory counts.
    Raises:
        ConfigError: the backend needs a model and there is none.
        ArtifactError: something would stop the model.
    """
    if choice.info.needs_model and artifacts.format is ArtifactFormat.NONE:
        raise no_model(f"{choice.info.name} needs a model and none was given")
    stopping = {*choice.info.stopped_by, *([_CODE_MISSING] if config.trust_remote_code else [])}
    problems = [*_misfits(choice, artifacts, target, settings), *_raised(known, stopping)]
    told = validated(plugins, choice.info, artifacts, config, over_machines(settings, target))
    if other_task := task_problems(artifacts, settings, choice.info, plugins.backends.values()):
        told = [*other_task, *(problem for problem in told if problem.code != NOT_SERVED)]  # told with who can do it
    if all(problem.code != _REMOTE_CODE for problem in told):
        told += _own_tokenizer(artifacts, config)
    told += memory_problems(artifacts, config, choice.info, target, is_here=is_here)
    problems += _placed(told, type(config), settings)
    problems += instance_problems(choice.info, target, plugins.backends.values())
    if extension is not None:
        problems += extension.validate(artifacts, config, target)
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors:
        where = f" in {artifacts.folder}" if artifacts.folder else ""
        found = counted(len(errors), "problem")
        raise ArtifactError("artifacts.invalid", f"{found}{where}; nothing was loaded", errors)
    return problems


def _raised(known: Sequence[Problem], codes: set[str]) -> list[Problem]:
    """The problems, with those of some codes as errors: what one backend does without stops another."""
    return [
        msgspec.structs.replace(problem, severity=Severity.ERROR) if problem.code in codes else problem
        for problem in known
    ]


def _misfits(choice: Choice, artifacts: ModelArtifacts, target: Target, settings: Settings) -> list[Problem]:
    """What the backend's own description says against this machine and these files."""
    found = device_problems(settings, choice.info, target)
    reasons = misfits(choice.info, artifacts, target, architectures=False)
    if target.n_devices == 0:
        return found
    said = [problem.message for problem in found]
    messages = [f"{choice.info.name} {reason}" for reason in reasons]
    return found + [
        Problem(code="backend.misfit", message=message, hint="Choose another backend")
        for message in messages
        if message not in said
    ]


def validated(
    plugins: Plugins, info: BackendInfo, artifacts: ModelArtifacts, config: BackendConfig, target: Target
) -> list[Problem]:
    """What the backend and the extensions find wrong.

    Args:
        plugins: what is installed.
        info: the backend.
        artifacts, config, target: as the hook lmi_validate_artifacts has them.
    Raises:
        PluginError: the hook failed.
    """
    try:
        answers = plugins.hooks(info.name).lmi_validate_artifacts(artifacts=artifacts, config=config, target=target)
    except Exception as error:
        message = f"lmi_validate_artifacts failed for {info.name}: {type(error).__name__}: {error}"
        raise PluginError("plugin.hook-failed", message, "This is a fault of the plugin, not of the model") from error
    return [problem for answer in answers for problem in answer]


def _own_tokenizer(artifacts: ModelArtifacts, config: BackendConfig) -> list[Problem]:
    """A problem where the tokenizer is Python code that comes with the model, which may not run."""
    start = f"{artifacts.inner}/" if artifacts.inner else ""
    named = artifacts.document(f"{start}tokenizer_config.json").get("auto_map")
    classes = named.get("AutoTokenizer") if isinstance(named, dict) else None
    name = next((each for each in (classes if isinstance(classes, list) else [classes]) if each), "")
    if not name or config.trust_remote_code or f"{start}tokenizer.json" in artifacts.files:
        return []
    return [
        Problem(
            code=_REMOTE_CODE,
            message=f"the tokenizer is Python code that comes with the model ({name}), and there is no tokenizer.json",
            hint="Read that code; if you trust it, set option.trust_remote_code=true",
            path=artifacts.folder,
            fields=("trust_remote_code",),
        )
    ]


def _placed(problems: list[Problem], config_type: type[BackendConfig], settings: Settings) -> list[Problem]:
    """The problems with where the options they are about were set, which a plugin cannot know."""
    return [
        msgspec.structs.replace(problem, source=problem.source or sources_of(config_type, problem.fields, settings))
        for problem in problems
    ]


@contextlib.contextmanager
def certain_problems_told(settings: Settings, plugins: Plugins) -> Iterator[None]:
    """Put what is wrong whichever backend is chosen in front of an error of choosing one.

    Raises:
        ConfigError: both.
    """
    try:
        yield
    except LmiError as error:
        problems = certain(settings, [ModelOptions, *plugins.config_types().values()])
        if not problems:
            raise
        raise config_error(list(dict.fromkeys([*problems, *problems_of(error)]))) from error


def problems_of(error: LmiError) -> list[Problem]:
    """An error as problems: those it lists, else itself."""
    if isinstance(error, ProblemsError) and error.problems:
        return list(error.problems)
    return [Problem(code=error.code, message=error.message, hint=error.hint)]


def problems_as_json(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """Problems in the form for programs, the same in every command."""
    return [
        {
            "code": problem.code,
            "severity": problem.severity.value,
            "message": problem.message,
            "hint": problem.hint,
            "path": problem.path,
            "source": problem.source,
        }
        for problem in problems
    ]
