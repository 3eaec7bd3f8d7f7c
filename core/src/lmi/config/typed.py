# SPDX-License-Identifier: Apache-2.0
"""From settings to typed options, with everything that is wrong reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lmi.api import BackendConfig, BackendInfo, ConfigError, Problem, Severity
from lmi.config import coerce, names
from lmi.config.options import ModelOptions
from lmi.config.rules import RULES
from lmi.config.settings import Setting, Settings

_Model = TypeVar("_Model", bound=BaseModel)
_SURELY_MISSPELT = 0.85
"""Likeness of two names (difflib's ratio) that is hardly chance."""


@dataclass(frozen=True)
class Parsed:
    """A configuration that holds: the core's options, the backend's, and what to warn about."""

    options: ModelOptions
    config: BackendConfig
    warnings: list[Problem] = field(default_factory=list)


def parse(
    settings: Settings,
    info: BackendInfo,
    config_type: type[BackendConfig],
    other_config_types: Mapping[str, type[BackendConfig]],
    *,
    allows_unknown: bool = False,
) -> Parsed:
    """Type every setting for the core and the chosen backend.

    Args:
        settings: what was read.
        info: the chosen backend.
        config_type: its options.
        other_config_types: options of the other installed backends by name; their keys are warnings, not errors.
        allows_unknown: whether a model may have options of its own; one that looks misspelt is then a warning.
    Raises:
        ConfigError: with every problem, each naming its key, value and source.
    """
    problems = list(settings.problems)
    types: tuple[type[BaseModel], ...] = (ModelOptions, config_type)
    if allows_unknown:
        problems += _nearly_known(settings, types)
    else:
        problems += _strangers(settings, info, types, other_config_types)
    problems += [problem for each in types for problem in _old_names(settings, each)]
    options, option_problems = _fill(ModelOptions, settings)
    config, config_problems = _fill(config_type, settings)
    for problem in option_problems + config_problems:
        # A key that the core and the backend share is wrong once, not twice.
        if problem not in problems:
            problems.append(problem)
    if options is not None and config is not None:
        problems += [problem for rule in RULES for problem in rule(options, config, settings)]
        problems += _together(config, settings)
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors or options is None or config is None:
        raise config_error(errors)
    return Parsed(options, config, [problem for problem in problems if problem.severity is Severity.WARNING])


def config_error(problems: list[Problem]) -> ConfigError:
    """The error that carries configuration problems."""
    counted = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError("config.invalid", f"{counted} in the configuration; nothing was loaded", problems)


def keys_of(model_type: type[BaseModel]) -> dict[str, str]:
    """Canonical key -> field name, for every name a field answers to; the main one first."""
    keys: dict[str, str] = {}
    for field_name, info in model_type.model_fields.items():
        for key in _field_keys(field_name, info):
            keys.setdefault(key, field_name)
    return keys


def _field_keys(field_name: str, info: FieldInfo) -> list[str]:
    further = [*_names_in(info, "aliases"), *_names_in(info, "old_names")]
    return [names.canonical(name) for name in (info.alias or field_name, *further)]


def _names_in(info: FieldInfo, kind: str) -> list[str]:
    extra = info.json_schema_extra
    found: Any = extra.get(kind, []) if isinstance(extra, dict) else []
    return list(found)


def _old_names(settings: Settings, model_type: type[BaseModel]) -> Iterator[Problem]:
    """Warnings for names that have a successor."""
    for field_name, info in model_type.model_fields.items():
        old = [names.canonical(name) for name in _names_in(info, "old_names")]
        new = names.canonical(info.alias or field_name)
        for setting in settings.values():
            if _matching_key(setting, old):
                yield Problem(
                    code="config.deprecated",
                    message=f"'{setting.key}' is an old name of '{new}'",
                    hint=f"Write {new}={setting.shown}",
                    source=setting.source,
                    severity=Severity.WARNING,
                )


def _together(config: BackendConfig, settings: Settings) -> Iterator[Problem]:
    """What the backend finds wrong with its options together, with where each was set."""
    keys = keys_of(type(config))
    for conflict in config.conflicts():
        places = [
            setting.source
            for field_name in conflict.fields
            for setting in settings.values()
            if keys.get(_matching_key(setting, list(keys))) == field_name
        ]
        yield Problem(
            code="config.conflict",
            message=conflict.message,
            hint=conflict.hint,
            source=", ".join(dict.fromkeys(places)),
            severity=conflict.severity,
        )


def _strangers(
    settings: Settings,
    info: BackendInfo,
    types: tuple[type[BaseModel], ...],
    other_config_types: Mapping[str, type[BackendConfig]],
) -> Iterator[Problem]:
    """Settings that are an option neither of the core nor of the backend."""
    known = [key for each in types for key in keys_of(each)]
    for setting in settings.values():
        if _matching_key(setting, known):
            continue
        if setting.is_foreign:
            yield _of_no_use(setting, info)
            continue
        owners = [name for name, each in other_config_types.items() if _matching_key(setting, list(keys_of(each)))]
        yield _other_backend(setting, info, owners) if owners else _unknown(setting, info, known)


def _nearly_known(settings: Settings, types: tuple[type[BaseModel], ...]) -> Iterator[Problem]:
    """Warnings for a model's own options that look like misspelt ones of LMI."""
    known = {key.removeprefix(names.PREFIX): key for each in types for key in keys_of(each)}
    for setting in settings.values():
        near = difflib.get_close_matches(setting.key.removeprefix(names.PREFIX), known, n=1, cutoff=_SURELY_MISSPELT)
        if near and not _matching_key(setting, list(known.values())):
            yield Problem(
                code="config.unknown-key",
                message=f"'{setting.key}' is not an option of LMI; the model gets it as it is",
                hint=f"Did you mean '{known[near[0]]}'?",
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


def _unknown(setting: Setting, info: BackendInfo, known: list[str]) -> Problem:
    # A variable's name is its source; what is shown is the key it stands for. Elsewhere it is what the user wrote.
    written = setting.key if setting.written == setting.source else setting.written or setting.key
    shown_keys = list(dict.fromkeys(known))
    return Problem(
        code="config.unknown-key",
        message=f"'{written}' is not an option of {info.name} or of LMI",
        hint=names.did_you_mean(setting.key, shown_keys, f"The options are: {', '.join(sorted(shown_keys))}"),
        source=setting.source,
    )


def _of_no_use(setting: Setting, info: BackendInfo) -> Problem:
    return Problem(
        code="config.of-no-use",
        message=f"{setting.source}={setting.shown} stands for '{setting.key}', which {info.name} does not have",
        hint="Remove the variable",
        source=setting.source,
        severity=Severity.WARNING,
    )


def _matching_key(setting: Setting, keys: list[str]) -> str:
    """The key that a setting is for, or "". Variables cannot spell capitals, so for them case does not count."""
    if setting.key in keys:
        return setting.key
    if setting.written == setting.source:
        return next((key for key in keys if key.lower() == setting.key.lower()), "")
    return ""


def field_settings(model_type: type[BaseModel], settings: Settings) -> dict[str, Setting]:
    """Field name -> the setting that fills it, for every field that something sets."""
    return _chosen(model_type, settings)[0]


def _chosen(model_type: type[BaseModel], settings: Settings) -> tuple[dict[str, Setting], list[Problem]]:
    """The setting of each field, and what is wrong where several names of one field are set."""
    keys = keys_of(model_type)
    chosen: dict[str, Setting] = {}
    problems: list[Problem] = []
    for key, setting in settings.items():
        field_name = keys.get(_matching_key(setting, list(keys)))
        if field_name is None:
            continue
        rival = chosen.setdefault(field_name, setting)
        if rival.value != setting.value:
            problems.append(_conflict(rival, setting))
        main_key = names.canonical(model_type.model_fields[field_name].alias or field_name)
        if key == main_key:
            chosen[field_name] = setting
    return chosen, problems


def _fill(model_type: type[_Model], settings: Settings) -> tuple[_Model | None, list[Problem]]:
    """Build one typed object from the settings that are its own."""
    chosen, problems = _chosen(model_type, settings)
    fields = model_type.model_fields
    values = {name: coerce.coerce(setting.value, fields[name].annotation) for name, setting in chosen.items()}
    try:
        return model_type.model_validate(_by_alias(values, model_type)), problems
    except ValidationError as error:
        problems += [_invalid(each, model_type, chosen) for each in error.errors()]
        return None, problems


def _by_alias(values: dict[str, Any], model_type: type[BaseModel]) -> dict[str, Any]:
    """Pydantic fills an aliased field under its alias, whatever the class says about field names."""
    return {model_type.model_fields[name].alias or name: value for name, value in values.items()}


def _conflict(one: Setting, other: Setting) -> Problem:
    return Problem(
        code="config.conflict",
        message=(
            f"'{one.key}' = {one.shown!r} ({one.source}) and '{other.key}' = {other.shown!r} ({other.source}) are two "
            f"names of one option with different values"
        ),
        hint="Keep one of them",
    )


def _invalid(error: ErrorDetails, model_type: type[BaseModel], chosen: Mapping[str, Setting]) -> Problem:
    """A problem from one complaint of pydantic."""
    location = str(error["loc"][0]) if error["loc"] else ""
    by_alias = {info.alias or name: name for name, info in model_type.model_fields.items()}
    field_name = by_alias.get(location, location)
    info = model_type.model_fields.get(field_name)
    setting = chosen.get(field_name)
    if info is None or setting is None:
        return _unplaced(error, field_name, info)
    must_be = coerce.complaint(error)
    extra = info.json_schema_extra
    unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
    names_taken = coerce.choices(info.annotation)
    if must_be:
        reason = f"it must be {must_be}" + (f" ({unit})" if unit else "")
    elif names_taken:
        reason = "there is no such choice"
    else:
        reason = error["msg"].removeprefix("Value error, ")
    return Problem(
        code="config.invalid-value",
        message=f"'{setting.key}' is {setting.shown!r}; {reason}",
        hint=coerce.choice_hint(setting.value, names_taken) if names_taken else info.description or "",
        source=setting.source,
    )


def _unplaced(error: ErrorDetails, field_name: str, info: FieldInfo | None) -> Problem:
    """A complaint about a field that nothing sets, or about the options as a whole."""
    if info is not None and error["type"] == "missing":
        key = names.canonical(info.alias or field_name)
        return Problem(
            code="config.missing-key", message=f"'{key}' is not set and has no default", hint=info.description or ""
        )
    reason = error["msg"].removeprefix("Value error, ")
    return Problem(code="config.conflict", message=reason, hint="Change one of the options it names")
