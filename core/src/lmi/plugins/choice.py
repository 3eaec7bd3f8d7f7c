# SPDX-License-Identifier: Apache-2.0
"""Which backend serves a model: the one the settings ask for, else the one that fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmi.api import (
    ArtifactFormat,
    BackendInfo,
    ConfigError,
    ModelArtifacts,
    PluginError,
    Problem,
    Severity,
    Target,
)
from lmi.config.names import nearest
from lmi.config.settings import Setting, Settings
from lmi.plugins.records import Kind, PluginRecord, State

ENGINE_MODES = ("python", "mpi")
"""Values of ``engine`` that say how a worker runs; they select a backend only if one claims them."""

UNDECIDED = ("", "auto", "disable")
"""Values of ``option.rolling_batch`` that name no backend."""

_CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True)
class Choice:
    """A backend and why it was taken; ``is_explicit`` when the settings asked for it."""

    info: BackendInfo
    reason: str
    is_explicit: bool = False
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class _Selector:
    key: str
    names: Callable[[BackendInfo], tuple[str, ...]]


_SELECTORS = (
    _Selector("option.rolling_batch", lambda info: (info.name, *info.rolling_batch)),
    _Selector("option.entryPoint", lambda info: info.entry_points),
    _Selector("engine", lambda info: (info.name, *info.engine_names)),
)
"""In the order of their weight: a later one narrows what an earlier one left."""


def choose(
    records: Sequence[PluginRecord], settings: Settings, artifacts: ModelArtifacts | None, target: Target
) -> Choice:
    """See Plugins.choose."""
    return wanted(records, settings, artifacts, target) or _automatic(records, settings, artifacts, target)


def wanted(
    records: Sequence[PluginRecord], settings: Settings, artifacts: ModelArtifacts | None, target: Target
) -> Choice | None:
    """The backend that the settings ask for; None where they leave it open.

    Raises:
        PluginError: it is missing or broken.
    """
    candidates, deciding, warnings = _selected(records, settings)
    if deciding is None:
        return None
    reason = f"{deciding.key}={deciding.value} ({deciding.source})"
    best = min(candidates, key=lambda info: (len(misfits(info, artifacts, target)), *_rank(info, target)))
    return Choice(best, reason, True, tuple(warnings))


def _selected(
    records: Sequence[PluginRecord], settings: Settings
) -> tuple[list[BackendInfo], Setting | None, list[Problem]]:
    """The backends that the selectors leave, the setting that decided, and settings that it overruled."""
    candidates = [record.info for record in records if record.info is not None]
    deciding: Setting | None = None
    warnings: list[Problem] = []
    for selector in _SELECTORS:
        setting = settings.get(selector.key)
        if setting is None or setting.value.lower() in UNDECIDED:
            continue
        named = [info for info in candidates if setting.value.lower() in _lower(selector.names(info))]
        if named:
            candidates = named
        # A mode such as engine=Python narrows the choice but is no wish for one backend.
        if _is_mode(setting):
            continue
        if not named and deciding is None:
            raise _not_installed(setting, records)
        if not named and deciding is not None:
            warnings.append(_overruled(setting, deciding))
        deciding = deciding or setting
    return candidates, deciding, warnings


def _automatic(
    records: Sequence[PluginRecord], settings: Settings, artifacts: ModelArtifacts | None, target: Target
) -> Choice:
    candidates, _, _ = _selected(records, settings)
    if not candidates:
        raise _none_installed(records)
    if artifacts is None or artifacts.format is ArtifactFormat.NONE:
        raise no_model("no model was given")
    fitting = [info for info in candidates if not misfits(info, artifacts, target)]
    if not fitting:
        reasons = "; ".join(f"{info.name}: {', '.join(misfits(info, artifacts, target))}" for info in candidates)
        raise PluginError(
            "plugin.none-fits",
            f"no installed backend serves this model on this machine. {reasons}{_broken(records)}",
            "Install a backend that does, or name one with option.rolling_batch",
        )
    best = min(fitting, key=lambda info: _rank(info, target))
    model = ", ".join(artifacts.architectures) or artifacts.format.value
    return Choice(best, f"fits {model} on {target.accelerator.value}")


def no_model(message: str) -> ConfigError:
    """The error for a start without a model."""
    return ConfigError(
        "config.no-model",
        message,
        [],
        "Name a folder or ORG/NAME on the command line, set option.model_id, or put the files into /opt/ml/model",
    )


def misfits(
    info: BackendInfo, artifacts: ModelArtifacts | None, target: Target, *, architectures: bool = True
) -> list[str]:
    """Why a backend does not suit a model and a machine, by its own description; empty when it does.

    Args:
        architectures: False leaves the judgement of the architecture to the backend's own checks.
    """
    reasons = []
    if target.accelerator not in info.accelerators:
        runs_on = ", ".join(each.value for each in info.accelerators)
        reasons.append(f"runs on {runs_on}, not on {target.accelerator.value}")
    if artifacts is None or artifacts.format is ArtifactFormat.NONE:
        return [*reasons, "needs a model"] if info.needs_model else reasons
    if artifacts.format.value not in info.artifact_formats:
        loads = ", ".join(info.artifact_formats) or "no files"
        reasons.append(f"loads {loads}, not {artifacts.format.value}")
    if architectures and artifacts.architectures and not any(_serves(info, name) for name in artifacts.architectures):
        serves = ", ".join(info.architectures) or "causal language models"
        reasons.append(f"serves {serves}, not {', '.join(artifacts.architectures)}")
    return reasons


def _serves(info: BackendInfo, architecture: str) -> bool:
    if info.architectures:
        return architecture in info.architectures
    return architecture.endswith(_CAUSAL_SUFFIXES)


def _rank(info: BackendInfo, target: Target) -> tuple[int, int, str]:
    """Smaller is better: made for this device first, then priority, then the name so that it is never chance."""
    on_list = target.accelerator in info.accelerators
    place = info.accelerators.index(target.accelerator) if on_list else len(info.accelerators)
    return (place, -info.priority, info.name)


def _lower(values: Sequence[str]) -> list[str]:
    return [value.lower() for value in values]


def _is_mode(setting: Setting) -> bool:
    return setting.key == "engine" and setting.value.lower() in ENGINE_MODES


def _overruled(setting: Setting, deciding: Setting) -> Problem:
    return Problem(
        code="config.overruled",
        message=f"'{setting.key}={setting.value}' does not select the backend that "
        f"{deciding.key}={deciding.value} ({deciding.source}) selects, and is left out",
        hint="Remove it",
        source=setting.source,
        severity=Severity.WARNING,
    )


def _not_installed(setting: Setting, records: Sequence[PluginRecord]) -> PluginError:
    """A wanted backend that cannot be used: broken and duplicate ones are told from absent ones."""
    backends = [record for record in records if record.kind is Kind.BACKEND]
    for record in backends:
        if record.name == setting.value.lower() and record.state is not State.READY:
            return record.error()
    ready = {record.name: record for record in backends if record.info is not None}
    installed = ", ".join(f"{name} ({record.package})" for name, record in ready.items()) or "none"
    name = setting.key.removeprefix("option.")
    message = f"{name}={setting.value} ({setting.source}) needs a backend that is not installed. Installed: {installed}"
    message += _broken(records)
    selector = next(each for each in _SELECTORS if each.key == setting.key)
    answers = {value: info for r in ready.values() if (info := r.info) for value in selector.names(info)}
    near = nearest(setting.value, answers)
    return PluginError("plugin.not-installed", message, f"Did you mean '{near}'?" if near else _how_to_install(setting))


def _broken(records: Sequence[PluginRecord]) -> str:
    """A sentence on backends that are there and cannot be used; one of them may be the wanted one."""
    broken = [record for record in records if record.kind is Kind.BACKEND and record.state is State.BROKEN]
    listed = "; ".join(f"{record.name} ({record.package}): {record.reason}" for record in broken)
    return f". Broken: {listed}" if listed else ""


def _how_to_install(setting: Setting) -> str:
    value = setting.value.lower()
    if setting.key != "option.rolling_batch":
        return "Install the backend that has this name"
    package = value if value.startswith("lmi-") else f"lmi-{value}"
    return f"Try: pip install {package}"


def _none_installed(records: Sequence[PluginRecord]) -> PluginError:
    backends = [record for record in records if record.kind is Kind.BACKEND]
    if not backends:
        return PluginError(
            "plugin.none-installed",
            "no backend is installed, so nothing can be served",
            "Install one for your device: backends are packages called lmi-<name>, the README lists them",
        )
    listed = "; ".join(f"{record.name} ({record.package}): {record.reason}" for record in backends)
    return PluginError("plugin.none-usable", f"no installed backend can be used. {listed}", "Run: lmi plugins")
