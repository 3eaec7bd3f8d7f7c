# SPDX-License-Identifier: Apache-2.0
"""What the devices of a machine mean for a configuration: degree, copies, and the devices of each."""

import msgspec
import pytest

from lmi.api import Accelerator, BackendConfig, BackendInfo, Launch, Target
from lmi.config import parse, read_settings
from lmi.config.settings import Setting
from lmi.devices.copies import copies_of
from lmi.target import DEGREE, on_machine, too_few_devices, with_devices


def settings(**environ):
    return read_settings(model_folder=None, environ=environ, flags={})


def machine(n_devices, accelerator=Accelerator.CUDA):
    return Target(accelerator=accelerator, n_devices=n_devices)


CPU = machine(1, Accelerator.CPU)
NEURON = machine(12, Accelerator.NEURON)
INFO = BackendInfo(name="any", summary="anything", accelerators=tuple(Accelerator))
MPI = BackendInfo(name="any", summary="one process a rank", accelerators=tuple(Accelerator), launch=Launch.CORE_MPI)


def copies(target, degree=1, info=INFO, **environ):
    """The copies that these variables give; OPTION_ENV and SERVING_* are read, the degree is given."""
    given = with_devices(settings(**environ), target)
    if degree > 1:
        given = with_devices(settings(OPTION_TENSOR_PARALLEL_DEGREE=str(degree), **environ), target)
    return copies_of(given, parse(given, info, BackendConfig, {}).options, degree, info, target, environ)


@pytest.mark.parametrize("written", ["max", "MAX"])
def test_max_is_the_number_of_devices_and_says_so(written):
    found = with_devices(settings(OPTION_TENSOR_PARALLEL_DEGREE=written), machine(4))[DEGREE]
    assert (found.value, found.source) == ("4", "OPTION_TENSOR_PARALLEL_DEGREE, max of 4 devices")


def test_max_on_a_machine_without_devices_is_one():
    assert with_devices(settings(TENSOR_PARALLEL_DEGREE="max"), machine(0)).text(DEGREE) == "1"


def test_a_number_stays_what_it_is():
    given = settings(OPTION_TENSOR_PARALLEL_DEGREE="2")
    assert with_devices(given, machine(4)) is given


def test_more_devices_than_there_are_is_a_problem_with_both_numbers():
    [problem] = too_few_devices(settings(OPTION_TENSOR_PARALLEL_DEGREE="8"), machine(4))
    assert str(problem) == (
        "[device.too-few] tensor_parallel_degree=8, and this machine has 4 cuda devices "
        "(OPTION_TENSOR_PARALLEL_DEGREE). Set it to 4 or less, to max, or start on a machine with more."
    )


@pytest.mark.parametrize(
    ("given", "n_devices", "message"),
    [
        (
            {"OPTION_TENSOR_PARALLEL_DEGREE": "4", "OPTION_PIPELINE_PARALLEL_DEGREE": "2"},
            8,
            "[device.too-few] tensor_parallel_degree=4, pipeline_parallel_degree=2, which are 8 devices for a copy; "
            "this machine has 4 cuda devices (OPTION_TENSOR_PARALLEL_DEGREE, OPTION_PIPELINE_PARALLEL_DEGREE). "
            "Set them so that their product is 4 or less, or start on a machine with more.",
        ),
        (
            {"OPTION_PIPELINE_PARALLEL_DEGREE": "6"},
            6,
            "[device.too-few] tensor_parallel_degree=1, pipeline_parallel_degree=6, which are 6 devices for a copy; "
            "this machine has 4 cuda devices (OPTION_PIPELINE_PARALLEL_DEGREE). "
            "Set them so that their product is 4 or less, or start on a machine with more.",
        ),
        ({"OPTION_TENSOR_PARALLEL_DEGREE": "2", "OPTION_PIPELINE_PARALLEL_DEGREE": "2"}, 4, None),
    ],
)
def test_stages_take_devices_too(given, n_devices, message):
    problems = too_few_devices(settings(**given), machine(4), n_devices)
    assert [str(problem) for problem in problems] == ([] if message is None else [message])


