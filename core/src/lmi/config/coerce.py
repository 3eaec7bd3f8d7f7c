# SPDX-License-Identifier: Apache-2.0
"""From text to the value that pydantic checks, and from pydantic's complaint to words."""

from __future__ import annotations

import json
import types
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import ErrorDetails

from lmi.config.names import did_you_mean

_TRUE = frozenset({"true", "1", "yes", "on", "y", "t"})


def coerce(text: str, annotation: Any) -> Any:
    """Turn text into what a field of this type takes; text that does not fit is returned as it is, to be refused.

    Numbers and switches stay text (pydantic reads them, in any case); lists are ``a,b`` or JSON; maps are
    ``K=V,K2=V2`` or JSON; names are found whatever their case; ``none`` empties a field that may be empty.
    """
    members = _members(annotation)
    if type(None) in members and text.lower() in ("none", "null"):
        return None
    for member in members:
        for choice in choices(member):
            if choice.lower() == text.lower():
                return choice
    for member in members:
        origin = get_origin(member) or member
        if not isinstance(origin, type) or issubclass(origin, str):
            continue
        if issubclass(origin, Mapping):
            return _map(text)
        if issubclass(origin, (Sequence, set, frozenset)):
            return _list(text)
    return text


def is_true(text: str) -> bool:
    """Whether a switch is on, as pydantic reads it: ``true``, ``1``, ``yes``, ``on``, ``y`` or ``t``, in any case."""
    return text.strip().lower() in _TRUE


def as_text(value: Any) -> str:
    """The inverse: how a user writes a value in a file or a variable."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return json.dumps(value if isinstance(value, Mapping) else list(value))
    return str(value)


def choices(annotation: Any) -> list[str]:
    """The names a field of this type takes; empty where it is open."""
    found: list[str] = []
    for member in _members(annotation):
        if get_origin(member) is Literal:
            found += [value for value in get_args(member) if isinstance(value, str)]
        elif isinstance(member, type) and issubclass(member, Enum):
            found += [each.value for each in member if isinstance(each.value, str)]
    return found


def complaint(error: ErrorDetails) -> str:
    """One pydantic error in words that fit after "it must be"; "" where pydantic's own words have to do."""
    context = error.get("ctx", {})
    known = {
        "int_parsing": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "bool_parsing": "true or false",
        "finite_number": "a finite number",
        "dict_type": "K=V,K2=V2 or a JSON object",
        "list_type": "a,b,c or a JSON list",
        "tuple_type": "a,b,c or a JSON list",
    }
    bounds = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}
    words = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
    kind = error["type"]
    if kind in bounds:
        bound = bounds[kind]
        limit = context[bound]
        # Pydantic turns the bounds of a float field into floats; people wrote 1, not 1.0.
        return f"{words[bound]} {int(limit) if limit == int(limit) else limit}"
    return known.get(kind, "")


def likely_mistake(text: str) -> str:
    """What went wrong where a value that is refused has a usual form of mistake; "" where nothing shows."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return "Take the quotes out: they are part of the value"
    if " //" in text or " ;" in text:
        return "A comment begins with # and stands on a line of its own"
    if text.startswith(("{", "[")):
        try:
            json.loads(text)
        except ValueError as error:
            quotes = "; JSON has double quotes" if "'" in text else ""
            return f"The JSON is broken: {error}{quotes}"
    return ""


def choice_hint(value: str, names: Collection[str]) -> str:
    """Every choice and the nearest one."""
    listed = f"Choices: {', '.join(names)}."
    return " ".join(part for part in (did_you_mean(value, names), listed) if part)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, flat; a single type gives itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in _members(part))
    return (annotation,)


def _list(text: str) -> Any:
    if text.startswith("["):
        return _json(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def _map(text: str) -> Any:
    if text.startswith("{"):
        return _json(text)
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(name.strip() and sign for name, sign, _ in pairs):
        return text
    return {name.strip(): value.strip() for name, _, value in pairs}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
