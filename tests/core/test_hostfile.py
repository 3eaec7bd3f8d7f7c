# SPDX-License-Identifier: Apache-2.0
"""A copy over several machines: the slots that mpirun's file of hosts lists, against the devices of this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmi.api import Accelerator, ArtifactError, Problem, Target
from lmi.config import read_settings
from lmi.config.model_entries import ModelEntry
from lmi.config.settings import Settings
from lmi.devices.fitting import device_problems
from lmi.devices.hostfile import n_devices_here, over_machines, slots_of
from lmi.loading import plan
from lmi.plugins import Plugins
from lmi.testing import write_tiny
from tests.core.test_target import CPU, MPI, copies, machine

TWO = "one slots=2\ntwo slots=2\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(TWO, "utf-8")
    return path


def settings(file: Path, degree: int) -> Settings:
    environ = {"OPTION_MPI_HOSTFILE": str(file), "OPTION_TENSOR_PARALLEL_DEGREE": str(degree)}
    return read_settings(model_folder=None, environ=environ, flags={})


def found(file: Path, degree: int, target: Target) -> list[Problem]:
    return device_problems(settings(file, degree), MPI, target)


@pytest.mark.parametrize(
    ("content", "slots"),
    [
        (TWO, [2, 2]),
        ("# ours\n\none slots=4 max_slots=8  # first\n two  slots = 2\n", [4, 2]),
        ("one slots=1\ntwo slots=2\none slots=1\n", [2, 2]),
        ("one\ntwo slots=2\n", []),
        ("one slots=0\n", []),
        ("", []),
    ],
)
def test_the_slots_of_each_machine_are_read_as_mpirun_reads_them(content: str, slots: list[int], file: Path) -> None:
    file.write_text(content, "utf-8")
    assert slots_of(settings(file, 4)) == slots


def test_a_file_that_is_not_there_lists_nothing(tmp_path: Path) -> None:
    assert slots_of(settings(tmp_path / "none", 4)) == []
    assert slots_of(Settings()) == []


def test_a_model_is_judged_with_the_devices_of_all_machines(file: Path) -> None:
    assert over_machines(settings(file, 4), machine(2)).n_devices == 4
    assert over_machines(Settings(), machine(2)).n_devices == 2


@pytest.mark.parametrize(("degree", "n_here"), [(1, 1), (2, 2), (4, 2)])
def test_a_copy_takes_its_own_slots_of_the_devices_here(degree: int, n_here: int, file: Path) -> None:
    assert n_devices_here(settings(file, degree), degree) == n_here
    assert n_devices_here(Settings(), degree) == degree


@pytest.mark.parametrize("target", [machine(2), machine(4), CPU])
def test_a_degree_beyond_the_devices_here_is_fine_where_the_slots_are_enough(target: Target, file: Path) -> None:
    assert found(file, 4, target) == []


@pytest.mark.parametrize("target", [machine(2), CPU])
def test_fewer_slots_than_ranks_are_a_problem_on_any_machine(target: Target, file: Path) -> None:
    [problem] = found(file, 6, target)
    assert problem.code == "device.too-few"
    assert problem.message == f"tensor_parallel_degree=6, and {file} lists 4 slots on 2 machines"
    assert problem.source == "OPTION_TENSOR_PARALLEL_DEGREE, OPTION_MPI_HOSTFILE"


def test_more_slots_here_than_devices_are_a_problem_with_both_numbers(file: Path) -> None:
    [problem] = found(file, 4, machine(1))
    assert (problem.code, problem.hint.startswith("Write slots=1 for it")) == ("device.too-few", True)
    assert problem.message == f"{file} lists 2 slots on its first machine, which is this one and has 1 cuda device"


def test_without_a_file_the_devices_here_are_all_there_are(tmp_path: Path) -> None:
    [problem] = found(tmp_path / "none", 4, machine(2))
    assert problem.message == "tensor_parallel_degree=4, and this machine has 2 cuda devices"


def test_one_copy_over_machines_gets_its_slots_and_leaves_the_other_devices_alone(file: Path) -> None:
    spread = copies(machine(8), 4, MPI, OPTION_MPI_HOSTFILE=str(file))
    assert (spread.slices, spread.n_min, spread.n_max, spread.problems) == ((("0", "1"),), 1, 1, ())
    assert spread.accelerator is Accelerator.CUDA
    whole = copies(machine(8), 2, MPI, OPTION_MPI_HOSTFILE=str(file))
    assert (whole.n_min, whole.problems) == (4, ()), "the first machine has room for all ranks of each"


def test_a_second_copy_over_machines_is_refused(file: Path) -> None:
    [problem] = copies(machine(8), 4, MPI, OPTION_MPI_HOSTFILE=str(file), SERVING_MIN_WORKERS="2").problems
    assert problem.code == "device.too-many-workers"


def test_a_copy_over_several_machines_is_counted_by_its_file_of_hosts(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("one slots=1\ntwo slots=1\n")
    flags = {"rolling_batch": "trtllm", "tensor_parallel_degree": "2"}
    entry = ModelEntry(url=str(write_tiny("llama", tmp_path / "model")))
    plugins = Plugins.discover({"LMI_EXTENSIONS": ""})
    found = plan(entry, flags={**flags, "mpi_hostfile": str(hosts)}, environ={}, plugins=plugins, devices="cuda:1")
    assert found.copies.slices == (("0",),)
    with pytest.raises(ArtifactError, match="this machine has 1 cuda device"):
        plan(entry, flags=flags, environ={}, plugins=plugins, devices="cuda:1")
