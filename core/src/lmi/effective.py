# SPDX-License-Identifier: Apache-2.0
"""What a configuration comes to on a machine, and everything wrong with it, without looking at a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmi.api import Accelerator, BackendConfig, LmiError, Problem, ProblemsError, Severity, Target
from lmi.config import ModelOptions, Settings, parse
from lmi.config.coerce import as_text
from lmi.config.names import PREFIX, canonical, shown
from lmi.config.typed import field_settings
from lmi.loading import DEFAULT_MODEL_FOLDER, find_artifacts, read_configuration
from lmi.plugins import Choice, Plugins
from lmi.target import too_few_devices


@dataclass(frozen=True)
class Value:
    """One option as it holds.

    Args:
        value: as text, secrets masked.
        source: where it was set; "default" where nothing sets it.
        overrode: "value (source)" of each setting that it beat, highest first.
    """

    value: str
    source: str
    overrode: tuple[str, ...] = ()


@dataclass
class Effective:
    """A configuration, typed as far as it can be.

    Args:
        settings: what was read.
        target: the machine.
        choice: the backend; None if none could be chosen.
        options: every option by its key, ``option.dtype`` or ``job_queue_size``.
        n_workers: copies of the model that start.
        problems: errors and warnings, in the order they were found.
    """

    settings: Settings
    target: Target
    choice: Choice | None = None
    options: dict[str, Value] = field(default_factory=dict)
    n_workers: int = 1
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_valid(self) -> bool:
        return all(problem.severity is not Severity.ERROR for problem in self.problems)


def effective(
    model: str | None,
    *,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    plugins: Plugins,
    devices: str | None = None,
    default_folder: Path = DEFAULT_MODEL_FOLDER,
) -> Effective:
    """Resolve a configuration; what is wrong with it becomes problems, not exceptions.

    Args:
        model: a folder, or ORG/NAME; None takes what the configuration or the container says.
        flags: keys and values of ``-o key=value``.
        environ: environment variables.
        plugins: what is installed.
        devices: another machine than this one, as ``cuda:4``.
        default_folder: where a container finds its model.
    Raises:
        ConfigError: ``devices`` is no machine.
    """
    folder, settings, target = read_configuration(
        model, flags=flags, environ=environ, default_folder=default_folder, devices=devices
    )
    found = Effective(settings, target, problems=too_few_devices(settings, target))
    try:
        wanted = plugins.wanted(settings, target)
        artifacts = None if wanted is not None else find_artifacts(settings, folder, None, weights=False)
        found.choice = wanted or plugins.choose(settings, artifacts, target)
        types = plugins.config_types()
        parsed = parse(settings, found.choice.info, types.pop(found.choice.info.name), types)
    except LmiError as error:
        found.problems += _problems_of(error)
        found.options = {key: Value(each.shown, each.source, _beaten(each)) for key, each in settings.items()}
        return found
    found.problems += [*found.choice.warnings, *parsed.warnings]
    found.options = {**_values(parsed.options, settings), **_values(parsed.config, settings)}
    found.n_workers = _n_workers(parsed.options, parsed.config, settings, target)
    return found


def _problems_of(error: LmiError) -> list[Problem]:
    if isinstance(error, ProblemsError) and error.problems:
        return list(error.problems)
    return [Problem(code=error.code, message=error.message, hint=error.hint)]


def _values(options: ModelOptions | BackendConfig, settings: Settings) -> dict[str, Value]:
    set_by = field_settings(type(options), settings)
    values = {}
    for name, info in type(options).model_fields.items():
        key = canonical(info.alias or name)
        text = shown(key, as_text(getattr(options, name)))
        setting = set_by.get(name)
        values[key] = Value(text, "default") if setting is None else Value(text, setting.source, _beaten(setting))
    return values


def _beaten(setting: Any) -> tuple[str, ...]:
    return tuple(f"{each.shown} ({each.source})" for each in setting.overrode)


def _n_workers(options: ModelOptions, config: BackendConfig, settings: Settings, target: Target) -> int:
    """minWorkers if it is set, else as many copies as the devices hold."""
    if "minWorkers" in settings or target.accelerator is Accelerator.CPU:
        return options.min_workers
    return max(1, target.n_devices // config.tensor_parallel_degree)


def as_variables(found: Effective) -> list[str]:
    """What was set, as lines of variables: ``OPTION_DTYPE=bf16``."""
    lines = []
    for key, setting in found.settings.items():
        prefix = "OPTION_" if key.startswith(PREFIX) else "SERVING_"
        lines.append(f"{prefix}{key.removeprefix(PREFIX).upper()}={setting.shown}")
    return sorted(lines)


def as_properties(found: Effective) -> list[str]:
    """What was set, as lines of serving.properties."""
    return sorted(f"{key}={_escaped(setting.shown)}" for key, setting in found.settings.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
