# SPDX-License-Identifier: Apache-2.0
"""Reading every layer of a configuration, the lowest first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lmi.api import ConfigError, Problem, Severity
from lmi.api.errors import counted
from lmi.config import names
from lmi.config.properties import FILE_NAME, PropertiesFile, read_properties
from lmi.config.settings import Setting, Settings
from lmi.config.values import filled
from lmi.config.variables import (
    doubtful_variables,
    from_foreign_variables,
    from_overriding_variables,
    from_variables,
    two_models,
)


def read_settings(
    *,
    model_folder: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    model: Setting | None = None,
    file: PropertiesFile | None = None,
    defaults: Sequence[Setting] = (),
    entry: Sequence[Setting] = (),
) -> Settings:
    """Read every layer; what is wrong with a line is kept in ``problems`` and reported with everything else.

    Layers, highest first: the command line, variables of SageMaker's model servers, serving.properties, ``OPTION_*``,
    what ``load_models`` says of the model, ``SERVING_*`` (plain keys only), variables of other servers, defaults of
    all models. Empty variables count as unset.

    Args:
        model_folder: folder that may hold serving.properties.
        environ: environment variables.
        flags: keys and values of ``-o key=value``.
        model: a model id given on the command line, which beats every other ``option.model_id``.
        file: the serving.properties, where it was read from elsewhere than ``model_folder``.
        defaults: the lowest layer: plain keys of config.properties.
        entry: what the model's entry in ``load_models`` sets.
    """
    file_settings, problems = _from_file(model_folder, file)
    layers: list[Iterable[Setting]] = [
        defaults,
        from_foreign_variables(environ),
        from_variables(environ, "SERVING_"),
        entry,
        from_variables(environ, "OPTION_"),
        file_settings,
        from_overriding_variables(environ),
        [_flag(key, value, f"command line -o {key}") for key, value in flags.items()],
        [] if model is None else [model],
    ]
    ranked = [replace(setting, rank=rank) for rank, layer in enumerate(layers) for setting in layer]
    problems += [*two_models(ranked), *doubtful_variables(environ)]
    holding = {setting.key: index for index, setting in enumerate(ranked)}
    for index in sorted(holding.values()):  # what a higher layer overrode is not looked at
        ranked[index], problem = filled(ranked[index])
        problems += [problem] if problem is not None else []
    return Settings(ranked, problems)


def parse_flags(texts: Iterable[str]) -> dict[str, str]:
    """Split the ``key=value`` texts of ``-o``; the last one of a key holds.

    Raises:
        ConfigError: with every text that has no key or no ``=``.
    """
    flags: dict[str, str] = {}
    problems = []
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            problems.append(
                Problem(
                    code="config.bad-flag",
                    message=f"-o {names.shown('', text)!r} is not KEY=VALUE",
                    hint=f"Write it like -o {names.shown('', key).strip() or 'dtype'}=VALUE",
                    source="command line",
                )
            )
        flags[key.strip()] = value.strip()
    if problems:
        raise ConfigError(
            "config.invalid", f"{counted(len(problems), 'problem')} on the command line; nothing was loaded", problems
        )
    return flags


def _flag(key: str, value: str, source: str) -> Setting:
    return Setting(names.canonical(key.strip()), value.strip(), source, written=key.strip())


def _from_file(model_folder: Path | None, content: PropertiesFile | None) -> tuple[list[Setting], list[Problem]]:
    if content is None:
        if model_folder is None or not os.path.lexists(model_folder / FILE_NAME):
            return [], []
        content = read_properties(model_folder / FILE_NAME)
    problems = list(content.problems)
    first_lines: dict[str, str] = {}
    settings = []
    for line in content.lines:
        if not line.value:  # unset, as an empty variable is
            continue
        setting = Setting(names.canonical(line.key), line.value, line.source, written=line.key)
        if setting.key in first_lines:
            problems.append(_set_twice(setting, first_lines[setting.key]))
        first_lines[setting.key] = line.source
        settings.append(setting)
    return settings, problems


def _set_twice(setting: Setting, earlier_source: str) -> Problem:
    return Problem(
        code="config.set-twice",
        message=f"'{setting.key}' is set twice; {setting.shown!r} holds, the line {earlier_source} does not",
        hint="Keep one of the two lines",
        source=setting.source,
        severity=Severity.WARNING,
    )