@pytest.mark.parametrize(("n_devices", "degree"), [(8, "4"), (2, "1"), (1, "1")])
def test_max_leaves_devices_for_the_stages(n_devices, degree):
    given = settings(TENSOR_PARALLEL_DEGREE="max", OPTION_PIPELINE_PARALLEL_DEGREE="2")
    assert with_devices(given, machine(n_devices)).text(DEGREE) == degree


@pytest.mark.parametrize(
    ("degree", "target"), [("4", machine(4)), ("8", machine(1, Accelerator.CPU)), ("x", machine(2))]
)
def test_what_is_enough_or_judged_elsewhere_is_no_problem(degree, target):
    assert too_few_devices(settings(OPTION_TENSOR_PARALLEL_DEGREE=degree), target) == []


# ------------------------------------------------------------------------------------------- copies and their devices


@pytest.mark.parametrize(
    ("devices", "degree", "slices"),
    [
        (("0", "1", "2", "3"), 2, (("0", "1"), ("2", "3"))),
        (("0", "2", "3", "7"), 2, (("0", "2"), ("3", "7"))),
        (("GPU-a", "MIG-b"), 1, (("GPU-a",), ("MIG-b",))),
        (("0", "1", "2"), 3, (("0", "1", "2"),)),
    ],
)
def test_devices_are_divided_in_their_order_and_every_slice_has_a_copy(devices, degree, slices):
    found = copies(msgspec.structs.replace(machine(len(devices)), devices=devices), degree)
    assert (found.slices, found.n_min, found.n_max, found.problems) == (slices, len(slices), len(slices), ())
    for index, each in enumerate(slices):
        assert found.environ_of(index) == {
            "CUDA_VISIBLE_DEVICES": ",".join(each), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"
        }  # fmt: skip
        assert found.label_of(index) == f"cuda:{','.join(each)}"


def test_a_remainder_stays_idle_and_is_named():
    found = copies(machine(7), 3)
    assert found.slices == (("0", "1", "2"), ("3", "4", "5"))
    assert [str(each) for each in found.problems] == [
        "[device.idle] 1 device will be idle: the number of devices is no multiple of 3 "
        "(OPTION_TENSOR_PARALLEL_DEGREE). Set tensor_parallel_degree to a number that divides it."
    ]


@pytest.mark.parametrize(
    ("target", "environ", "n_min", "n_max"),
    [
        (machine(4), {}, 4, 4),
        (machine(4), {"SERVING_MIN_WORKERS": "2"}, 2, 4),
        (machine(4), {"SERVING_MAX_WORKERS": "3"}, 3, 3),
        (machine(4), {"SERVING_MIN_WORKERS": "1", "SERVING_MAX_WORKERS": "2"}, 1, 2),
        (machine(4), {"OPTION_GPU.MINWORKERS": "3", "SERVING_MIN_WORKERS": "1"}, 3, 4),
        (machine(4), {"SERVING_GPU_MIN_WORKERS": "1", "SERVING_GPU_MAX_WORKERS": "2"}, 1, 2),
        (machine(4), {"SERVING_CPU_MIN_WORKERS": "9", "SERVING_NC_MAX_WORKERS": "1"}, 4, 4),
        (NEURON, {"SERVING_NC_MIN_WORKERS": "2", "SERVING_GPU_MIN_WORKERS": "7"}, 2, 12),
        (machine(0), {}, 1, 1),
        (CPU, {}, 1, 1),
        (CPU, {"SERVING_MIN_WORKERS": "2"}, 2, 2),
        (CPU, {"SERVING_MAX_WORKERS": "3"}, 1, 3),
        (CPU, {"SERVING_CPU_MIN_WORKERS": "2", "SERVING_MIN_WORKERS": "1", "SERVING_MAX_WORKERS": "4"}, 2, 4),
        (CPU, {"SERVING_GPU_MIN_WORKERS": "8"}, 1, 1),
    ],
)
def test_the_numbers_of_copies_are_what_is_set_else_what_the_devices_hold(target, environ, n_min, n_max):
    found = copies(target, **environ)
    assert (found.n_min, found.n_max, found.problems) == (n_min, n_max, ())


LAYERS = ("config.properties", "SERVING_", "OPTION_", "serving.properties", "SAGEMAKER_NUM_MODEL_WORKERS", "-o")
"""From the lowest to the highest."""


