# SPDX-License-Identifier: Apache-2.0
"""Questions about imports are asked in a fresh process: in this one, too much is imported already.

Run as ``python -m lmi.testing.isolated QUESTION ARGUMENTS``; arguments and answer are JSON.
"""

from __future__ import annotations

import importlib.abc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from lmi.api import LmiError, ModelArtifacts, Target
from lmi.plugins import Plugins
from lmi.testing.live import TIME_SCALE

_N_DESCRIPTIONS = 100


def ask(question: Callable[..., Any], timeout_s: float = 120.0, **arguments: Any) -> Any:
    """Call one of this module's functions in a fresh Python with this process's path.

    Raises:
        AssertionError: it failed; with the end of what it printed.
    """
    command = [sys.executable, "-m", "lmi.testing.isolated", question.__name__, json.dumps(arguments)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environ, timeout=timeout_s * TIME_SCALE, check=False
    )
    last = done.stdout.strip().rpartition("\n")[2]
    assert done.returncode == 0, f"{question.__name__} failed in a fresh process:\n{done.stderr[-2000:]}"
    return json.loads(last)


def modules_after_listing(backend: str) -> list[str]:
    """Top-level modules that are there once a backend is described and its options are known."""
    plugins = Plugins.discover({}, only_backend=backend)
    plugins.config_type(backend)
    return _top_level()


def description(backend: str) -> dict[str, Any]:
    """CPU seconds of a hundred descriptions, whether all were equal, and what they imported."""
    hook = Plugins.discover({}, only_backend=backend).hooks(backend).lmi_describe_backend
    first, before, started_s = hook(), set(sys.modules), time.process_time()
    is_equal = all(hook() == first for _ in range(_N_DESCRIPTIONS))
    cpu_s = time.process_time() - started_s
    return {"cpu_s": cpu_s, "is_equal": is_equal, "imported": sorted(set(sys.modules) - before)}


def modules_after_validation(backend: str, artifacts: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """Top-level modules that are there once a model was checked."""
    plugins = Plugins.discover({}, only_backend=backend)
    config = plugins.config_type(backend).model_validate(options)
    found = msgspec.convert(artifacts, ModelArtifacts)
    plugins.hooks(backend).lmi_validate_artifacts(artifacts=found, config=config, target=Target())
    return _top_level()


def load_without(
    backend: str, artifacts: dict[str, Any], options: dict[str, Any], absent: Sequence[str]
) -> dict[str, Any]:
    """Load while some top-level modules cannot be imported: the error, and the modules that are there."""
    from lmi.loading import load_engine

    sys.meta_path.insert(0, _Absence(frozenset(absent)))
    plugins = Plugins.discover({}, only_backend=backend)
    found = msgspec.convert(artifacts, ModelArtifacts)
    error: dict[str, Any] = {"error": None}
    try:
        load_engine(plugins, backend, found, options, lambda stage, fraction=None: None)
    except LmiError as failure:
        error = {"error": failure.code, "message": failure.message, "hint": failure.hint}
    except BaseException as failure:
        error = {"error": type(failure).__name__, "message": str(failure), "hint": ""}
    return {**error, "modules": _top_level()}


class _Absence(importlib.abc.MetaPathFinder):
    """Makes modules look as if they were not installed."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def _top_level() -> list[str]:
    return sorted({name.partition(".")[0] for name in sys.modules})


def main() -> None:
    question = cast(Callable[..., Any], globals()[sys.argv[1]])
    answer = question(**json.loads(sys.argv[2]))
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # an engine's threads need not end


if __name__ == "__main__":
    main()
