# SPDX-License-Identifier: Apache-2.0
"""Which devices a model may have: of another machine, of a kind, and of those that load_on_devices names."""

import pytest

from lmi.api import BackendConfig, ConfigError
from lmi.config import parse
from lmi.devices.copies import copies_of
from lmi.target import on_machine, parse_devices, too_few_devices
from tests.core.test_target import INFO, settings


@pytest.mark.parametrize(
    ("devices", "options", "accelerator", "n_devices"),
    [
        ("cuda:4", {}, "cuda", 4),
        ("cuda:4", {"OPTION_DEVICE": "auto"}, "cuda", 4),
        ("cuda:4", {"OPTION_DEVICE": "CUDA"}, "cuda", 4),
        ("cuda:4", {"OPTION_DEVICE": "cpu"}, "cpu", 1),
        ("cuda:4", {"OPTION_DEVICE": "neuron"}, "neuron", 0),
        ("neuron:2", {"OPTION_DEVICE": "cuda"}, "cuda", 0),
        ("cpu", {"OPTION_DEVICE": "cuda"}, "cuda", 0),
        ("cpu", {"OPTION_DEVICE": "cuda", "SERVING_LOAD_ON_DEVICES": "gpu0"}, "cuda", 0),
        ("cuda:4", {"OPTION_DEVICE": "cpu", "SERVING_LOAD_ON_DEVICES": "cpu"}, "cpu", 1),
        ("cuda:4", {"OPTION_DEVICE": "cuda", "SERVING_LOAD_ON_DEVICES": "gpu1"}, "cuda", 1),
        ("cuda:1024", {}, "cuda", 1024),
        (" CUDA ", {}, "cuda", 1),
    ],
)
def test_a_model_gets_what_the_device_option_leaves_of_a_machine(devices, options, accelerator, n_devices):
    found, target = on_machine(settings(**options), {}, devices)
    assert (target.accelerator.value, target.n_devices) == (accelerator, n_devices)
    assert found.problems == ()


@pytest.mark.parametrize(
    ("load_on", "device"), [("cpu", "cuda"), ("-1", "neuron"), ("gpu0", "cpu"), ("gpu0;gpu1", "CPU")]
)
def test_two_options_that_leave_no_device_together_are_named_both(load_on, device):
    found, _ = on_machine(
        settings(SERVING_LOAD_ON_DEVICES=load_on, OPTION_DEVICE=device),
        {},
        f"{'cuda' if device.lower() != 'neuron' else 'neuron'}:4",
    )
    [problem] = found.problems
    assert (problem.code, problem.source) == ("config.conflict", "SERVING_LOAD_ON_DEVICES, OPTION_DEVICE")
    assert problem.message == f"load_on_devices={load_on} and option.device={device} leave no device"


@pytest.mark.parametrize(
    ("devices", "answer"),
    [
        ("cuda:99999999999", "--devices 'cuda:99999999999' asks for 99999999999 devices; it takes 1 to 1024"),
        ("cuda:" + "9" * 5000, "it takes 1 to 1024"),
        ("neuron:1025", "it takes 1 to 1024"),
        ("cuda:0", "--devices 'cuda:0' asks for 0 devices; it takes 1 to 1024"),
        ("gpu:4", "Did you mean 'cuda'? Write cuda:4"),
        ("gpu4", "Did you mean 'cuda'? Write cuda:4"),
        ("GPU", "Did you mean 'cuda'? Write cuda:1"),
        ("cuda4", "Write cuda:4"),
        ("cuda 4", "Write cuda:4"),
        ("cuda=4", "Write cuda:4"),
        ("4 gpus", "Did you mean 'cuda'? Write cuda:4"),
        ("cudda:2", "Did you mean 'cuda'? Write cuda:2"),
        ("nc:12", "Did you mean 'neuron'? Write neuron:12"),
        ("nc12", "Did you mean 'neuron'? Write neuron:12"),
        ("inf2", "Did you mean 'neuron'? Write neuron:2 with the number of cores"),
        ("ml.inf2.48xlarge", "Did you mean 'neuron'? Write neuron:2 with the number of cores"),
        ("cpus", "Did you mean 'cpu'? Write cpu"),
        ("cuda:", "Write cuda:1"),
        ("cuda:-1", "Write cuda:1"),
        ("cuda:x", "Write cuda:4, neuron:12 or cpu"),
        ("cuda:\u0664", "Write cuda:4, neuron:12 or cpu"),
        ("tpu:8v", "Write cuda:4, neuron:12 or cpu"),
        ("", "Write cuda:4, neuron:12 or cpu"),
    ],
)
def test_what_is_no_machine_is_answered_with_the_nearest_one(devices, answer):
    with pytest.raises(ConfigError) as raised:
        parse_devices(devices)
    assert raised.value.code == "device.unknown"
    assert answer in str(raised.value)


def test_devices_that_may_not_be_used_are_told_from_those_that_are_not_there():
    given = settings(OPTION_TENSOR_PARALLEL_DEGREE="4", SERVING_LOAD_ON_DEVICES="gpu0;gpu1")
    found, target = on_machine(given, {}, "cuda:4")
    [problem] = too_few_devices(found, target)
    assert problem.message == (
        "tensor_parallel_degree=4, and 2 of the 4 cuda devices may be used (load_on_devices, SERVING_LOAD_ON_DEVICES)"
    )
    assert problem.hint == "Set it to 2 or less, to max, or let load_on_devices name more"


@pytest.mark.parametrize("load_on", ["*", "gpu1;gpu0"])
def test_where_all_devices_may_be_used_the_machine_has_too_few(load_on):
    given = settings(OPTION_TENSOR_PARALLEL_DEGREE="4", SERVING_LOAD_ON_DEVICES=load_on)
    [problem] = too_few_devices(*on_machine(given, {}, "cuda:2"))
    assert problem.message == "tensor_parallel_degree=4, and this machine has 2 cuda devices"


def test_copies_beyond_the_devices_that_may_be_used_say_that_there_are_others():
    given, target = on_machine(settings(SERVING_MIN_WORKERS="2", SERVING_LOAD_ON_DEVICES="gpu3"), {}, "cuda:4")
    [problem] = copies_of(given, parse(given, INFO, BackendConfig, {}).options, 1, INFO, target, {}).problems
    assert problem.message.startswith("minWorkers=2, and the 1 cuda device that may be used holds 1 copy")
