# SPDX-License-Identifier: Apache-2.0
"""Questions about imports are asked in a fresh process: in this one, too much is imported already.

Run as ``python -m lmi.testing.isolated QUESTION FOLDER LIMIT_S``; the folder has the arguments and gets the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import importlib.abc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import msgspec

from lmi.api import LmiError, ModelArtifacts, Target
from lmi.loading import load_engine
from lmi.plugins import Plugins
from lmi.plugins.discovery import ALLOW_LIST
from lmi.plugins.implementations import check_hooks, new_pluggy
from lmi.testing.live import TIME_SCALE
from lmi.threads import in_own_thread

N_DESCRIPTIONS = 100
"""How often a backend is described for rule P3."""

_ARGUMENTS, _ANSWER, _OUTPUT = "arguments.json", "answer.json", "output.txt"
_CLOSE_S = 10.0
_SHOWN_CHARACTERS = 2000
_STARTS = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen"
})  # fmt: skip
"""Audit events of a process that is started. Source: Python's table of audit events."""


def ask(question: Callable[..., Any], *, doing: str, timeout_s: float, **arguments: Any) -> Any:
    """Call one of this module's functions in a fresh Python with this process's path.

    Nothing that it started outlives the call, unless it left the session that the process gets.

    Args:
        question: the function.
        doing: what it does, as the beginning of a sentence about its failure.
        timeout_s: longest time it may take; multiplied by LMI_TEST_TIME_SCALE.
        arguments: of the function; they travel as JSON, as its answer does.
    Raises:
        AssertionError: it failed, or did not end in time; with the end of what it printed.
    """
    limit_s = timeout_s * TIME_SCALE
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONUNBUFFERED": "1",  # what it printed is there when it is killed
    }
    with tempfile.TemporaryDirectory(prefix="lmi-contract-") as name:
        folder = Path(name)
        (folder / _ARGUMENTS).write_text(json.dumps(arguments), "utf-8")
        command = [sys.executable, "-m", "lmi.testing.isolated", question.__name__, name, str(limit_s)]
        code = _run(command, folder / _OUTPUT, environ, limit_s)
        printed = (folder / _OUTPUT).read_text("utf-8", errors="replace").strip()[-_SHOWN_CHARACTERS:]
        told = f"; the end of what it printed:\n{printed}" if printed else "; it printed nothing"
        assert code is not None, f"{doing} did not end within {limit_s:g} s in a fresh process, which was killed{told}"
        is_answered = code == 0 and (folder / _ANSWER).is_file()
        assert is_answered, f"{doing} failed in a fresh process, which ended with code {code}{told}"
        return json.loads((folder / _ANSWER).read_text("utf-8"))


def _run(command: Sequence[str], output: Path, environ: dict[str, str], limit_s: float) -> int | None:
    """The exit code of a command, None if it took too long; all that it started is ended.

    Its output goes to a file: a pipe would stay open for as long as anybody has inherited it.
    """
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS forbids what is no longer there
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold even a killed process
            process.wait(_CLOSE_S)


# ------------------------------------------------------------------------------------------------------- the questions


def modules_after_listing(backend: str) -> list[str]:
    """Top-level modules that are there once a backend is described and its options are known."""
    _discover(backend).config_type(backend)
    return sorted(_top_level())


def description(backend: str, limit_s: float) -> dict[str, Any]:
    """What describing a backend does, from the first call on.

    Args:
        backend: its name.
        limit_s: wall time after which no further description is asked for.
    Returns:
        ``n``: descriptions made, a hundred unless the time ran out; ``wall_s``: seconds they took; ``is_equal``;
        ``imported``: modules; ``started``: processes.
    """
    (entry_point,) = entry_points(group="lmi.backends", name=backend)
    registry = new_pluggy()
    check_hooks(registry, entry_point.load(), backend)
    hook, started = registry.hook.lmi_describe_backend, list[str]()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS:
            started.append(f"{event}({', '.join(repr(each) for each in arguments[:2])})")

    sys.addaudithook(note)
    before, begin_s = set(sys.modules), time.perf_counter()
    first, n, is_equal = hook(), 1, True
    while n < N_DESCRIPTIONS and time.perf_counter() - begin_s < limit_s:
        is_equal = hook() == first and is_equal
        n += 1
    wall_s = time.perf_counter() - begin_s
    imported = sorted(set(sys.modules) - before)
    return {"n": n, "wall_s": wall_s, "is_equal": is_equal, "imported": imported, "started": started}


def modules_after_validation(backend: str, artifacts: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """Top-level modules that are there once a model was checked."""
    plugins = _discover(backend)
    config = plugins.config_type(backend).model_validate(options)
    found = msgspec.convert(artifacts, ModelArtifacts)
    plugins.hooks(backend).lmi_validate_artifacts(artifacts=found, config=config, target=Target())
    return sorted(_top_level())


def load_without(
    backend: str, artifacts: dict[str, Any], options: dict[str, Any], absent: Sequence[str]
) -> dict[str, Any]:
    """Load while some top-level modules cannot be imported, and close what was loaded.

    Returns:
        ``error``: code or class of what the load raised, None if it was loaded; ``message`` and ``hint`` of it;
        ``modules``: top-level modules that the plugin and the load brought; ``closing``: what went wrong at the end.
    """
    before = _top_level()
    sys.meta_path.insert(0, _Absence(frozenset(absent)))
    plugins = _discover(backend)
    found = msgspec.convert(artifacts, ModelArtifacts)

    async def scenario() -> dict[str, Any]:
        answer: dict[str, Any] = {"error": None, "message": "", "hint": "", "closing": ""}
        engine = None
        try:
            engine = await in_own_thread(lambda: load_engine(plugins, backend, found, options, _no_progress))
        except LmiError as failure:
            answer.update(error=failure.code, message=failure.message, hint=failure.hint)
        except BaseException as failure:
            answer.update(error=type(failure).__name__, message=str(failure))
        answer["modules"] = sorted(_top_level() - before)
        if engine is not None:
            answer["closing"] = await _close(engine)
        return answer

    # Not asyncio.run: at its end it would wait for whatever still runs in threads.
    return asyncio.new_event_loop().run_until_complete(scenario())


async def _close(engine: Any) -> str:
    limit_s = _CLOSE_S * TIME_SCALE
    try:
        await asyncio.wait_for(engine.close(), limit_s)
    except asyncio.TimeoutError:
        return f"it did not end within {limit_s:g} s"
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}"
    return ""


class _Absence(importlib.abc.MetaPathFinder):
    """Makes modules look as if they were not installed."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def _no_progress(stage: str, fraction: float | None = None) -> None:
    return


def _discover(backend: str) -> Plugins:
    """The backend alone, without the extensions that happen to be installed."""
    return Plugins.discover({ALLOW_LIST: ""}, only_backend=backend)


def _top_level() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def main() -> None:
    name, folder, limit_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    faulthandler.dump_traceback_later(0.9 * limit_s)  # whoever is about to be killed says where it hangs
    arguments = json.loads((folder / _ARGUMENTS).read_text("utf-8"))
    answer = cast(Callable[..., Any], globals()[name])(**arguments)
    (folder / _ANSWER).write_text(json.dumps(answer), "utf-8")
    os._exit(0)  # an engine's threads need not end


if __name__ == "__main__":
    main()
