# SPDX-License-Identifier: Apache-2.0
"""Whether the vLLM that is installed is one that this plugin can drive: a probe of every symbol that it uses."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib import metadata

from lmi.api import BackendInfo, Problem, Symbol, lacks_of
from lmi_vllm.symbols import ARGUMENTS, SYMBOLS

_LIBRARY = "vllm"
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM and transformers import wherever it is installed. Text needs none of them; each is built for one torch."""


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
            for lacked in lacks_of(symbol)
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
