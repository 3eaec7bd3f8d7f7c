# SPDX-License-Identifier: Apache-2.0
"""Whether the Neuron libraries that are installed are ones that this plugin can drive: a look at all that it uses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from importlib import metadata

from lmi.api import BackendInfo, Problem, Symbol, lacks_of
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.symbols import OPTIMUM, OPTIMUM_SYMBOLS, TNX, tnx_symbols

_DISTRIBUTIONS = {TNX: "transformers-neuronx", OPTIMUM: "optimum-neuron"}
_FIRST = {TNX: ("torch_neuronx",), OPTIMUM: ()}
"""What is imported before a library."""


def problems_of_library(info: BackendInfo, library: str, symbols: Iterable[Symbol]) -> list[Problem]:
    """Import a library, and list everything of some symbols that it lacks.

    Args:
        info: the backend's description, whose tested versions and command to install go into what to do.
        library: TNX or OPTIMUM.
        symbols: what is used of it.
    """
    version = _version(library)
    try:
        for name in (*_FIRST[library], library):
            importlib.import_module(name)
        return [
            Problem(code="engine.symbol-moved", message=f"{version} has no {lacked}", hint=_hint(info, library))
            for symbol in symbols
            for lacked in lacks_of(symbol)
        ]
    except Exception as error:
        return [_broken(error, info, library, version)]


def problems_of_any(info: BackendInfo, config: NeuronxConfig) -> list[Problem]:
    """The same for a configuration whose model is not known: of the library that it asks for, or that is here."""
    library = {"tnx": TNX, "optimum": OPTIMUM}.get(config.loader or "")
    if library is None:
        library = next((each for each in (TNX, OPTIMUM) if _is_installed(each)), TNX)
    symbols = tnx_symbols() if library == TNX else OPTIMUM_SYMBOLS
    return problems_of_library(info, library, symbols)


def _is_installed(library: str) -> bool:
    try:
        metadata.version(_DISTRIBUTIONS[library])
    except metadata.PackageNotFoundError:
        return False
    return True


def _version(library: str) -> str:
    name = _DISTRIBUTIONS[library]
    return f"{name} {metadata.version(name)}" if _is_installed(library) else name


def _hint(info: BackendInfo, library: str) -> str:
    choices = [choice for each in info.engine_libraries for choice in each.choices]
    versions = next((each.versions for each in choices if each.distribution == _DISTRIBUTIONS[library]), "")
    return f"This plugin was written for {_DISTRIBUTIONS[library]}{versions}; install one of these"


def _broken(error: Exception, info: BackendInfo, library: str, version: str) -> Problem:
    if isinstance(error, ModuleNotFoundError) and f"{library}.".startswith(f"{error.name}."):
        message = f"{version} is needed, and {sys.executable} finds no module {error.name}"
        if _is_installed(library):
            message += "; the public registry has an empty package of this name"
        return Problem(code="engine.not-installed", message=message, hint=info.install)
    if isinstance(error, ModuleNotFoundError) and error.name in _FIRST[library]:
        message = f"{version} needs {error.name}, which {sys.executable} does not find"
        return Problem(code="engine.not-installed", message=message, hint=info.install)
    said = str(error).strip().splitlines() or [""]
    return Problem(
        code="engine.library-broken",
        message=f"{version} cannot be imported: {type(error).__name__}: {said[0]}",
        hint=f"Full traceback: {sys.executable} -c 'import {library}'",
    )


__all__ = ["problems_of_any", "problems_of_library"]
