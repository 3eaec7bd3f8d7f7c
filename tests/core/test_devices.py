# SPDX-License-Identifier: Apache-2.0
"""Devices are counted as their drivers and runtimes count them."""

import stat
import sys
from types import SimpleNamespace

import pytest

from lmi.api import Accelerator
from lmi.devices.cuda import all_gpus, driver_version
from lmi.target import detect_target, devices_of, loaded_on, visible_problems
from tests.core.test_target import settings

GIB = 1 << 30


class NvmlError(Exception):
    """What the fake binding raises."""


class FakeNvml:
    """NVIDIA's binding, as far as it is asked; a GPU is a dictionary, and so is a part of one."""

    NVMLError = NvmlError

    def __init__(self, gpus, fails=False):
        self.gpus, self.fails, self.n_open = gpus, fails, 0

    def nvmlInit(self):
        if self.fails:
            raise NvmlError("library not found")
        self.n_open += 1

    def nvmlShutdown(self):
        self.n_open -= 1

    def nvmlSystemGetDriverVersion(self):
        if not self.gpus:
            raise NvmlError("unknown error")
        return "580.95.05"

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, number):
        return self.gpus[number]

    def nvmlDeviceGetUUID(self, gpu):
        if "uuid" not in gpu:
            raise NvmlError("GPU is lost")
        return gpu["uuid"]

    def nvmlDeviceGetName(self, gpu):
        return gpu["name"]

    def nvmlDeviceGetMemoryInfo(self, gpu):
        if "memory" not in gpu:
            raise NvmlError("not supported")
        return SimpleNamespace(total=gpu["memory"])

    def nvmlDeviceGetCudaComputeCapability(self, gpu):
        return gpu["capability"]

    def nvmlDeviceGetMigMode(self, gpu):
        if "parts" not in gpu:
            raise NvmlError("not supported")
        return (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, number):
        if number >= len(gpu["parts"]):
            raise NvmlError("not found")
        return gpu["parts"][number]


def gpu(number, memory=80 * GIB, **more):
    return {"uuid": f"GPU-{number}-aaaa", "name": "H100", "memory": memory, "capability": (9, 0), **more}


