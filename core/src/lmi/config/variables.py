# SPDX-License-Identifier: Apache-2.0
"""Settings that stand in variables: LMI's own, those of other servers, and what is doubtful about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from lmi.api import Problem, Severity
from lmi.config import names
from lmi.config.coerce import is_true
from lmi.config.settings import Setting

_ALMOST_OPTION = re.compile(r"OPTIONS_|OPTIONS?[.-]|OPTON_|OPTOIN_")
"""Beginnings of variables that were meant to be OPTION_."""

_FALSE = ("false", "0", "no", "off", "f", "n")


def from_variables(environ: Mapping[str, str], prefix: str) -> Iterator[Setting]:
    """Of SERVING_* only plain keys are settings of a model."""
    for variable in sorted(environ):
        value = environ[variable].strip()
        if not variable.startswith(prefix) or variable == prefix or not value:
            continue
        key = names.from_variable(variable.removeprefix(prefix))
        if prefix == "OPTION_" or key in names.PLAIN_KEYS:
            yield Setting(key, value, variable, written=variable)


def from_foreign_variables(environ: Mapping[str, str]) -> Iterator[Setting]:
    keys = {variable: (key,) for variable, key in (names.FOREIGN_VARIABLES | names.INVERSE_VARIABLES).items()}
    for variable, meant in (keys | names.VARIABLES_OF_SEVERAL_KEYS).items():
        value = environ.get(variable, "").strip()
        if value and variable in names.INVERSE_VARIABLES:
            value = _opposite(value)
        for key in meant if value else ():
            yield Setting(key, value, variable, written=variable, is_foreign=True)


def _opposite(value: str) -> str:
    """The other value of a switch; what is no switch stays as it is, to be refused."""
    if is_true(value):
        return "false"
    return "true" if value.lower() in _FALSE else value


def from_overriding_variables(environ: Mapping[str, str]) -> Iterator[Setting]:
    for variable, keys in names.OVERRIDING_VARIABLES.items():
        value = environ.get(variable, "").strip()
        for key in keys if value else ():
            yield Setting(key, value, variable, written=variable)


def doubtful_variables(environ: Mapping[str, str]) -> Iterator[Problem]:
    """Warnings for variables that have a successor, or are hardly anything but a known one misspelt."""
    for old, new in names.OLD_VARIABLES.items():
        if environ.get(old):
            yield _warning("config.deprecated", f"{old} is an old name of {new}", f"Set {new}", old)
    known = {*names.FOREIGN_VARIABLES, *names.INVERSE_VARIABLES, *names.OVERRIDING_VARIABLES}
    for variable in environ:
        is_ours = variable in known or variable in names.VARIABLES_OF_SEVERAL_KEYS
        if is_ours or variable.startswith(("OPTION_", "SERVING_", "LMI_")) or not environ[variable]:
            continue
        prefix = _ALMOST_OPTION.match(variable)
        near = f"OPTION_{variable[prefix.end() :]}" if prefix else names.nearly(variable, known)
        if near:
            message = f"{variable} is set, and is no variable of LMI"
            yield _warning("config.unknown-variable", message, f"Did you mean {near}?", variable)


def _warning(code: str, message: str, hint: str, source: str) -> Problem:
    return Problem(code=code, message=message, hint=hint, source=source, severity=Severity.WARNING)


def two_models(layers: Sequence[Setting]) -> list[Problem]:
    """A warning where a foreign variable names one model and LMI's own key another."""
    named = [layer for layer in layers if layer.key == "option.model_id"]
    if len(named) < 2 or not named[0].is_foreign or named[-1].value == named[0].value:
        return []
    return [
        Problem(
            code="config.overruled",
            message=f"{named[0].source}={named[0].value} is not served: {named[-1].source} names {named[-1].value}",
            hint=f"Remove {named[0].source}",
            source=named[0].source,
            severity=Severity.WARNING,
        )
    ]
