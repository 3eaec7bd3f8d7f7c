# SPDX-License-Identifier: Apache-2.0
"""Whether the vLLM that is installed is one that this plugin can drive: a probe of every symbol that it uses."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib import metadata
from typing import Any

from lmi.api import BackendInfo, Problem
from lmi_vllm.symbols import ARGUMENTS, SYMBOLS, Symbol

_LIBRARY = "vllm"
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM and transformers import wherever it is installed. Text needs none of them; each is built for one torch."""

_MISSING = object()


def find_problems(info: BackendInfo, arguments: Collection[str] = ()) -> list[Problem]:
    """Import vLLM, and list everything of SYMBOLS that it lacks.

    To be called where vLLM may be imported: in a worker, once its environment is prepared, or in a process that only
    looks.

    Args:
        info: the backend's description, whose tested versions and command to install go into what to do.
        arguments: names of those that the engine will get, beside the ones that it always gets.
    """
    build, version = _build(info)
    try:
        importlib.import_module(_LIBRARY)
        problems = [
            Problem(code="engine.symbol-moved", message=f"{build} {version} has no {lacked}", hint=_hint(info, build))
            for symbol in _with_arguments(arguments)
            for lacked in _lacked(symbol)
        ]
    except Exception as error:
        return _broken(error, info, f"{build} {version}")
    return problems


def _with_arguments(arguments: Collection[str]) -> Iterator[Symbol]:
    for symbol in SYMBOLS:
        if (symbol.module, symbol.name) == ARGUMENTS:
            yield replace(symbol, keywords=tuple(sorted({*symbol.keywords, *arguments})))
        else:
            yield symbol


def _build(info: BackendInfo) -> tuple[str, str]:
    """Name and version of the distribution that holds the module."""
    for library in info.engine_libraries:
        for name in library.names:
            with contextlib.suppress(metadata.PackageNotFoundError):
                return name, metadata.version(name)
    return _LIBRARY, "of an unknown version"


def _hint(info: BackendInfo, build: str) -> str:
    versions = next((each.versions for each in info.engine_libraries if build in each.names), "")
    return f"This plugin was tested with {build}{versions}: {sys.executable} -m pip install '{build}{versions}'"


# -------------------------------------------------------------------------------------------------------- the symbols


def _lacked(symbol: Symbol) -> Iterator[str]:
    """What is missing of a symbol, as people write it; nothing where all of it is there.

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


# ------------------------------------------------------------------------------------------------- broken libraries


def _broken(error: Exception, info: BackendInfo, engine: str) -> list[Problem]:
    """Why vLLM cannot be imported: a library beside it that was built for another torch, or whatever it said."""
    if isinstance(error, ModuleNotFoundError) and error.name == _LIBRARY:
        message = f"{engine} is installed, and {sys.executable} finds no module {_LIBRARY}"
        return [Problem(code="engine.not-installed", message=message, hint=info.install)]
    companions = {name: failure for name in _COMPANIONS if (failure := _failure(name))}
    problems = [_unfit(name, failure, engine) for name, failure in companions.items()]
    said = _said(error)
    if said in companions.values():
        return problems
    hint = f"Full traceback: {sys.executable} -c 'import vllm.v1.engine.async_llm'"
    message = f"{engine} cannot be imported: {said}"
    return [*problems, Problem(code="engine.library-broken", message=message, hint=hint)]


def _failure(name: str) -> str:
    """What importing an installed library raises; "" where it is not there, or works."""
    try:
        metadata.version(name)
        importlib.import_module(name)
    except metadata.PackageNotFoundError:
        return ""
    except Exception as error:
        return _said(error)
    return ""


def _said(error: BaseException) -> str:
    while (cause := error.__cause__) is not None:
        error = cause
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _unfit(name: str, failure: str, engine: str) -> Problem:
    torch = "torch"
    with contextlib.suppress(metadata.PackageNotFoundError):
        torch = f"torch {metadata.version('torch')}"
    return Problem(
        code="engine.library-broken",
        message=f"{name} {metadata.version(name)} does not fit {torch}, and {engine} imports it: {failure}",
        hint=f"Text needs none, images and sound one that fits: {sys.executable} -m pip uninstall -y {name}",
    )
