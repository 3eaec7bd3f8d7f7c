# SPDX-License-Identifier: Apache-2.0
"""The half of a build that runs under the worker's Python: one process, or one a rank under mpirun.

Told what to do by a file, it tells how far it is by another one, a JSON line at a time: an engine's library prints what
it likes, and mpirun passes no further pipes on.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from lmi.api import ModelArtifacts, PluginError, Ranks, refuse_engine
from lmi.loading import told_by_hook
from lmi.plugins import Plugins
from lmi.plugins.libraries import installed, library_problems
from lmi.workers.mpi.variables import rank_variables
from lmi.workers.wire import ErrorReport

JOB, REPORT, GO = "job.msgpack", "report.jsonl", "go"
"""Files of the folder that both halves know; the last one says that the build may begin."""

_LOOK_S = 0.1
_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE = (
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
)  # fmt: skip


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be built.

    Args:
        backend: name.
        artifacts: the model, here.
        options: the backend's.
        output_dir: an empty folder.
        port: where the ranks' libraries meet.
    """

    backend: str
    artifacts: ModelArtifacts
    options: dict[str, object]
    output_dir: str
    port: int = 0


class Said(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the report."""

    stage: str = ""
    fraction: float | None = None
    error: ErrorReport | None = None
    versions: dict[str, str] | None = None
    is_done: bool = False


def main() -> None:
    """Do the job in the folder that the command line names; to be called in a process of its own, which it ends."""
    folder = sys.argv[1]
    job = msgspec.msgpack.decode((Path(folder) / JOB).read_bytes(), type=Job)
    is_first = os.environ.get(_RANK, "0") == "0"
    report = Path(folder) / REPORT

    def say(said: Said) -> None:
        if is_first or said.error is not None:
            with report.open("ab") as file:
                file.write(msgspec.json.encode(said) + b"\n")

    code = 0
    try:
        _tell_ranks(job.port)
        _build(job, say, Path(folder) / GO)
        say(Said(is_done=True))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        say(Said(error=ErrorReport.of(error)))
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an engine's threads need not end


def _build(job: Job, say: Callable[[Said], None], go: Path) -> None:
    plugins = Plugins.discover(only_backend=job.backend)
    hooks, info = plugins.hooks(job.backend), plugins.backends[job.backend]
    libraries = [choice for each in info.engine_libraries for choice in each.choices]
    say(Said(versions={name: version for each in libraries for name, version in installed(each).items()}))
    refuse_engine(job.backend, library_problems(info))
    while not go.exists():  # the same build may be there already
        time.sleep(_LOOK_S)
    config = plugins.config_type(job.backend).model_validate(job.options)
    with told_by_hook(info, job.artifacts, "build"):
        built = hooks.lmi_compile_artifacts(
            artifacts=job.artifacts,
            config=config,
            output_dir=job.output_dir,
            progress=lambda stage, fraction=None: say(Said(stage=stage, fraction=fraction)),
        )
    if built is None:
        raise PluginError("plugin.hook-failed", f"lmi_compile_artifacts of {job.backend} built nothing")


def _tell_ranks(port: int) -> None:
    """What engine libraries read of a rank, as a worker's ranks have it."""
    if _RANK not in os.environ:
        return
    rank, size, local_rank, local_size = (int(os.environ[name]) for name in (_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE))
    ranks = Ranks(rank=rank, size=size, local_rank=local_rank, local_size=local_size)
    os.environ.update(rank_variables(ranks, "127.0.0.1", port))
