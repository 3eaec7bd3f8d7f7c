# SPDX-License-Identifier: Apache-2.0
"""Which backend serves a model: the one the settings ask for, else the one that fits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
from lmi.config.batching import OFF, UNDECIDED, turned_off_by
from lmi.config.modes import ENGINE_MODES, deciding, mode_of
from lmi.config.settings import Setting, Settings
from lmi.plugins.absent import broken, entry_points_of, none_installed, not_installed, not_under, packages_of
from lmi.plugins.fit import Circumstances, is_installed, misfits
from lmi.plugins.records import PluginRecord
from lmi.plugins.selectors import ENGINE, ENTRY_POINT, ROLLING_BATCH, SELECTORS, Selector

__all__ = ["Choice", "choose", "misfits", "no_model", "not_loadable", "wanted"]

_LINE = "\n  "


@dataclass(frozen=True)
class Choice:
    """A backend and why it was taken; ``is_explicit`` when the settings asked for it."""

    info: BackendInfo
    reason: str
    is_explicit: bool = False
    warnings: tuple[Problem, ...] = ()


def choose(
    records: Sequence[PluginRecord],
    settings: Settings,
    artifacts: ModelArtifacts | None,
    target: Target,
    *,
    features: Collection[str] = (),
    has: Callable[[str], bool] = is_installed,
) -> Choice:
    """See Plugins.choose.

    Args:
        features: what the image says it holds (``SERVING_FEATURES``).
        has: whether the Python that would run an engine has a distribution.
    """
    asked = wanted(records, settings, artifacts, target, features=features, has=has)
    if asked is not None:
        return asked
    candidates = _selected(records, settings).candidates
    if not candidates:
        raise none_installed(records)
    if artifacts is None or artifacts.format is ArtifactFormat.NONE:
        raise no_model("no model was given")
    around = _around(settings, artifacts, target, features, has)
    fitting = [info for info in candidates if not around.misfits(info)]
    if not fitting:
        reasons = "".join(f"{_LINE}{info.name}: {', '.join(around.misfits(info))}" for info in candidates)
        raise PluginError(
            "plugin.none-fits",
            f"no installed backend serves this model on this machine:{reasons}{broken(records, start=_LINE)}",
            "Install a backend that does, or name one with option.rolling_batch",
        )
    return _automatic(fitting, settings, artifacts, around)


def wanted(
    records: Sequence[PluginRecord],
    settings: Settings,
    artifacts: ModelArtifacts | None,
    target: Target,
    *,
    features: Collection[str] = (),
    has: Callable[[str], bool] = is_installed,
) -> Choice | None:
    """The backend that the settings ask for; None where they leave it open.

    Raises:
        PluginError: it is missing or broken, or two settings ask for different ones.
    """
    selected = _selected(records, settings)
    if selected.deciding is None:
        return None
    around = _around(settings, artifacts, target, features, has)
    best, *others = selected.candidates
    if others:
        best = min(selected.candidates, key=lambda info: (len(around.misfits(info)), *around.rank(info)))
    by = selected.deciding
    reason = f"{by.key}={by.value} ({by.source}){_why(best, selected.candidates, around)}{_batches(settings, best)}"
    return Choice(best, reason, True, tuple(selected.warnings))


@dataclass
class _Selected:
    """The backends that the settings leave, the setting that decided, and what is to be said of others."""

    candidates: list[BackendInfo]
    deciding: Setting | None
    warnings: list[Problem]


def _selected(records: Sequence[PluginRecord], settings: Settings) -> _Selected:
    found = _Selected([record.info for record in records if record.info is not None], None, [])
    for selector in SELECTORS:
        setting = settings.get(selector.key)
        if setting is None or setting.value.lower() in UNDECIDED:
            continue
        # A mode such as engine=Python prefers some backends and is no wish for one.
        if setting.key == ENGINE and setting.value.lower() in ENGINE_MODES:
            continue
        if setting.key == ROLLING_BATCH and _is_foreign(setting, settings, found):
            continue
        named = [info for info in found.candidates if selector.selects(setting.value, info)]
        if named:
            found.candidates = named
        elif found.deciding is None or not _is_known(selector, setting.value, records):
            raise not_installed(setting, records)
        else:
            found.warnings.append(_overruled(setting, found.deciding))
        found.deciding = found.deciding or setting
    return found


def _is_known(selector: Selector, value: str, records: Sequence[PluginRecord]) -> bool:
    """Whether there is such a backend, installed or not."""
    infos = [record.info for record in records if record.info is not None]
    return any(selector.selects(value, info) for info in infos) or bool(packages_of(selector.key, value))


def _is_foreign(setting: Setting, settings: Settings, found: _Selected) -> bool:
    """Whether rolling_batch names no backend of the entry point's, and that one does not mind.

    Raises:
        PluginError: the entry point's backends do mind.
    """
    rolling_batch, at_entry = SELECTORS[0], SELECTORS[1]
    entry = settings.get(ENTRY_POINT)
    own = [info for info in found.candidates if entry is not None and at_entry.selects(entry.value, info)]
    if entry is None or not own or any(rolling_batch.selects(setting.value, info) for info in own):
        return False
    if all(info.takes_any_rolling_batch for info in own):
        found.warnings.append(_taken_for_auto(setting, entry))
        return True
    if _is_elsewhere(setting, entry, found.candidates, rolling_batch):
        raise not_under(setting, entry, own)
    return False


def _is_elsewhere(setting: Setting, entry: Setting, candidates: Sequence[BackendInfo], rolling_batch: Selector) -> bool:
    """Whether a value of rolling_batch is of no backend, or of one that has other entry points than this one."""
    named = [info for info in candidates if rolling_batch.selects(setting.value, info)]
    if named:
        return all(info.entry_points for info in named)
    return entry.value.lower() not in entry_points_of(setting.value)


def _around(
    settings: Settings,
    artifacts: ModelArtifacts | None,
    target: Target,
    features: Collection[str],
    has: Callable[[str], bool],
) -> Circumstances:
    # What another Python has installed cannot be seen from here.
    is_own_python = settings.get("option.pythonExecutable") is None
    return Circumstances(
        artifacts,
        target,
        mode_of(settings) or "",
        frozenset(each.strip().lower() for each in features),
        has if is_own_python else None,
        settings.text("option.task"),
    )


def _automatic(
    fitting: Sequence[BackendInfo], settings: Settings, artifacts: ModelArtifacts, around: Circumstances
) -> Choice:
    best = min(fitting, key=around.rank)
    model = ", ".join(artifacts.architectures) or artifacts.format.value
    reason = f"fits {model} on {around.target.accelerator.value}"
    mode = deciding(settings)
    if mode is not None and around.mode:
        reason += f"; {mode.key}={mode.value} ({mode.source})"
    reason += f"{_why(best, fitting, around)}{_batches(settings, best)}"
    return Choice(best, reason, False, not_loadable(best))


def _why(best: BackendInfo, candidates: Sequence[BackendInfo], around: Circumstances) -> str:
    """What else decided: what the image announces, and what is missing of one that would be better."""
    if len(candidates) == 1:
        return ""
    words = ""
    if around.is_announced(best):
        announced = [each for each in best.image_features if each.lower() in around.features]
        words += f"; announced by SERVING_FEATURES={','.join(announced)}"
    fitting = [info for info in candidates if not around.misfits(info)]
    for info in sorted(fitting, key=around.preference):
        if info is best:
            break
        words += f"; {info.name} would be taken before it, but {around.lacks(info)}"
    return words


def _batches(settings: Settings, info: BackendInfo) -> str:
    off = turned_off_by(settings, info)
    if off is None or off.value.lower() == OFF:
        return ""
    return f"; {off.key}={off.value} ({off.source}) turns continuous batching off"


def no_model(message: str) -> ConfigError:
    """The error for a start without a model."""
    return ConfigError(
        "config.no-model",
        message,
        [],
        "Name a folder or ORG/NAME on the command line, set option.model_id, or put the files into /opt/ml/model",
    )


def _overruled(setting: Setting, deciding: Setting) -> Problem:
    return _warning(
        "config.overruled",
        f"'{setting.key}={setting.value}' does not select the backend that "
        f"{deciding.key}={deciding.value} ({deciding.source}) selects, and is left out",
        "Remove it",
        setting.source,
    )


def _taken_for_auto(setting: Setting, entry: Setting) -> Problem:
    return _warning(
        "config.overruled",
        f"'{setting.key}={setting.value}' is not for {entry.key}={entry.value} ({entry.source}), and taken for auto",
        f"Set {setting.key}=auto, or take it out",
        setting.source,
    )


def not_loadable(info: BackendInfo) -> tuple[Problem, ...]:
    """A warning where a backend only checks its configuration so far."""
    if info.is_loadable:
        return ()
    message = f"{info.name} reads and checks its configuration; it cannot load models yet"
    hint = "Name another backend with option.rolling_batch, or install one for this device"
    return (_warning("engine.not-implemented", message, hint),)


def _warning(code: str, message: str, hint: str, source: str = "") -> Problem:
    return Problem(code=code, message=message, hint=hint, source=source, severity=Severity.WARNING)
