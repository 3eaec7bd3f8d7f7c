# SPDX-License-Identifier: Apache-2.0
"""Whether the TensorRT-LLM that is installed is one that this plugin can drive for a configuration."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from importlib import metadata

from lmi.api import BackendInfo, Problem, lacks_of
from lmi_trtllm.arguments import EngineArguments
from lmi_trtllm.paths import LAST_WITH_ENGINES, PYTORCH
from lmi_trtllm.portability import LIBRARY
from lmi_trtllm.symbols import ENGINE_MODULE, symbols_of

_MODULE = "tensorrt_llm"


def find_problems(info: BackendInfo, arguments: EngineArguments, reason: str = "") -> list[Problem]:
    """Import TensorRT-LLM, and list everything that it lacks of what these arguments will use.

    To be called where it may be imported: in a worker, or in a process that only looks.

    Args:
        info: the backend's description, whose tested versions go into what to do.
        arguments: what the library will be called with.
        reason: why engines are needed, where they are.
    """
    version = installed_version()
    try:
        importlib.import_module(_MODULE)
        if arguments.way != PYTORCH and importlib.util.find_spec(ENGINE_MODULE) is None:
            return [_no_engines(version, reason)]
        return [
            Problem(code="engine.symbol-moved", message=f"{LIBRARY} {version} has no {lacked}", hint=_hint(info))
            for symbol in symbols_of(arguments)
            for lacked in lacks_of(symbol)
        ]
    except Exception as error:
        return [_broken(error, info, version)]


def installed_version() -> str:
    """The version of TensorRT-LLM, as its distribution or else its module says."""
    for name in (LIBRARY, _MODULE):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return str(getattr(sys.modules.get(_MODULE), "__version__", "of an unknown version"))


def _hint(info: BackendInfo) -> str:
    (library,) = info.engine_libraries
    return f"This plugin was written for {library.distribution}{library.versions}; install one of these"


def _no_engines(version: str, reason: str) -> Problem:
    return Problem(
        code="engine.symbol-moved",
        message=f"{LIBRARY} {version} builds and runs no engines any more, and {reason}",
        hint=f"Install {LIBRARY} {LAST_WITH_ENGINES}, the last that is known to do so, or do without",
    )


def _broken(error: Exception, info: BackendInfo, version: str) -> Problem:
    if isinstance(error, ModuleNotFoundError) and error.name == _MODULE:
        message = f"{LIBRARY} {version}: {sys.executable} finds no module {_MODULE}"
        return Problem(code="engine.not-installed", message=message, hint=info.install)
    first = (str(error).strip().splitlines() or [""])[0]
    return Problem(
        code="engine.library-broken",
        message=f"{LIBRARY} {version} cannot be imported: {type(error).__name__}: {first}",
        hint=f"Full traceback: {sys.executable} -c 'import {_MODULE}'; it needs NVIDIA's driver and its own container",
    )
