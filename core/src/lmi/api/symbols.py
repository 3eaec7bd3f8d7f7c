# SPDX-License-Identifier: Apache-2.0
"""What a backend uses of its engine library, as a list, and a look at whether the installed one has all of it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Symbol:
    """One thing of an engine library's.

    Args:
        module: where it is imported from.
        name: of it, inside a class with a dot: ``Engine.generate``.
        passed: names of the parameters that are given by position, in order.
        keywords: names of the parameters that are given by name.
        called: whether it is called at all: then it must need no parameter but these.
        members: what is read of it or of its instances: fields, attributes, methods, members of an enumeration.
        written: what a class of the plugin implements of it: method -> the parameters it takes, or ``*`` for any.
    """

    module: str
    name: str
    passed: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    called: bool = False
    members: tuple[str, ...] = ()
    written: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def path(self) -> str:
        """``library.module.Engine.generate``."""
        return f"{self.module}.{self.name}"


def lacks_of(symbol: Symbol) -> Iterator[str]:
    """What is missing of a symbol, as people write it; nothing where all of it is there. Imports its module.

    Raises:
        Exception: whatever the import of its module raised, unless it is only that there is no such module.
    """
    found = _found(symbol)
    if found is _MISSING:
        yield symbol.path
        return
    for member in symbol.members:
        if not _has(found, member):
            yield f"{symbol.path}.{member}"
    if symbol.called:
        yield from _misfits_of_call(symbol, found)
    if symbol.written:
        yield from _misfits_of_methods(symbol, found)


def _found(symbol: Symbol) -> Any:
    try:
        found: Any = importlib.import_module(symbol.module)
    except ModuleNotFoundError as error:
        if not f"{symbol.module}.".startswith(f"{error.name}."):
            raise
        return _MISSING
    for name in symbol.name.split("."):
        found = getattr(found, name, _MISSING)
        if found is _MISSING:
            return _MISSING
    return found


def _has(owner: Any, name: str) -> bool:
    """Whether instances of a class have an attribute, as far as the class tells."""
    if hasattr(owner, name) or name in getattr(owner, "__dataclass_fields__", {}):
        return True
    for each in getattr(owner, "__mro__", ()):
        with contextlib.suppress(NameError):  # an annotation that only a type checker can read
            if name in inspect.get_annotations(each):
                return True
    parameters = _parameters(owner) or {}
    return name in parameters


def _parameters(function: Any) -> dict[str, inspect.Parameter] | None:
    """Those that a caller gives; None where Python cannot tell."""
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    if inspect.isfunction(function) and next(iter(parameters), "") == "self":
        del parameters["self"]
    return parameters


def _misfits_of_call(symbol: Symbol, function: Any) -> Iterator[str]:
    keywords = symbol.keywords
    if inspect.isclass(function) and issubclass(function, dict):  # a TypedDict takes any keyword
        yield from (f"{symbol.path}[{name!r}]" for name in keywords if not _has(function, name))
        return
    parameters = _parameters(function)
    if parameters is None:
        return
    kinds = {each.kind for each in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        yield from (f"{symbol.path}({name}=)" for name in keywords if name not in parameters)
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [name for name, each in parameters.items() if each.kind in by_position]
    for place, name in enumerate(symbol.passed):
        if inspect.Parameter.VAR_POSITIONAL not in kinds and places[place : place + 1] != [name]:
            yield f"{symbol.path}({name}) in place {place + 1}"
    given = {*places[: len(symbol.passed)], *symbol.passed, *keywords}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, each in parameters.items():
        if each.default is inspect.Parameter.empty and each.kind not in variable and name not in given:
            yield f"{symbol.path}() without {name!r}"


def _misfits_of_methods(symbol: Symbol, owner: Any) -> Iterator[str]:
    written = dict(symbol.written)
    for name in sorted(getattr(owner, "__abstractmethods__", frozenset()) - set(written)):
        yield f"{symbol.path} without the abstract method {name!r}"
    for name, taken in written.items():
        method = getattr(owner, name, _MISSING)
        if method is _MISSING:
            yield f"{symbol.path}.{name}"
        else:
            given = _parameters(method) or {}
            yield from (f"{symbol.path}.{name}() without {each!r}" for each in given if each not in taken)
