# SPDX-License-Identifier: Apache-2.0
"""Whether the engine library that a worker would find is one that its backend can drive.

``lmi check`` has it found out by a process like a worker: under the same Python, with the same variables, where
``lmi.engine_check`` looks. A worker finds the same out when it loads.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

import lmi
from lmi.api import BackendConfig, BackendInfo, EngineLoadError, LmiError, Problem, Severity
from lmi.api.backend import CONTRACT_VERSION
from lmi.checking import problems_of
from lmi.custom.model_file import Kind
from lmi.engine_check import ANSWER, QUESTION
from lmi.plugins import Plugins
from lmi.plugins.libraries import library_problems
from lmi.resolution import Resolution
from lmi.versions import other_contract

LIMIT_S = 300.0
"""What importing an engine library may take; one on a cold network disk takes minutes."""

_OUTPUT = "output.txt"
_NO_CORE, _OTHER_CORE = 96, 97
_CLOSE_S = 5.0
_N_TOLD_LINES = 3
_PYTHON = "option.pythonExecutable"
# Not ``-m``: the current folder, which may be a model's, must not be imported from.
_PROGRAM = f"""
import sys
sys.path[:] = filter(None, sys.path)
try:
    import lmi
except ImportError:
    sys.exit({_NO_CORE})
try:
    from lmi.engine_check import main
except ModuleNotFoundError as error:
    if error.name != "lmi.engine_check":
        raise
    sys.exit({_OTHER_CORE})
main(sys.argv[1])
"""


def probe(found: Resolution, plugins: Plugins) -> list[Problem]:
    """What a worker of this configuration would find wrong with its engine library.

    Nothing where no worker would look: for another machine, for a model's own handler, for a backend that cannot load
    yet, and where the configuration does not say which Python it would be.

    Args:
        found: the configuration.
        plugins: what is installed here.
    """
    is_custom = found.model_file is not None and found.model_file.kind is Kind.CUSTOM
    if found.choice is None or found.parsed is None or not found.is_here or is_custom:
        return []
    info, options, config = found.choice.info, found.parsed.options, found.parsed.config
    if not info.is_loadable:
        return []
    try:
        is_asked = plugins.hooks(info.name).lmi_check_engine.get_hookimpls()
        if options.python_executable is None and not options.env and not is_asked:
            return library_problems(info)
        environ = {**os.environ, **options.env, **found.copies.environ_of(0)}
        return ask(options.python_executable or sys.executable, info, config, environ)
    except LmiError as error:
        return _placed(problems_of(error), found)


def ask(
    python: str, info: BackendInfo, config: BackendConfig, environ: Mapping[str, str], *, limit_s: float = LIMIT_S
) -> list[Problem]:
    """What a Python has of a backend's engine, and what is wrong with it. Nothing that it started is left running.

    Args:
        python: the worker's.
        info: the backend.
        config: its options.
        environ: the worker's variables.
        limit_s: what it may take.
    Raises:
        EngineLoadError: that Python cannot be asked, or died; the end of what it printed says why.
    """
    question = {
        "contract_version": CONTRACT_VERSION,
        "backend": info.name,
        "options": config.model_dump(mode="json", by_alias=False),
    }
    with tempfile.TemporaryDirectory(prefix="lmi-engine-") as name:
        folder = Path(name)
        (folder / QUESTION).write_text(json.dumps(question), "utf-8")
        code = _run([python, "-c", _PROGRAM, name], folder / _OUTPUT, environ, limit_s)
        if code is None:
            return [_late(python, limit_s, folder / _OUTPUT)]
        if code in (_NO_CORE, _OTHER_CORE):
            raise _wrong_core(python, info, is_there=code == _OTHER_CORE)
        if code or not (folder / ANSWER).is_file():
            raise _died(python, info, code, folder / _OUTPUT)
        answer = json.loads((folder / ANSWER).read_text("utf-8"))
    if answer["contract_version"] != CONTRACT_VERSION:
        raise other_contract(python, answer["core_version"], answer["contract_version"])
    return msgspec.convert(answer["problems"], list[Problem])


def _run(command: list[str], output: Path, environ: Mapping[str, str], limit_s: float) -> int | None:
    """The exit code, None where it took too long. Output goes to a file: a pipe is open while anybody has it."""
    try:
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env={**environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        message = f"{command[0]!r} cannot be started: {error}"
        raise EngineLoadError("worker.no-python", message, f"Correct {_PYTHON}") from error
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS forbids what is no longer there
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold even a killed process
            process.wait(_CLOSE_S)


def _late(python: str, limit_s: float, output: Path) -> Problem:
    return Problem(
        code="engine.not-checked",
        message=f"{python} did not import the engine within {limit_s:g} s, so it is not known whether it fits"
        f"{_last_words(output)}",
        hint="Try it once more: what is on a slow disk is read faster the second time",
        severity=Severity.WARNING,
    )


def _wrong_core(python: str, info: BackendInfo, *, is_there: bool) -> EngineLoadError:
    what = f"no lmi-core {lmi.__version__}, but another version" if is_there else "no lmi-core"
    message = f"{python}, which would run the worker of {info.name}, has {what}"
    return EngineLoadError(
        "worker.no-core", message, f"Install lmi-core {lmi.__version__} and the backend's plugin there"
    )


def _died(python: str, info: BackendInfo, code: int, output: Path) -> EngineLoadError:
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    message = f"{python} {ended} when it was asked about the engine of {info.name}{_last_words(output)}"
    return EngineLoadError("engine.import-died", message, "A worker would end like that, too")


def _last_words(output: Path) -> str:
    lines = [line.strip() for line in output.read_text("utf-8", errors="replace").splitlines()]
    told = [line for line in lines if line][-_N_TOLD_LINES:]
    return f": {' / '.join(told)}" if told else ""


def _placed(problems: list[Problem], found: Resolution) -> list[Problem]:
    """Problems of another Python, with where that one was named."""
    setting = found.given.get(_PYTHON)
    source = f"{_PYTHON}={setting.value}, {setting.source}" if setting is not None else ""
    return [msgspec.structs.replace(problem, source=problem.source or source) for problem in problems]
