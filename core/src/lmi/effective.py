# SPDX-License-Identifier: Apache-2.0
"""What a configuration comes to on a machine, and everything wrong with it, without looking at a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmi.api import BackendConfig, LmiError, ModelArtifacts, Problem, Severity, Target
from lmi.artifacts import is_local
from lmi.checking import certain_problems_told, problems_of
from lmi.config import ModelOptions, Settings
from lmi.config.coerce import as_text
from lmi.config.model_entries import ModelEntry
from lmi.config.names import PREFIX, canonical, shown
from lmi.config.settings import Setting
from lmi.config.typed import field_settings, judge
from lmi.devices.copies import copies_of
from lmi.devices.degree import refusals_of, with_default_degree
from lmi.loading import find_artifacts
from lmi.plugins import Choice, Plugins
from lmi.reading import DEFAULT_MODEL_FOLDER, read_configuration
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
        name: of the model.
        settings: what was read.
        target: the machine.
        choice: the backend; None if none could be chosen.
        options: every option by its key, ``option.dtype`` or ``job_queue_size``.
        n_workers: copies of the model that start.
        slices: the devices of each copy that may run, by the names that CUDA_VISIBLE_DEVICES or
            NEURON_RT_VISIBLE_CORES give them: ``(("0", "1"), ("2", "3"))``. The first ``n_workers`` start at once.
            Empty on CPU.
        problems: errors and warnings, in the order they were found.
    """

    name: str
    settings: Settings
    target: Target
    choice: Choice | None = None
    options: dict[str, Value] = field(default_factory=dict)
    n_workers: int = 1
    slices: tuple[tuple[str, ...], ...] = ()
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_valid(self) -> bool:
        return all(problem.severity is not Severity.ERROR for problem in self.problems)


def effective(
    model: ModelEntry | str | None,
    *,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    plugins: Plugins,
    devices: str | None = None,
    default_folder: Path = DEFAULT_MODEL_FOLDER,
    defaults: Sequence[Setting] = (),
) -> Effective:
    """Resolve a configuration; what is wrong with it becomes problems, not exceptions.

    Args:
        model: a folder, an object store's prefix, or ORG/NAME, or its entry in ``load_models``; None takes what the
            configuration or the container says.
        flags: keys and values of ``-o key=value``.
        environ: environment variables.
        plugins: what is installed.
        devices: another machine than this one, as ``cuda:4``.
        default_folder: where a container finds its model.
        defaults: what config.properties says of every model.
    Raises:
        ConfigError: ``devices`` is no machine.
        ArtifactError: the model is in an object store that cannot be read.
    """
    entry = model if isinstance(model, ModelEntry) else ModelEntry(url=model)
    written = read_configuration(
        entry, flags=flags, environ=environ, default_folder=default_folder, devices=devices, defaults=defaults
    )
    folder, settings, target = written.folder, written.settings, written.target
    found = Effective(entry.name, settings, target, problems=too_few_devices(settings, target))
    found.options = {key: Value(each.shown, each.source, _beaten(each)) for key, each in settings.items()}
    try:
        with certain_problems_told(settings, plugins):
            wanted = plugins.wanted(settings, target)
            artifacts = None if wanted is not None else find_artifacts(settings, folder, None, weights=False)
            found.choice = wanted or plugins.choose(settings, artifacts, target)
        artifacts = artifacts or _artifacts_here(settings, folder, found.choice)
        refusals = refusals_of(plugins, found.choice.info, artifacts, target)
        settings = with_default_degree(settings, found.choice.info, target, refusals)
    except LmiError as error:
        found.problems += [*settings.problems, *problems_of(error)]
        found.problems = list(dict.fromkeys(found.problems))
        return found
    types = plugins.config_types()
    parsed, problems = judge(settings, found.choice.info, types.pop(found.choice.info.name), types)
    found.problems += [*found.choice.warnings, *problems]
    if parsed is None:
        return found
    degree = parsed.config.tensor_parallel_degree
    copies = copies_of(settings, parsed.options, degree, found.choice.info, target, environ)
    found.problems += copies.problems
    found.options = {
        **_values(copies.applied(parsed.options), parsed.settings),
        **_values(parsed.config, parsed.settings),
    }
    found.n_workers, found.slices = copies.n_min, copies.slices
    return found


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


def _artifacts_here(settings: Settings, folder: Path | None, choice: Choice) -> ModelArtifacts | None:
    """The model's files where they are on this machine; what is wrong with them is for ``lmi check`` to say."""
    model_id = settings.text("option.model_id")
    if model_id is not None and not is_local(model_id, folder):
        return None
    try:
        return find_artifacts(settings, folder, choice, weights=False)
    except LmiError:
        return None


def as_variables(found: Effective) -> list[str]:
    """What was set, as lines of variables: ``OPTION_DTYPE=bf16``."""
    lines = []
    for key, setting in found.settings.items():
        prefix = "OPTION_" if key.startswith(PREFIX) else "SERVING_"
        name = key.removeprefix(PREFIX).replace(".", "_").upper()
        lines.append(f"{prefix}{name}={setting.shown}")
    return sorted(lines)


def as_properties(found: Effective) -> list[str]:
    """What was set, as lines of serving.properties."""
    return sorted(f"{key}={_escaped(setting.shown)}" for key, setting in found.settings.items())


def _escaped(text: str) -> str:
    """A value as a properties file has it; a ``#`` behind a blank would begin a comment."""
    for character, written in (
        ("\\", "\\\\"),
        ("\n", "\\n"),
        ("\r", "\\r"),
        ("\t", "\\t"),
        ("\f", "\\f"),
        (" #", " \\#"),
    ):
        text = text.replace(character, written)
    return text