def in_layers(folder, **layers):
    """Settings with ``{layer: (key, value)}`` set."""
    environ, flags, defaults = {}, {}, []
    for layer, (key, value) in layers.items():
        if layer == "config.properties":
            defaults.append(Setting(key, value, "/opt/config.properties:1", written=key))
        elif layer == "serving.properties":
            (folder / layer).write_text(f"{key}={value}\n")
        elif layer == "-o":
            flags[key] = value
        elif layer.startswith("SAGEMAKER"):
            environ[layer] = value
        else:
            environ[layer + key.replace("minW", "min_W").replace(".", "_").upper()] = value
    return read_settings(model_folder=folder, environ=environ, flags=flags, defaults=defaults)


@pytest.mark.parametrize("own", [layer for layer in LAYERS if not layer.startswith("SAGEMAKER")])
@pytest.mark.parametrize("bare", LAYERS)
def test_the_form_for_this_kind_of_device_beats_the_bare_one_but_of_a_higher_layer(tmp_path, bare, own):
    if bare == own:
        (tmp_path / "serving.properties").write_text("minWorkers=2\ngpu.minWorkers=3\n")
        given = read_settings(model_folder=tmp_path, environ={}, flags={})
    else:
        given = in_layers(tmp_path, **{bare: ("minWorkers", "2"), own: ("gpu.minWorkers", "3")})
    found = with_devices(given, machine(4))["minWorkers"]
    values = ("3", "2") if LAYERS.index(own) >= LAYERS.index(bare) else ("2", "3")
    assert (found.value, *(each.value for each in found.overrode)) == values


def test_the_form_for_this_kind_of_device_says_what_it_overrode():
    found = with_devices(settings(SERVING_GPU_MIN_WORKERS="3", SERVING_MIN_WORKERS="1"), machine(4))["minWorkers"]
    assert (found.value, found.source) == ("3", "SERVING_GPU_MIN_WORKERS")
    assert [(each.value, each.source) for each in found.overrode] == [("1", "SERVING_MIN_WORKERS")]


@pytest.mark.parametrize(
    ("degree", "info", "environ", "message"),
    [
        (
            2,
            INFO,
            {"SERVING_MIN_WORKERS": "3"},
            "minWorkers=3, and the 4 cuda devices here hold 2 copies of 2 devices each (tensor_parallel_degree=2, "
            "OPTION_TENSOR_PARALLEL_DEGREE)",
        ),
        (
            2,
            INFO,
            {"SERVING_MAX_WORKERS": "4"},
            "maxWorkers=4, and the 4 cuda devices here hold 2 copies of 2 devices each (tensor_parallel_degree=2, "
            "OPTION_TENSOR_PARALLEL_DEGREE)",
        ),
        (
            1,
            MPI,
            {"SERVING_MIN_WORKERS": "5"},
            "minWorkers=5, and the 4 cuda devices here hold 4 copies of 1 device each (tensor_parallel_degree=1, the "
            "default)",
        ),
    ],
)
def test_more_copies_than_the_devices_hold_is_an_error_with_both_numbers(degree, info, environ, message):
    [problem] = copies(machine(4), degree, info, **environ).problems
    assert (problem.code, problem.severity.value, problem.message) == ("device.too-many-workers", "error", message)
    assert problem.source == next(iter(environ))


def test_whole_copies_on_one_device_each_may_share_it_with_a_warning():
    found = copies(machine(2), OPTION_ENGINE="Python", SERVING_MIN_WORKERS="3")
    assert [found.slice_of(index) for index in range(3)] == [("0",), ("1",), ("0",)]
    [problem] = found.problems
    assert (problem.code, problem.severity.value) == ("device.shared", "warning")


