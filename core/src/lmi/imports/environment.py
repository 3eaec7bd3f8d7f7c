# SPDX-License-Identifier: Apache-2.0
"""Variables out of whatever people have them in: lines, JSON of a cloud or a container tool, a Python dict."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lmi.api import ConfigError, Problem
from lmi.api.errors import counted
from lmi.imports.notebook import Open, dicts_in, open_problems

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_BEFORE_A_NAME = re.compile(r"(?:export|ENV|-e|--env)\s+")
_ASSIGNED_TO = re.compile(r"\w+\s*[=:]\s*(?=[{\[])")
_LIKE_A_NOTEBOOK = re.compile(r"^(import|from)\s|[=:(]\s*(\{|dict\()", re.MULTILINE)
_NO_PYTHON = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_CONTINUED = re.compile(r"\s+\\$")
_ENVIRONMENT_KEYS = ("Environment", "environment", "Env", "env")
_DEEPEST = 6
"""Levels of JSON that are searched for an environment: describe-model and docker inspect need four."""


def read_environment(text: str, source: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a text holds, in its order; the last value of a name holds.

    Args:
        text: ``KEY=VALUE`` lines (``docker --env-file``, a shell's ``export``, a Dockerfile's ``ENV``); a JSON object
            or a notebook's Python dict of variables, alone or as ``Environment`` inside what describe-model prints; a
            list of ``"KEY=VALUE"`` or of names and values, alone or inside what docker inspect prints.
        source: where the text was read, for messages.
        environ: where a line that is only a name takes its value, as docker does.
    Raises:
        ConfigError: the text is none of these; values are not shown, since they may be secrets.
    """
    text = text.lstrip("\ufeff")
    stripped = _ASSIGNED_TO.sub("", text.strip(), count=1)
    if stripped.startswith(("{", "[")):
        return _the_one(_structures(text, stripped, source), source)
    try:
        return _from_lines(text, source, environ)
    except ConfigError:
        if not _LIKE_A_NOTEBOOK.search(text):
            raise
        return _the_one(_from_notebook(text, source), source)


def _the_one(structures: list[Any], source: str) -> dict[str, str]:
    """The one environment in them; among several, the one that has names of variables."""
    found: list[dict[str, Any]] = []
    for each in structures:
        found += [environment for environment in _environments(each, 0) if environment not in found]
    if len(found) > 1:
        found = [each for each in found if all(name == name.upper() for name in each)] or found
    if len(found) != 1:
        raise _not_an_environment(
            source,
            f"it has {len(found) or 'no'} environments of variables",
            "Give one container's variables: an object, or a list of KEY=VALUE",
        )
    problems = open_problems(found[0], source)
    if problems:
        reason = f"{counted(len(problems), 'value')} would need the notebook to run"
        raise _not_an_environment(source, reason, "Put the values into it", problems)
    return found[0]


def _not_an_environment(source: str, reason: str, hint: str, problems: list[Problem] | None = None) -> ConfigError:
    return ConfigError("config.not-an-environment", f"{source} cannot be imported: {reason}", problems or [], hint)


def _structures(text: str, stripped: str, source: str) -> list[Any]:
    try:
        return [json.loads(stripped)]
    except (ValueError, RecursionError) as error:
        found = _from_python(text)
        if found is not None:
            return found
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        reason = "it is neither JSON nor a Python dict"
        raise _not_an_environment(source, reason + place, "Correct it, or give KEY=VALUE lines") from error


def _from_notebook(text: str, source: str) -> list[Any]:
    try:
        return dicts_in(text)
    except _NO_PYTHON as error:
        place = f": line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else ""
        reason = f"it is neither KEY=VALUE lines nor Python{place}"
        raise _not_an_environment(source, reason, "Correct it, or give KEY=VALUE lines") from error


def _from_python(text: str) -> list[Any] | None:
    """The structures of a text; None where it is no Python."""
    try:
        return dicts_in(text)
    except _NO_PYTHON:
        return None


def _environments(value: Any, depth: int, is_one: bool = True) -> Iterator[dict[str, Any]]:
    """Every environment in a structure: the whole of it, or what lies under a key that is called so."""
    if depth > _DEEPEST:
        return
    as_list = _from_list(value) if is_one else None
    if as_list is not None:
        yield as_list
    elif isinstance(value, Mapping):
        named = [value[key] for key in _ENVIRONMENT_KEYS if isinstance(value.get(key), (Mapping, list))]
        is_flat = is_one and not named and all(isinstance(key, str) and _is_scalar(value[key]) for key in value)
        if is_flat and value:
            yield {key: _text(each) for key, each in value.items()}
        for each in named or (() if is_flat else value.values()):
            yield from _environments(each, depth + 1, bool(named))
    elif isinstance(value, list):
        for each in value:
            yield from _environments(each, depth + 1, False)


def _from_list(value: Any) -> dict[str, Any] | None:
    """``["K=V"]`` as docker has it, or ``[{"name": "K", "value": "V"}]`` as orchestrators do."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if all(isinstance(each, str) and _NAME.match(each) and "=" in each for each in value):
        return {name: text for name, _, text in (each.partition("=") for each in value)}
    if all(isinstance(each, Mapping) and _is_scalar(each.get("value")) and _is_named(each) for each in value):
        return {str(each["name"]): _text(each["value"]) for each in value}
    return None


def _is_named(each: Mapping[Any, Any]) -> bool:
    return isinstance(each.get("name"), str) and "value" in each


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool, Open))


def _text(value: Any) -> Any:
    """A value as a variable has it; one that is not known stays what it is."""
    if isinstance(value, Open):
        return value
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _from_lines(text: str, source: str, environ: Mapping[str, str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    problems = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        written = _CONTINUED.sub("", line.strip())
        if not written or written.startswith("#"):
            continue
        name, sign, value = _BEFORE_A_NAME.sub("", written, count=1).partition("=")
        name = name.strip()
        if not _NAME.fullmatch(name) or (not sign and name not in environ):
            problems.append(_bad_line(number, source))
            continue
        variables[name] = _unquoted(value.strip()) if sign else environ[name]
    if problems:
        counted = "a line is" if len(problems) == 1 else f"{len(problems)} lines are"
        raise _not_an_environment(source, f"{counted} not KEY=VALUE", "Correct the file", problems)
    return variables


def _bad_line(number: int, source: str) -> Problem:
    return Problem(
        code="config.bad-line",
        message=f"line {number} is not KEY=VALUE",
        hint="Write a variable a line; # begins a comment",
        source=f"{source}:{number}",
    )


def _unquoted(value: str) -> str:
    """The value without the quotes around it; in double ones a backslash protects what a shell lets it protect."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    inner = value[1:-1]
    return re.sub(r"\\([\"\\$`])", r"\1", inner) if value[0] == '"' else inner
