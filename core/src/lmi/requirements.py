# SPDX-License-Identifier: Apache-2.0
"""The ``requirements.txt`` of a model: installed for its workers when the user asks for it, otherwise only told.

Source: LMI installs it whatever the user says and only warns where that fails. A model's files then change the server's
own packages unasked, so here it is asked for, and what was asked for and fails stops the start.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from lmi.api import ArtifactError, ModelArtifacts, Problem, Progress, Severity
from lmi.config.coerce import is_true
from lmi.config.options import ModelOptions

FILE_NAME = "requirements.txt"

_LOG = logging.getLogger(__name__)
_WHEELS = "requirements"
_OFFLINE = "DJL_OFFLINE"
_STAGE = "install requirements"
_N_LAST_LINES = 20
_N_TOLD_LINES = 3


def requirement_files(artifacts: ModelArtifacts | None, folder: Path | None) -> tuple[str, ...]:
    """Every ``requirements.txt`` of a model: in the folder that is served, beside its files, in a repository.

    Args:
        artifacts: the model's files, here or elsewhere; None where there are none.
        folder: the folder that may hold serving.properties; None where there is none.
    Returns:
        Paths, or URLs of files elsewhere.
    """
    found: dict[str, None] = {}
    if folder is not None and (folder / FILE_NAME).is_file():
        found[str((folder / FILE_NAME).resolve())] = None
    if artifacts is not None:
        names = [FILE_NAME, *([f"{artifacts.inner}/{FILE_NAME}"] if artifacts.inner else [])]
        found |= {f"{artifacts.folder}/{name}": None for name in names if name in artifacts.files}
    return tuple(found)


def requirement_problems(artifacts: ModelArtifacts | None, folder: Path | None, options: ModelOptions) -> list[Problem]:
    """A warning for each ``requirements.txt`` that is there and will not be installed.

    Args:
        artifacts, folder: as ``requirement_files`` has them.
        options: of the model.
    """
    if options.install_requirements:
        return []
    python = options.python_executable or sys.executable
    return [
        Problem(
            code="requirements.not-installed",
            message=f"{path} is there and is not installed",
            hint="If the model needs it and you trust it, set option.install_requirements=true"
            + ("" if "://" in path else f", or run: {python} -m pip install -r {path}"),
            path=path,
            severity=Severity.WARNING,
        )
        for path in requirement_files(artifacts, folder)
    ]


def install(
    file: Path, python: str, environ: Mapping[str, str], progress: Progress | None = None, *, timeout_s: float = 1800
) -> None:
    """Install a ``requirements.txt`` into the environment of a Python. It takes seconds where all of it is there.

    Wheels in a folder ``requirements`` beside the file are taken first; with DJL_OFFLINE nothing else is, and what they
    depend on is not looked for.

    Args:
        file: the requirements.txt; names in it are relative to its folder.
        python: the Python of the workers.
        environ: of the workers; pip reads its own variables from it.
        progress: told that it goes on.
        timeout_s: longest time it may take.
    Raises:
        ArtifactError: pip is not there, fails, or takes too long.
    """
    command = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-color"]
    if is_true(environ.get(_OFFLINE, "")):
        command += ["--no-index", "--no-deps"]
    if (file.parent / _WHEELS).is_dir():
        command += ["--find-links", str(file.parent / _WHEELS)]
    command += ["-r", str(file)]
    _LOG.info("installing %s: %s", file, " ".join(command))
    code, lines = _run(command, file, environ, progress, timeout_s)
    if code == 0:
        return
    if code is None:
        reason = f"pip did not end within {timeout_s:g} s"
    else:
        told = [line for line in lines if "error" in line.lower()] or lines
        reason = f"pip ended with {code}: {' / '.join(told[-_N_TOLD_LINES:])}"
    raise _failed(file, reason, _hint(python, lines))


def _run(
    command: list[str], file: Path, environ: Mapping[str, str], progress: Progress | None, timeout_s: float
) -> tuple[int | None, list[str]]:
    """The exit code, None where it took too long, and the last lines it printed."""
    lines: deque[str] = deque(maxlen=_N_LAST_LINES)
    try:
        process = subprocess.Popen(
            command, cwd=file.parent, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise _failed(file, f"{command[0]} cannot be started: {error}", "Check option.pythonExecutable") from error
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        _kill(process)

    timer = threading.Timer(timeout_s, stop)
    timer.start()
    end = partial(_kill, process)
    atexit.register(end)  # a server that is told to stop waits for no thread
    try:
        with process:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            for line in process.stdout:
                lines.append(line.rstrip())
                _LOG.info("[pip] %s", line.rstrip())
                if progress is not None:
                    progress(_STAGE)
    except BaseException:
        _kill(process)
        raise
    finally:
        timer.cancel()
        atexit.unregister(end)
    return (None if is_late.is_set() else process.returncode), [line for line in lines if line]


def _kill(process: subprocess.Popen[str]) -> None:
    """End pip and the compilers it may have started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _hint(python: str, lines: list[str]) -> str:
    if any("No module named pip" in line for line in lines):
        return f"Give it pip: {python} -m ensurepip"
    if any("externally-managed-environment" in line for line in lines):
        return "Make a virtual environment and name its Python with option.pythonExecutable"
    return "Correct the file, put wheels into a folder 'requirements' beside it, or unset option.install_requirements"


def _failed(file: Path, reason: str, hint: str) -> ArtifactError:
    message = " ".join(f"{file} could not be installed: {reason}".split())
    return ArtifactError("requirements.failed", message, [], hint)