@pytest.mark.parametrize(
    ("cores", "degree", "index", "environ", "variables"),
    [
        (12, 4, 0, {}, {"NEURON_RT_VISIBLE_CORES": "0-3", "OMP_NUM_THREADS": "8"}),
        (12, 4, 2, {}, {"NEURON_RT_VISIBLE_CORES": "8-11", "OMP_NUM_THREADS": "8"}),
        (2, 1, 1, {}, {"NEURON_RT_VISIBLE_CORES": "1", "OMP_NUM_THREADS": "1"}),
        (2, 2, 0, {"OMP_NUM_THREADS": "5"}, {"NEURON_RT_VISIBLE_CORES": "0-1"}),
        (2, 2, 0, {"OPTION_ENV": "OMP_NUM_THREADS=5"}, {"NEURON_RT_VISIBLE_CORES": "0-1"}),
        (
            4,
            2,
            1,
            {"NEURON_RT_NUM_CORES": "4"},
            {"NEURON_RT_VISIBLE_CORES": "2-3", "OMP_NUM_THREADS": "4", "NEURON_RT_NUM_CORES": "2"},
        ),
    ],
)
def test_a_copy_on_neuron_gets_a_range_of_cores_and_two_threads_a_core(cores, degree, index, environ, variables):
    assert copies(machine(cores, Accelerator.NEURON), degree, **environ).environ_of(index) == variables


def test_cores_that_are_not_in_a_row_are_listed():
    target = msgspec.structs.replace(machine(3, Accelerator.NEURON), devices=("0", "4", "5"))
    assert copies(target, 3).environ_of(0)["NEURON_RT_VISIBLE_CORES"] == "0,4-5"


@pytest.mark.parametrize(
    ("target", "variable"),
    [(machine(2), "CUDA_VISIBLE_DEVICES"), (NEURON, "NEURON_RT_VISIBLE_CORES"), (NEURON, "NEURON_RT_NUM_CORES")],
)
def test_a_user_who_sets_what_lmi_sets_for_each_copy_is_told_of_both(target, variable):
    [problem] = copies(target, OPTION_ENV=f"{variable}=1").problems
    assert (problem.code, problem.source) == ("config.conflict", "OPTION_ENV")
    assert problem.message.startswith(f"option.env sets {variable}=1, which LMI sets for each copy")


@pytest.mark.parametrize(
    ("variable", "is_problem"),
    [
        ("CUDA_VISIBLE_DEVICES=1", True),
        ("CUDA_VISIBLE_DEVICES=-1", False),
        ("NEURON_RT_VISIBLE_CORES=1", False),
        ("CUDA_DEVICE_ORDER=FASTEST_FIRST", False),
    ],
)
def test_a_user_who_shows_a_gpu_to_a_model_on_cpu_is_told_that_it_is_hidden(variable, is_problem):
    problems = copies(CPU, OPTION_ENV=variable).problems
    assert [problem.code for problem in problems] == ["config.conflict"] * is_problem
    assert all(problem.message.endswith("is to run on CPU, where LMI hides every GPU") for problem in problems)


@pytest.mark.parametrize("given", [{"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, {"OPTION_ENV": "CUDA_DEVICE_ORDER=X"}])
def test_an_order_of_gpus_that_the_user_sets_is_kept(given):
    assert copies(machine(2), **given).environ_of(0) == {"CUDA_VISIBLE_DEVICES": "0"}


def test_on_cpu_nothing_is_divided_and_every_gpu_is_hidden():
    found = copies(CPU, 2)
    assert (found.slices, found.environ_of(0), found.label_of(0)) == ((), {"CUDA_VISIBLE_DEVICES": ""}, "")


def test_several_copies_on_cpu_are_told_which_they_are():
    found = copies(CPU, 2, SERVING_MIN_WORKERS="2", SERVING_MAX_WORKERS="3")
    assert [found.environ_of(index)["LMI_COPY"] for index in range(4)] == ["0/3", "1/3", "2/3", "0/3"]


def test_load_on_devices_counts_before_max_does():
    given = settings(OPTION_TENSOR_PARALLEL_DEGREE="max", SERVING_LOAD_ON_DEVICES="gpu1;gpu3")
    found, target = on_machine(given, {}, "cuda:4")
    assert (found.text(DEGREE), target.devices) == ("2", ("1", "3"))


def test_an_unknown_device_of_load_on_devices_is_a_problem_of_the_configuration():
    found, _ = on_machine(settings(SERVING_LOAD_ON_DEVICES="gpu9"), {"CUDA_VISIBLE_DEVICES": "0"}, "cuda:4")
    assert [problem.code for problem in found.problems] == ["device.unknown"]
