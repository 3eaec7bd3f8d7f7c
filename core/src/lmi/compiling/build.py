# SPDX-License-Identifier: Apache-2.0
"""A build from a plan to a folder: checked first, made beside its place, and put there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lmi.api import MANIFEST, ArtifactError, ConfigError, EngineLoadError, Progress, Severity
from lmi.artifacts import check, detect
from lmi.compiling.builder import GO, JOB, REPORT, Job, Said
from lmi.compiling.folder import is_empty, is_fixed, part_of, put, remove_copies
from lmi.compiling.manifest import (
    Manifest,
    deployed,
    finished,
    manifest_of,
    read_manifest,
    write_manifest,
)
from lmi.config import names
from lmi.config.properties import FILE_NAME, read_properties
from lmi.config.settings import Setting
from lmi.config.writing import Form, lines_of
from lmi.loading import LoadPlan, ranks_to_start
from lmi.plugins import Plugins
from lmi.workers.mpi.launch import MpiProgram
from lmi.workers.mpi.variables import free_port
from lmi.workers.program import Program

SAVED_AT = "option.save_mp_checkpoint_path"
"""Where LMI's partition script puts a build."""

_OF_THE_BUILD = frozenset({
    "option.model_id", SAVED_AT, "option.mpi_hostfile", "option.mpi_arguments", "option.pythonExecutable",
})  # fmt: skip
"""Options that a build is not served with. Source: LMI's partition script, for the first two."""

