# SPDX-License-Identifier: Apache-2.0
"""What a configuration comes to on a machine, and everything wrong with it, without looking at a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lmi.api import Problem, Severity, Target
from lmi.config import Settings
from lmi.config.coerce import as_text
from lmi.config.model_entries import ModelEntry
from lmi.config.names import canonical, shown
from lmi.config.settings import Setting
from lmi.config.typed import field_settings
from lmi.devices.copies import Copies
from lmi.plugins import Choice, Plugins
from lmi.plugins.choice import not_loadable
from lmi.reading import DEFAULT_MODEL_FOLDER
from lmi.resolution import Resolution, resolve

"""What ``lmi.target`` says of a degree that was written as ``max``."""


@dataclass(frozen=True)
class Value:
    """One option as it holds.

    Args:
        value: as text, secrets masked; None where it is unset.
        source: where it was set; "default" where nothing sets it.
        overrode: "value (source)" of each setting that it beat, highest first.
    """

    value: str | None
    source: str
    overrode: tuple[str, ...] = ()


@dataclass
class Effective:
    """A configuration, typed as far as it can be.

    Args:
        name: of the model.
        settings: what holds on the machine.
        given: what was read, as it was written.
        model_place: the model's folder, absolute, where nothing but the command line or ``load_models`` names it.
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
    given: Settings = field(default_factory=Settings)
    copies: Copies = field(default_factory=Copies)
    model_place: str = ""

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
    """
    entry = model if isinstance(model, ModelEntry) else ModelEntry(url=model)
    found = resolve(
        entry, flags=flags, environ=environ, plugins=plugins, default_folder=default_folder, defaults=defaults,
        devices=devices, needs_files=False,
    )  # fmt: skip
    return Effective(
        entry.name, found.settings, found.target, choice=found.choice, options=_shown(found),
        slices=found.copies.slices, n_workers=found.copies.n_min, given=found.written,
        copies=found.copies,
        problems=list(dict.fromkeys([*found.problems, *_not_loadable(found)])),
        model_place=_place(found, default_folder),
    )  # fmt: skip


def _shown(found: Resolution) -> dict[str, Value]:
    """What is set, and where it holds, every option there is."""
    values = {key: Value(each.shown, each.source, _beaten(each)) for key, each in found.settings.items()}
    if found.parsed is not None and found.failure is None:
        options, parsed = found.copies.applied(found.parsed.options), found.parsed
        values |= {**option_values(options, parsed.settings), **option_values(parsed.config, parsed.settings)}
    return values


def _place(found: Resolution, default_folder: Path) -> str:
    is_default = found.folder is None or found.folder.resolve() == default_folder.resolve()
    is_said = found.entry.url is None or found.given.text("option.model_id") is not None
    return "" if found.folder is None or is_default or is_said else str(found.folder.resolve())


def option_values(options: BaseModel, settings: Settings) -> dict[str, Value]:
    """Every option as it holds, by its key.

    Args:
        options: of a model, a backend or the server.
        settings: what was set.
    """
    set_by = field_settings(type(options), settings)
    values = {}
    for name, info in type(options).model_fields.items():
        key = canonical(info.alias or name)
        value, setting = getattr(options, name), set_by.get(name)
        text = None if value is None else shown(key, _number_or_text(value))
        values[key] = Value(text, "default") if setting is None else Value(text, setting.source, _beaten(setting))
    return values


def _number_or_text(value: Any) -> str:
    """A number as people write it: 3600, not 3600.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else as_text(value)


def _beaten(setting: Any) -> tuple[str, ...]:
    return tuple(f"{each.shown} ({each.source})" for each in setting.overrode)


def _not_loadable(found: Resolution) -> tuple[Problem, ...]:
    """What a start would end with, however right the configuration is."""
    return () if found.choice is None else not_loadable(found.choice.info)
