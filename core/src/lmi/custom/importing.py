# SPDX-License-Identifier: Apache-2.0
"""Import a file by its path."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from lmi.api import EngineLoadError
from lmi.config.names import did_you_mean

_PREDECESSOR = "djl_python"


def import_file(path: Path, name: str, *, folder_first: bool = False) -> ModuleType:
    """Run a file as the module ``name``; it may import what lies beside it.

    Args:
        path: the file.
        name: what the module is called, in ``sys.modules`` too.
        folder_first: whether files beside it win over installed packages of the same name, as they did for the
            predecessor's handlers; a server never lets a model do that.
    Raises:
        EngineLoadError: with the line of the file that failed.
    """
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0 if folder_first else len(sys.path), folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise EngineLoadError("script.import-failed", f"{path} cannot be imported", "Give it a name ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        message = f"{path.name} cannot be imported: {said(error, path)}"
        raise EngineLoadError("script.import-failed", message, _hint(error)) from error
    return module


def function_of(module: ModuleType, name: str) -> Any:
    """A function of an imported file.

    Raises:
        EngineLoadError: there is none of that name after all.
    """
    function = getattr(module, name, None)
    if callable(function):
        return function
    message = f"{name} of {module.__name__}.py is {function!r}, which cannot be called"
    raise EngineLoadError("script.nothing", message, did_you_mean(name, [*vars(module)], "Make it a function"))


def said(error: BaseException, path: Path) -> str:
    """An exception with the last line of the file it went through: ``KeyError: 'x' (model.py:12)``."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    where = f" ({path.name}:{lines[-1]})" if lines else ""
    text = str(error)
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _hint(error: BaseException) -> str:
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return "The traceback is in the log"
    if error.name.partition(".")[0] == _PREDECESSOR:
        return f"Of {_PREDECESSOR}, LMI has Input, Output, output_formatter, request_io and encode_decode"
    return f"Install {error.name.partition('.')[0]} into the environment of {sys.executable}"