_LOOK_S = 0.2
_CLOSE_S = 10.0
_N_LAST_LINES = 5
_ROOM = 1.1
"""Free space that a build needs, in sizes of the model's weights."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """What came of a build.

    Args:
        manifest: of it.
        folder: where it is.
        is_new: whether it was built now; otherwise it was there.
    """

    manifest: Manifest
    folder: Path
    is_new: bool


class _Program(Program):
    module = "lmi.compiling.builder"


class _RankedProgram(MpiProgram):
    module = "lmi.compiling.builder"


def build(
    made: LoadPlan,
    plugins: Plugins,
    target: Path,
    *,
    environ: Mapping[str, str],
    progress: Progress,
    elsewhere: Manifest | None = None,
    copies_documents: bool = True,
) -> Built:
    """Build what a plan's backend can build of its model.

    Args:
        made: the plan, with the model's files on this machine.
        plugins: what is installed.
        target: where the build shall be; nothing, an empty folder, or the same build.
        environ: of this process.
        progress: told the stages.
        elsewhere: of a build that is where this one is meant to go in the end.
        copies_documents: whether tokenizer and other documents that are just the model's go into the build. Without
            them it is served once somebody has put them there.
    Raises:
        ConfigError: the backend builds nothing, or there is no room for it.
        ArtifactError: there is something else at that place, or what was built cannot be read back.
        EngineLoadError, OutOfMemoryError, PluginError: the build failed.
    """
    if made.is_custom or not plugins.hooks(made.info.name).lmi_compile_artifacts.get_hookimpls():
        raise ConfigError(
            "compile.nothing-to-build",
            f"{made.info.name} builds nothing ahead of time; it loads the model as it is",
            (),
            "Serve the model, or name a backend that builds with option.rolling_batch",
        )
    disk = target if is_fixed(target) else target.parent
    disk.mkdir(parents=True, exist_ok=True)
    _refuse_too_little_room(made, disk)
    with tempfile.TemporaryDirectory(prefix=part_of(target), dir=disk) as name:
        work, output = Path(name), Path(name) / "output"
        output.mkdir()
        started_s = time.monotonic()
        run = _Run(made, work, output, environ)
        try:
            manifest = manifest_of(made, run.versions(progress), copies_documents=copies_documents)
            found = _there(target)
            for each in filter(None, (elsewhere, found)):
                if each.key == manifest.key:
                    return Built(manifest=each, folder=target, is_new=False)
            _refuse_other(target, found)
            run.finish(progress)
        finally:
            run.end()
        _refuse_unreadable(output)
        if not copies_documents:
            remove_copies(output, made.artifacts.path)
        options = {**deployed(made.settings, manifest, _OF_THE_BUILD), **_options_in(output)}
        lines = lines_of([Setting(key, value, "") for key, value in options.items()], Form.FILE)
        (output / FILE_NAME).write_text("".join(f"{line.text}\n" for line in lines if line.text), "utf-8")
        manifest = finished(manifest, output, options, time.monotonic() - started_s)
        write_manifest(manifest, output)
        put(output, target)
    return Built(manifest=manifest, folder=target, is_new=True)


def _there(target: Path) -> Manifest | None:
    """The manifest of a build that is whole: every file has its size."""
    try:
        found = read_manifest((target / MANIFEST).read_bytes())
    except OSError:
        return None
    if found is None:
        return None
    sizes = {name: path.stat().st_size for name in found.files if (path := target / name).is_file()}
    return found if sizes == {name: each.n_bytes for name, each in found.files.items()} else None


def _refuse_other(target: Path, found: Manifest | None) -> None:
    if not target.exists() or (target.is_dir() and is_empty(target)):
        return
    what = "files of something else"
    if found is not None:
        what = (
            f"another build ({found.backend}, tensor_parallel_degree={found.tensor_parallel_degree}) of {found.model}"
        )
    elif (target / MANIFEST).exists():
        what = "a build that is not whole"
    raise ArtifactError(
        "compile.output-in-use", f"{target} holds {what}; nothing was built", (), "Name another folder, or remove it"
    )


def _refuse_too_little_room(made: LoadPlan, disk: Path) -> None:
    needed, free = int(made.artifacts.weights.n_bytes * _ROOM), shutil.disk_usage(disk).free
    if needed > free:
        raise ConfigError(
            "compile.no-space",
            f"a build of {made.artifacts.folder} takes about {needed >> 20} MiB, and {disk} has {free >> 20} MiB free",
            (),
            "Free some space, or name a folder on another disk",
        )


def _refuse_unreadable(output: Path) -> None:
    errors = [each for each in check(detect(output)) if each.severity is Severity.ERROR]
    if errors:
        raise ArtifactError(
            "compile.not-readable", "what was built cannot be loaded; it was thrown away", errors,
            "This is a fault of the backend, or of its library",
        )  # fmt: skip


def _options_in(folder: Path) -> dict[str, str]:
    """What the backend, or an earlier build, wrote down to be served with."""
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    return {names.canonical(each.key): each.value for each in read_properties(path).lines}


class _Run:
    """The processes of a build, and what they say.

    Args:
        made: the plan.
        work: a folder for what both halves know.
        output: the folder that is filled.
        environ: of this process.
    """

    def __init__(self, made: LoadPlan, work: Path, output: Path, environ: Mapping[str, str]) -> None:
        self._report, self._log = work / REPORT, work / "log"
        python, n_ranks = made.options.python_executable or sys.executable, ranks_to_start(made)
        program: Program = _RankedProgram(python, n_ranks) if n_ranks > 1 else _Program(python)
        job = Job(
            backend=made.info.name, artifacts=made.artifacts, output_dir=str(output), port=free_port(),
            options=made.config.model_dump(mode="json", by_alias=False),
        )  # fmt: skip
        (work / JOB).write_bytes(msgspec.msgpack.encode(job))
        given = program.environ({**environ, **made.options.env, **made.copies.environ_of(0)}, work)
        self._what = f"the build for {made.info.name}"
        self._n_read = 0
        self._versions: dict[str, str] | None = None
        self._is_done = False
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                program.command(work, given), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=given, start_new_session=True,
            )  # fmt: skip

    def versions(self, progress: Progress) -> dict[str, str]:
        """Of the engine's libraries under that Python; the build waits meanwhile."""
        while self._versions is None:
            self._follow(progress)
        return self._versions

    def finish(self, progress: Progress) -> None:
        """Let it begin, and wait until it is done."""
        (self._report.parent / GO).touch()
        while not self._is_done:
            self._follow(progress)

    def end(self) -> None:
        """Leave nothing running."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_S if self._is_done else 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_S)

    def _follow(self, progress: Progress) -> None:
        code = self._process.poll()
        for said in self._new_lines():
            if said.error is not None:
                raise said.error.error()
            if said.versions is not None:
                self._versions = said.versions
            if said.stage:
                progress(said.stage, said.fraction)
            self._is_done = self._is_done or said.is_done
        if self._is_done:
            return
        if code is not None:
            lines = self._log.read_text("utf-8", errors="replace").splitlines()[-_N_LAST_LINES:]
            ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            raise EngineLoadError("compile.died", f"{self._what} {ended}: {' / '.join(lines)}", "Its log says why")
        time.sleep(_LOOK_S)

    def _new_lines(self) -> list[Said]:
        try:
            whole = self._report.read_bytes().rpartition(b"\n")[0].splitlines()
        except FileNotFoundError:
            return []
        new, self._n_read = whole[self._n_read :], len(whole)
        return [msgspec.json.decode(line, type=Said) for line in new]
