# SPDX-License-Identifier: Apache-2.0
"""What a configuration comes to on a machine, and everything wrong with it, without looking at a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmi.api import BackendConfig, Problem, Severity, Target
from lmi.config import ModelOptions, Settings
from lmi.config.coerce import as_text
from lmi.config.model_entries import ModelEntry
from lmi.config.names import PREFIX, canonical, shown
from lmi.config.settings import Setting
from lmi.config.typed import field_settings
from lmi.plugins import Choice, Plugins
from lmi.reading import DEFAULT_MODEL_FOLDER
from lmi.resolution import Resolution, resolve
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
    found = resolve(
        entry, flags=flags, environ=environ, plugins=plugins, default_folder=default_folder, defaults=defaults,
        devices=devices, needs_files=False,
    )  # fmt: skip
    shown_settings = {key: Value(each.shown, each.source, _beaten(each)) for key, each in found.settings.items()}
    if found.parsed is not None and found.failure is None:
        options, parsed = found.copies.applied(found.parsed.options), found.parsed
        shown_settings |= {**_values(options, parsed.settings), **_values(parsed.config, parsed.settings)}
    return Effective(
        entry.name,
        found.settings,
        found.target,
        choice=found.choice,
        options=shown_settings,
        slices=found.copies.slices,
        n_workers=found.copies.n_min,
        problems=[*found.problems, *_too_few(found)],
    )


def _too_few(found: Resolution) -> list[Problem]:
    """Too few devices for one copy, unless that was told with the rest."""
    return [each for each in too_few_devices(found.settings, found.target) if each not in found.problems]


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