SPLIT = gpu(1, parts=[{"uuid": f"MIG-{n}", "name": "H100 1g", "memory": 10 * GIB} for n in range(2)])


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that gives a machine GPUs and their driver; it returns the fake binding."""

    def _machine(*gpus, fails=False):
        (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
        nvml = FakeNvml(list(gpus), fails)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    all_gpus.cache_clear()
    return _machine


def visible(value):
    return {} if value is None else {"CUDA_VISIBLE_DEVICES": value}


@pytest.mark.parametrize(
    ("value", "devices"),
    [
        (None, ("0", "1", "2", "3")),
        ("2,0", ("2", "0")),
        (" 1 , 3 ", ("1", "3")),
        ("1,-1,2", ("1",)),
        ("GPU-2-aaaa,0", ("GPU-2-aaaa", "0")),
        ("GPU-3", ("GPU-3",)),
    ],
)
def test_the_visible_gpus_are_the_devices_in_the_order_of_the_variable(machine, tmp_path, value, devices):
    nvml = machine(*map(gpu, range(4)))
    target = detect_target(visible(value), root=tmp_path)
    assert (target.accelerator, target.n_devices, devices_of(target)) == (Accelerator.CUDA, len(devices), devices)
    assert visible_problems(visible(value), root=tmp_path) == []
    assert nvml.n_open == 0


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_a_list_that_hides_every_gpu_leaves_the_cpu_and_is_no_problem(machine, tmp_path, value):
    machine(gpu(0))
    assert detect_target(visible(value), root=tmp_path).accelerator is Accelerator.CPU
    assert visible_problems(visible(value), root=tmp_path) == []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            "0,1,2",
            "[device.too-many-visible] CUDA_VISIBLE_DEVICES names 3 GPUs, and this machine has 2 "
            "(CUDA_VISIBLE_DEVICES=0,1,2). Name at most 2, or take the variable out.",
        ),
        ("7", "[device.unknown] CUDA_VISIBLE_DEVICES names '7', and this machine has no such GPU"),
        ("GPU-9", "[device.unknown] CUDA_VISIBLE_DEVICES names 'GPU-9', and this machine has no such GPU"),
        ("one", "[device.unknown] CUDA_VISIBLE_DEVICES names 'one', and this machine has no such GPU"),
        ("1,1", "[device.named-twice] CUDA_VISIBLE_DEVICES names 1 twice"),
        ("MIG-0", "[device.unknown] CUDA_VISIBLE_DEVICES names 'MIG-0', and this machine has no such GPU"),
    ],
)
def test_a_list_that_names_what_is_not_there_is_a_problem_unless_gpus_are_not_used(machine, tmp_path, value, problem):
    machine(gpu(0), gpu(1))
    [found] = visible_problems(visible(value), root=tmp_path)
    assert str(found).startswith(problem)
    assert visible_problems(visible(value), "cpu", tmp_path) == []


def test_what_the_driver_tells_of_a_device_is_known_and_the_smallest_memory_counts(machine, tmp_path):
    machine(gpu(0), gpu(1, memory=40 * GIB), gpu(2))
    target = detect_target({}, root=tmp_path)
    assert (target.device_memory_bytes, target.device_name, target.compute_capability) == (40 * GIB, "H100", "9.0")
    assert detect_target(visible("0,2"), root=tmp_path).device_memory_bytes == 80 * GIB


def test_memory_that_the_driver_does_not_tell_is_0(machine, tmp_path):
    shared = gpu(0)
    del shared["memory"]
    machine(shared)
    assert detect_target({}, root=tmp_path).device_memory_bytes == 0


def test_a_gpu_that_does_not_answer_is_left_out_and_the_others_keep_their_numbers(machine, tmp_path):
    machine({"name": "lost"}, gpu(1))
    assert devices_of(detect_target({}, root=tmp_path)) == ("1",)


@pytest.mark.parametrize(
    ("value", "devices", "memory_bytes"),
    [
        (None, ("0", "MIG-0", "MIG-1"), 10 * GIB),
        ("MIG-1", ("MIG-1",), 10 * GIB),
        ("0", ("0",), 80 * GIB),
        ("MIG-GPU-1-aaaa/1/0", ("MIG-GPU-1-aaaa/1/0",), 0),
    ],
)
def test_the_parts_of_a_divided_gpu_are_devices(machine, tmp_path, value, devices, memory_bytes):
    machine(gpu(0), SPLIT)
    target = detect_target(visible(value), root=tmp_path)
    assert (devices_of(target), target.device_memory_bytes) == (devices, memory_bytes)
    assert visible_problems(visible(value), root=tmp_path) == []


def test_more_parts_than_there_are_is_a_problem(machine, tmp_path):
    machine(SPLIT)
    [problem] = visible_problems(visible("MIG-0,MIG-1,MIG-2"), root=tmp_path)
    assert problem.message == "CUDA_VISIBLE_DEVICES names 3 MIG devices, and this machine has 2"


def test_the_device_option_beats_what_is_there(machine, tmp_path):
    machine(gpu(0))
    assert detect_target({}, "CPU", tmp_path).accelerator is Accelerator.CPU
    assert detect_target({}, "auto", tmp_path).accelerator is Accelerator.CUDA
    assert detect_target({}, "neuron", tmp_path).n_devices == 0


def test_a_driver_without_its_library_is_a_container_without_gpus(machine, tmp_path):
    machine(gpu(0), fails=True)
    assert detect_target({}, root=tmp_path).accelerator is Accelerator.CPU


def test_the_version_of_the_driver_is_told_where_there_is_one(machine, monkeypatch):
    nvml = machine(gpu(0))
    assert (driver_version(), nvml.n_open) == ("580.95.05", 0)
    nvml.gpus = []
    assert (driver_version(), nvml.n_open) == ("", 0)
    nvml.fails = True
    assert driver_version() == ""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert driver_version() == ""


def test_without_a_driver_the_binding_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert detect_target({}, root=tmp_path).accelerator is Accelerator.CPU


def test_without_the_binding_the_gpus_are_those_that_the_kernel_lists(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    all_gpus.cache_clear()
    for number in range(3):
        (tmp_path / f"proc/driver/nvidia/gpus/{number}").mkdir(parents=True)
    assert devices_of(detect_target({}, root=tmp_path)) == ("0", "1", "2")
    assert devices_of(detect_target(visible("2,GPU-5"), root=tmp_path)) == ("2", "GPU-5")


# ------------------------------------------------------------------------------------------------------- NeuronCores


@pytest.fixture
def neuron(tmp_path):
    """A function that gives a machine Neuron devices and what its driver says of them."""

    def _neuron(n_devices, core_count=None, name="Inferentia2", listed=None):
        (tmp_path / "dev").mkdir()
        for number in range(n_devices):
            (tmp_path / f"dev/neuron{number}").touch()
        (tmp_path / "dev/neuron_something").touch()
        folder = tmp_path / "sys/devices/virtual/neuron_device/neuron0"
        (folder / "info/architecture").mkdir(parents=True)
        (folder / "info/architecture/device_name").write_text(f"{name}\n")
        if core_count is not None:
            (folder / "core_count").write_text(f"{core_count}\n")
        if listed is not None:
            tool = tmp_path / "opt/aws/neuron/bin/neuron-ls"
            tool.parent.mkdir(parents=True)
            tool.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}\nEND\n")
            tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        return tmp_path

    return _neuron


LISTED = '[{"neuron_device": 0, "nc_count": 4}, {"neuron_device": 1, "nc_count": 4, "logical_neuroncore_config": 2}]'


@pytest.mark.parametrize(
    ("told", "environ", "n_cores"),
    [
        ({"n_devices": 6, "core_count": 2}, {}, 12),
        ({"n_devices": 4, "core_count": 4, "name": "Inferentia1"}, {}, 16),
        ({"n_devices": 1, "core_count": 8, "name": "Trainium2"}, {}, 4),
        ({"n_devices": 1, "core_count": 8, "name": "Trainium2"}, {"NEURON_LOGICAL_NC_CONFIG": "1"}, 8),
        ({"n_devices": 1, "core_count": 8, "name": "Trainium2"}, {"NEURON_RT_VIRTUAL_CORE_SIZE": "2"}, 4),
        ({"n_devices": 2, "listed": LISTED}, {}, 6),
        ({"n_devices": 2, "listed": "no json"}, {}, 4),
        ({"n_devices": 3}, {}, 6),
    ],
)
def test_neuron_devices_are_counted_by_their_cores(neuron, told, environ, n_cores):
    target = detect_target(environ, root=neuron(**told))
    assert (target.accelerator, target.n_devices) == (Accelerator.NEURON, n_cores)


@pytest.mark.parametrize(
    ("environ", "devices"),
    [
        ({"NEURON_RT_VISIBLE_CORES": "0-2"}, ("0", "1", "2")),
        ({"NEURON_RT_VISIBLE_CORES": "7"}, ("7",)),
        ({"NEURON_RT_VISIBLE_CORES": "0,4-5"}, ("0", "4", "5")),
        ({"NEURON_RT_NUM_CORES": "3"}, ("0", "1", "2")),
        ({"NEURON_RT_NUM_CORES": "0"}, tuple(map(str, range(12)))),
        ({"NEURON_RT_NUM_CORES": "3", "NEURON_RT_VISIBLE_CORES": "4-5"}, ("4", "5")),
    ],
)
def test_the_variables_of_the_neuron_runtime_say_which_cores_there_are(neuron, environ, devices):
    root = neuron(6, 2)
    target = detect_target(environ, root=root)
    assert (devices_of(target), target.device_name) == (devices, "Inferentia2")
    assert visible_problems(environ, root=root) == []


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (
            "VISIBLE_CORES",
            "0-12",
            "[device.too-many-visible] NEURON_RT_VISIBLE_CORES asks for 13 NeuronCores, and this",
        ),
        ("VISIBLE_CORES", "12", "[device.unknown] NEURON_RT_VISIBLE_CORES names core 12, and this machine has cores 0"),
        ("VISIBLE_CORES", "a-b", "[device.unknown] NEURON_RT_VISIBLE_CORES is 'a-b', which is no list of cores"),
        ("VISIBLE_CORES", "3-1", "[device.unknown] NEURON_RT_VISIBLE_CORES is '3-1', which is no list of cores"),
        ("NUM_CORES", "13", "[device.too-many-visible] NEURON_RT_NUM_CORES asks for 13 NeuronCores, and this machine"),
        ("NUM_CORES", "few", "[device.unknown] NEURON_RT_NUM_CORES is 'few', which is no number of cores"),
    ],
)
def test_cores_that_are_not_there_are_a_problem(neuron, name, value, problem):
    [found] = visible_problems({f"NEURON_RT_{name}": value}, root=neuron(6, 2))
    assert str(found).startswith(problem)


# -------------------------------------------------------------------------------------------------- load_on_devices


@pytest.mark.parametrize(
    ("written", "devices"),
    [
        ("*", ("4", "5", "6", "7")),
        ("gpu0;gpu2", ("4", "6")),
        ("1", ("5",)),
        ("3;0", ("7", "4")),
        ("GPU1;gpu1", ("5",)),
        ("gpu0,*", ("4", "5", "6", "7")),
    ],
)
def test_load_on_devices_takes_devices_by_their_place_among_the_visible_ones(machine, tmp_path, written, devices):
    machine(*map(gpu, range(8)))
    target = detect_target(visible("4,5,6,7"), root=tmp_path)
    found, problems = loaded_on(settings(SERVING_LOAD_ON_DEVICES=written), target)
    assert (devices_of(found), found.n_devices, problems) == (devices, len(devices), [])


@pytest.mark.parametrize("written", ["cpu", "-1", "cpu;-1"])
def test_load_on_devices_may_want_no_accelerator(machine, tmp_path, written):
    machine(gpu(0))
    found, problems = loaded_on(settings(SERVING_LOAD_ON_DEVICES=written), detect_target({}, root=tmp_path))
    assert (found.accelerator, problems) == (Accelerator.CPU, [])


@pytest.mark.parametrize("written", ["gpu2", "nc0", "cpu;gpu0", "first", "gpu0;gpu9"])
def test_an_entry_that_names_no_device_is_a_problem(machine, tmp_path, written):
    machine(gpu(0), gpu(1))
    found, [problem] = loaded_on(settings(SERVING_LOAD_ON_DEVICES=written), detect_target({}, root=tmp_path))
    assert found.n_devices == 2
    assert problem.code == "device.unknown"
    assert (problem.source, problem.hint) == ("SERVING_LOAD_ON_DEVICES", "It has gpu0 to gpu1; * means all")


def test_cores_are_named_nc(neuron):
    target = detect_target({}, root=neuron(1, 2))
    assert devices_of(loaded_on(settings(SERVING_LOAD_ON_DEVICES="nc1"), target)[0]) == ("1",)
    assert loaded_on(settings(SERVING_LOAD_ON_DEVICES="gpu1"), target)[1][0].code == "device.unknown"
