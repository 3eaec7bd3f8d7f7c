# SPDX-License-Identifier: Apache-2.0
"""Keys that are no option of the core or the backend, and names that have a successor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import BaseModel

from lmi.api import BackendConfig, BackendInfo, Problem, Severity
from lmi.config import names
from lmi.config.fields import keys_of, main_key, matching_key, old_names
from lmi.config.settings import Setting, Settings
from lmi.config.unsupported import KNOWN_KEYS, STOP_WORDS


def strangers(
    settings: Settings,
    info: BackendInfo,
    types: tuple[type[BaseModel], ...],
    other_config_types: Mapping[str, type[BackendConfig]],
) -> Iterator[Problem]:
    """Settings that are an option neither of the core nor of the backend."""
    known = [key for each in types for key in keys_of(each)]
    for setting in settings.values():
        if matching_key(setting, known) or setting.key == STOP_WORDS:
            continue
        if setting.is_foreign:
            meant = [each for each in settings.values() if each.source == setting.source]
            if not any(matching_key(each, known) for each in meant) and setting is meant[0]:
                yield _of_no_use(setting, info)
            continue
        owners = [name for name, each in other_config_types.items() if matching_key(setting, list(keys_of(each)))]
        yield _other_backend(setting, info, owners) if owners else _unknown(setting, info.name, known)


def certain(settings: Settings, types: Sequence[type[BaseModel]]) -> list[Problem]:
    """What is wrong whichever backend is chosen: with the sources, and keys that nobody has as an option.

    Args:
        settings: what was read.
        types: the options of the core and of every installed backend.
    """
    known = [*(key for each in types for key in keys_of(each)), *KNOWN_KEYS]
    unknown = [each for each in settings.values() if not each.is_foreign and not matching_key(each, known)]
    wrong = [problem for problem in settings.problems if problem.severity is Severity.ERROR]
    return [*wrong, *(_unknown(setting, "any installed backend", known) for setting in unknown)]


def nearly_known(settings: Settings, types: tuple[type[BaseModel], ...]) -> Iterator[Problem]:
    """Warnings for a model's own options that look like misspelt ones of LMI."""
    known = {key.removeprefix(names.PREFIX): key for each in types for key in keys_of(each)}
    for setting in settings.values():
        near = names.nearly(setting.key.removeprefix(names.PREFIX), known)
        if near and not matching_key(setting, {*known.values(), *KNOWN_KEYS}):
            yield Problem(
                code="config.unknown-key",
                message=f"'{setting.key}' is not an option of LMI; the model gets it as it is",
                hint=f"Did you mean '{known[near]}'?",
                source=setting.source,
                severity=Severity.WARNING,
            )


def _other_backend(setting: Setting, info: BackendInfo, owners: list[str]) -> Problem:
    return Problem(
        code="config.other-backend",
        message=f"'{setting.key}' is an option of {', '.join(sorted(owners))} and does nothing for {info.name}",
        hint="Remove it, or leave it for the day you switch back",
        source=setting.source,
        severity=Severity.WARNING,
    )


def _unknown(setting: Setting, whose: str, known: list[str]) -> Problem:
    # A variable's name is its source; what is shown is the key it stands for. Elsewhere it is what the user wrote.
    is_variable = setting.written == setting.source
    written = setting.key if is_variable else setting.written or setting.key
    shown_keys = dict.fromkeys(known)
    options = f"The options are: {', '.join(sorted(shown_keys))}"
    return Problem(
        code="config.unknown-key",
        message=f"'{written}' is not an option of {whose} or of LMI",
        hint=_of_server(setting)
        or ("" if is_variable else _meant_as_variable(setting))
        or _nearest_key(setting, shown_keys)
        or options,
        source=setting.source,
    )


def _of_server(setting: Setting) -> str:
    """The hint for a key that no model has, and the server has."""
    key = setting.key.removeprefix(names.PREFIX)
    if key not in names.SERVER_KEYS:
        return ""
    return f"It is an option of the server: set SERVING_{key.upper()}, or {key} in config.properties (-f)"


def _nearest_key(setting: Setting, keys: Iterable[str]) -> str:
    """The hint that names the nearest key; the prefix, which most keys share, does not count."""
    by_bare = {key.removeprefix(names.PREFIX): key for key in (*KNOWN_KEYS, *keys)}
    near = names.nearest(setting.key.removeprefix(names.PREFIX), by_bare)
    return f"Did you mean '{by_bare[near]}'?" if near else ""


def _meant_as_variable(setting: Setting) -> str:
    """The hint for a variable's line in a file: ``OPTION_DTYPE=fp16``, ``export OPTION_DTYPE=fp16``."""
    name, _, value = setting.value.partition("=") if setting.written == "export" else (setting.written, "", "")
    prefix = next((each for each in ("OPTION_", "SERVING_") if name.upper().startswith(each)), "")
    if not prefix:
        return ""
    line = names.from_variable(name.upper().removeprefix(prefix))
    return f"In a file it is written {line}={names.shown(line, value or setting.value)}; {name} is a variable"


def _of_no_use(setting: Setting, info: BackendInfo) -> Problem:
    return Problem(
        code="config.of-no-use",
        message=f"{setting.source}={setting.shown} stands for '{setting.key}', which {info.name} does not have",
        hint="Remove the variable",
        source=setting.source,
        severity=Severity.WARNING,
    )


def deprecated(settings: Settings, types: tuple[type[BaseModel], ...]) -> Iterator[Problem]:
    """Warnings for names that have a successor."""
    for setting in settings.values():
        former = names.former(setting.written)
        if former:
            yield _old_name(setting, former, setting.key)
        for model_type in types:
            for field_name, info in model_type.model_fields.items():
                if matching_key(setting, [names.canonical(name) for name in old_names(info)]):
                    yield _old_name(setting, setting.key, main_key(field_name, info))


def _old_name(setting: Setting, old: str, new: str) -> Problem:
    return Problem(
        code="config.deprecated",
        message=f"'{old}' is an old name of '{new}'",
        hint=f"Write {new}={setting.shown}",
        source=setting.source,
        severity=Severity.WARNING,
    )
