# SPDX-License-Identifier: Apache-2.0
"""From settings to typed options, with everything that is wrong reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lmi.api import BackendConfig, BackendInfo, ConfigError, Problem, Severity
from lmi.api.errors import counted
from lmi.config import coerce, names
from lmi.config.batching import turned_off_by, with_batch_size
from lmi.config.fields import keys_of, matching_key
from lmi.config.options import ModelOptions
from lmi.config.rules import ANY_MODEL, RULES
from lmi.config.settings import Setting, Settings
from lmi.config.strangers import deprecated, nearly_known, strangers
from lmi.config.unsupported import of_tables

__all__ = ["Parsed", "config_error", "field_settings", "fill", "judge", "keys_of", "parse", "sources_of"]

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Parsed:
    """A configuration that holds.

    Args:
        options: the core's.
        config: the backend's.
        warnings: what to tell the user.
        settings: those that these came from, with what some of them mean for others.
    """

    options: ModelOptions
    config: BackendConfig
    warnings: list[Problem] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)


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
        settings, info, config_type, other_config_types, allows_unknown: as ``judge`` has them.
    Raises:
        ConfigError: with every problem, each naming its key, value and source.
    """
    parsed, problems = judge(settings, info, config_type, other_config_types, allows_unknown=allows_unknown)
    if parsed is None:
        raise config_error([problem for problem in problems if problem.severity is Severity.ERROR])
    return parsed


def judge(
    settings: Settings,
    info: BackendInfo,
    config_type: type[BackendConfig],
    other_config_types: Mapping[str, type[BackendConfig]],
    *,
    allows_unknown: bool = False,
) -> tuple[Parsed | None, list[Problem]]:
    """Type every setting for the core and the chosen backend, and list everything wrong or doubtful.

    Args:
        settings: what was read.
        info: the chosen backend.
        config_type: its options.
        other_config_types: options of the other installed backends by name; their keys are warnings, not errors.
        allows_unknown: whether a model may have options of its own; one that looks misspelt is then a warning.
    Returns:
        The typed options, None where they do not hold; errors and warnings.
    """
    types: tuple[type[BaseModel], ...] = (ModelOptions, config_type)
    settings, problems = with_batch_size(settings)
    problems += settings.problems
    if allows_unknown:
        problems += nearly_known(settings, types)
    else:
        settings, told = _without_known(settings, types)
        problems += [*told, *strangers(settings, info, types, other_config_types)]
    problems += deprecated(settings, types)
    options, option_problems = fill(ModelOptions, settings)
    config, config_problems = fill(config_type, settings)
    for problem in option_problems + config_problems:
        # A key that the core and the backend share is wrong once, not twice.
        if (problem.message, problem.source) not in [(each.message, each.source) for each in problems]:
            problems.append(problem)
    if options is not None and config is not None:
        rules = ANY_MODEL if allows_unknown else RULES
        problems += [problem for rule in rules for problem in rule(options, config, settings, info)]
        problems += _together(config, settings)
    if options is None or config is None or any(problem.severity is Severity.ERROR for problem in problems):
        return None, problems
    if not allows_unknown:
        options, config, settings = _in_batches(options, config, settings, info)
    return Parsed(options, config, problems, settings), problems


def _without_known(settings: Settings, types: tuple[type[BaseModel], ...]) -> tuple[Settings, list[Problem]]:
    """The settings without the keys that are known and no options, and what is to be said of those."""
    told = list(of_tables(settings, [key for each in types for key in keys_of(each)]))
    return settings.without({setting.key for setting, _ in told}), [problem for _, said in told for problem in said]


def _in_batches(
    options: ModelOptions, config: BackendConfig, settings: Settings, info: BackendInfo
) -> tuple[ModelOptions, BackendConfig, Settings]:
    """What continuous batching being off means for other options; nothing where it is on."""
    off = turned_off_by(settings, info)
    if off is None:
        return options, config, settings
    because = settings.get("batch_size") or off
    size = Setting("option.max_rolling_batch_size", str(options.batch_size), f"{because.key}, {because.source}")
    config = config.model_copy(update={"max_rolling_batch_size": options.batch_size})
    settings = settings.replaced(size)
    streaming = settings.get("option.enable_streaming")
    if streaming is not None and options.enable_streaming != "false" and options.output_formatter is None:
        source = f"{streaming.key}, {streaming.source}"
        settings = settings.replaced(Setting("option.output_formatter", "jsonlines", source))
        options = options.model_copy(update={"output_formatter": "jsonlines"})
    return options, config, settings


def config_error(problems: list[Problem]) -> ConfigError:
    """The error that carries configuration problems."""
    return ConfigError(
        "config.invalid", f"{counted(len(problems), 'problem')} in the configuration; nothing was loaded", problems
    )


def _together(config: BackendConfig, settings: Settings) -> Iterator[Problem]:
    """What the backend finds wrong with its options together, with where each was set."""
    for conflict in config.conflicts():
        yield Problem(
            code=conflict.code,
            message=conflict.message,
            hint=conflict.hint,
            source=sources_of(type(config), conflict.fields, settings),
            severity=conflict.severity,
        )


def sources_of(model_type: type[BaseModel], fields: Sequence[str], settings: Settings) -> str:
    """Where the fields were set, in their order; a field that nothing sets has no place."""
    set_by = field_settings(model_type, settings)
    return ", ".join(dict.fromkeys(set_by[name].source for name in fields if name in set_by))


def field_settings(model_type: type[BaseModel], settings: Settings) -> dict[str, Setting]:
    """Field name -> the setting that fills it, for every field that something sets."""
    return _chosen(model_type, settings)[0]


def _chosen(model_type: type[BaseModel], settings: Settings) -> tuple[dict[str, Setting], list[Problem]]:
    """The setting of each field, and what is wrong where several names of one field are set."""
    keys = keys_of(model_type)
    chosen: dict[str, Setting] = {}
    problems: list[Problem] = []
    for key, setting in settings.items():
        field_name = keys.get(matching_key(setting, list(keys)))
        if field_name is None:
            continue
        rival = chosen.setdefault(field_name, setting)
        if rival.value != setting.value:
            problems.append(_conflict(rival, setting))
        main_key = names.canonical(model_type.model_fields[field_name].alias or field_name)
        if key == main_key:
            chosen[field_name] = setting
    return chosen, problems


def fill(model_type: type[_Model], settings: Settings) -> tuple[_Model | None, list[Problem]]:
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
        reason += ", or max" if field_name == "tensor_parallel_degree" and "number" in must_be else ""
    elif names_taken:
        reason = "there is no such choice"
    else:
        reason = error["msg"].removeprefix("Value error, ")
    return Problem(
        code="config.invalid-value",
        message=f"'{setting.key}' is {setting.shown!r}; {reason}",
        hint=coerce.likely_mistake(setting.value)
        or (coerce.choice_hint(setting.value, names_taken) if names_taken else info.description or ""),
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
