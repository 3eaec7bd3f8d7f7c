# SPDX-License-Identifier: Apache-2.0
"""Whether a stand-in still has the signatures that were recorded of the real library, and nothing else.

A record is a file of ``contracts/``: qualified name -> class, function or enumeration, with parameters, defaults and
members as texts of the library's own source. A stand-in may lack what it does not need; what it has is as recorded.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

_FACTORY = "<factory>"
_NO_DEFAULT = "no default"
_OWN_WAYS = ("self", "cls")


def differences(module: ModuleType, contract_path: Path) -> list[str]:
    """What a stand-in has otherwise than the record; empty where all of it is as recorded.

    Args:
        module: the stand-in's package; every module in it whose path has no leading underscore is compared.
        contract_path: the record.
    """
    items = json.loads(contract_path.read_text())["items"]
    found: list[str] = []
    for each in _modules(module):
        for name, thing in vars(each).items():
            is_own = getattr(thing, "__module__", "") == each.__name__
            if not is_own or not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            path = f"{each.__name__}.{name}"
            if path in items:
                found += _compared(path, thing, items[path], items)
            elif not name.startswith("_"):
                found.append(f"{path} is not in the record")
    return found


def _modules(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for each in pkgutil.walk_packages(module.__path__, f"{module.__name__}."):
        if not any(part.startswith("_") for part in each.name.split(".")):
            yield importlib.import_module(each.name)


def _compared(path: str, thing: Any, item: Mapping[str, Any], items: Mapping[str, Any]) -> Iterator[str]:
    if item["type"] == "enum":
        yield from _members(path, thing, item)
        return
    if "parameters" in item:
        yield from _parameters(path, thing, item["parameters"])
    fields = _fields(item, items)
    if fields and "parameters" not in item:
        yield from _compare_fields(path, thing, fields)
    if inspect.isclass(thing):
        yield from _methods(path, thing, item, fields)


def _members(path: str, thing: type[enum.Enum], item: Mapping[str, Any]) -> Iterator[str]:
    recorded = {name: ast.literal_eval(value) for name, value in item["members"].items()}
    given = {name: member.value for name, member in thing.__members__.items()}
    for name in sorted({*recorded, *given}):
        if recorded.get(name) != given.get(name):
            yield f"{path}.{name} is {given.get(name)!r}, recorded {recorded.get(name)!r}"


def _parameters(path: str, thing: Any, recorded: list[dict[str, Any]]) -> Iterator[str]:
    given = [each for each in inspect.signature(thing).parameters.values() if each.name not in _OWN_WAYS]
    names, wanted = [each.name for each in given], [each["name"] for each in recorded]
    if names != wanted:
        yield f"{path}({', '.join(names)}), recorded ({', '.join(wanted)})"
        return
    for each, record in zip(given, recorded, strict=True):
        kind = each.kind.name.lower()
        if kind != record["kind"]:
            yield f"{path}({each.name}) is {kind}, recorded {record['kind']}"
        yield from _compare_default(f"{path}({each.name})", each.default, record.get("default"))


def _fields(item: Mapping[str, Any], items: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a class, those that it inherits from another recorded class included."""
    fields: dict[str, Any] = {}
    for name in item.get("bases", ()):
        above = next((other for path, other in items.items() if path.endswith(f".{name}")), None)
        if above is not None:
            fields.update(_fields(above, items))
    return {**fields, **item.get("fields", {})}


def _compare_fields(path: str, thing: Any, fields: Mapping[str, Any]) -> Iterator[str]:
    given = {name: each for name, each in inspect.signature(thing).parameters.items() if name not in _OWN_WAYS}
    for name in [*fields, *(name for name in given if name not in fields)]:
        if name not in given and hasattr(thing, name):  # an attribute of the class, no parameter
            yield from _compare_default(f"{path}.{name}", getattr(thing, name), fields[name].get("default"))
        elif name not in given:
            yield f"{path}.{name} is recorded, and is not there"
        elif name not in fields:
            yield f"{path}.{name} is not in the record"
        else:
            yield from _compare_default(f"{path}.{name}", given[name].default, fields[name].get("default"))


def _methods(path: str, thing: type, item: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    recorded, public = item.get("methods", {}), [name.removeprefix("_") for name in fields]
    properties = {*item.get("properties", ()), *item.get("constants", ()), *fields, *public}
    for name, record in recorded.items():
        method = getattr(thing, name, None)
        if method is None:
            continue
        yield from _parameters(f"{path}.{name}", method, record["parameters"])
        if inspect.iscoroutinefunction(method) != bool(record.get("async")):
            yield f"{path}.{name}: only one of record and stand-in is a coroutine function"
    for name in vars(thing):
        if not name.startswith("_") and name not in recorded and name not in properties:
            yield f"{path}.{name} is not in the record"


def _compare_default(place: str, given: Any, recorded: str | None) -> Iterator[str]:
    said = _NO_DEFAULT if given is inspect.Parameter.empty else _text(given)
    if recorded is None:
        fits = said == _NO_DEFAULT
    elif said == _FACTORY:
        fits = recorded in (_FACTORY, "[]", "{}")
    else:
        fits = _equal(given, said, recorded)
    if not fits:
        yield f"{place} has the default {said}, recorded {recorded or _NO_DEFAULT}"


def _text(value: Any) -> str:
    """A default as the source of the library writes it."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    return repr(value)


def _equal(given: Any, said: str, recorded: str) -> bool:
    try:
        wanted = ast.literal_eval(recorded)
    except ValueError:  # no literal: the member of an enumeration, or a call without arguments
        return said == recorded or recorded == f"{type(given).__name__}()"
    return bool(type(given) is type(wanted) and given == wanted)
