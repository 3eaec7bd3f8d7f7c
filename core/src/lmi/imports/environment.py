# SPDX-License-Identifier: Apache-2.0
"""Variables out of whatever people have them in: lines, JSON of a cloud or a container tool, a Python dict."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lmi.api import ConfigError, Problem

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_BEFORE_A_NAME = re.compile(r"(?:export|ENV|-e|--env)\s+")
_ASSIGNED_TO = re.compile(r"\w+\s*[=:]\s*(?=[{\[])")
_CONTINUED = re.compile(r"\s+\\$")
_ENVIRONMENT_KEYS = ("Environment", "environment", "Env", "env")
_DEEPEST = 6
"""Levels of JSON that are searched for an environment: describe-model and docker inspect need four."""


def read_environment(text: str, source: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a text holds, in its order; the last value of a name holds.

    Args:
        text: ``KEY=VALUE`` lines (``docker --env-file``, a shell's ``export``, a Dockerfile's ``ENV``); a JSON object
            or Python dict of variables, alone or as ``Environment`` inside what describe-model prints; a list of
            ``"KEY=VALUE"`` or of names and values, alone or inside what docker inspect prints.
        source: where the text was read, for messages.
        environ: where a line that is only a name takes its value, as docker does.
    Raises:
        ConfigError: the text is none of these; values are not shown, since they may be secrets.
    """
    stripped = _ASSIGNED_TO.sub("", text.strip().lstrip("\ufeff"), count=1)
    if stripped.startswith(("{", "[")):
        found = list(_environments(_structure(stripped, source), 0))
        if len(found) != 1:
            raise _not_an_environment(
                source,
                f"it has {len(found) or 'no'} environments of variables",
                "Give one container's variables: an object, or a list of KEY=VALUE",
            )
        return found[0]
    return _from_lines(text, source, environ)


def _not_an_environment(source: str, reason: str, hint: str, problems: list[Problem] | None = None) -> ConfigError:
    return ConfigError("config.not-an-environment", f"{source} cannot be imported: {reason}", problems or [], hint)


def _structure(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        first = error
    try:
        return ast.literal_eval(text)  # a dict as it stands in a notebook
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        reason = "it is neither JSON nor a Python dict"
        place = f" (line {first.lineno})" if isinstance(first, json.JSONDecodeError) else ""
        raise _not_an_environment(source, reason + place, "Correct it, or give KEY=VALUE lines") from first


def _environments(value: Any, depth: int, is_one: bool = True) -> Iterator[dict[str, str]]:
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


def _from_list(value: Any) -> dict[str, str] | None:
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
    return value is None or isinstance(value, (str, int, float, bool))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _from_lines(text: str, source: str, environ: Mapping[str, str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    problems = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.lstrip("\ufeff")), start=1):
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
