# SPDX-License-Identifier: Apache-2.0
"""`lmi config --devices`: the copies of a model on another machine, their devices, and the degree nobody set."""

import json

import pytest
from click.testing import CliRunner

from lmi.cli.config import config
from lmi.testing.checkpoints import write_tiny

BACKENDS = {"cuda": "vllm", "neuron": "neuronx", "cpu": "echo"}
"""A backend for each kind of device; none of their engines is needed."""


@pytest.fixture
def shown(monkeypatch):
    """A function that gives what ``lmi config --json`` says, and one for people."""
    for name in ("SM_NUM_GPUS", "TENSOR_PARALLEL_DEGREE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def _shown(devices, *options, model=None):
        arguments = [str(model or "org/name"), "--devices", devices]
        arguments += [part for option in options for part in ("-o", option)]
        table = CliRunner().invoke(config, arguments, catch_exceptions=False)
        return json.loads(CliRunner().invoke(config, [*arguments, "--json"]).stdout), table.stdout

    return _shown


@pytest.mark.parametrize(
    ("devices", "options", "n_workers", "slices"),
    [
        ("cuda:4", ["tensor_parallel_degree=2"], 2, [["0", "1"], ["2", "3"]]),
        ("cuda:4", ["tensor_parallel_degree=2", "minWorkers=1"], 1, [["0", "1"], ["2", "3"]]),
        ("cuda:4", ["tensor_parallel_degree=max", "load_on_devices=1;2;3"], 1, [["1", "2", "3"]]),
        ("neuron:12", ["tensor_parallel_degree=12", "engine=Python"], 1, [[str(number) for number in range(12)]]),
        ("neuron:2", ["engine=Python"], 2, [["0"], ["1"]]),
        ("cpu", ["tensor_parallel_degree=1"], 1, []),
    ],
)
def test_lmi_config_shows_the_copies_of_another_machine(shown, devices, options, n_workers, slices):
    content, table = shown(devices, f"rolling_batch={BACKENDS[devices.partition(':')[0]]}", *options)
    assert (content["workers"], content["slices"], content["problems"]) == (n_workers, slices, [])
    lines = [line.split() for line in table.splitlines()]
    kind = devices.partition(":")[0]
    assert ["workers", str(n_workers)] in lines
    for number, each in enumerate(slices):
        assert ([str(number), f"{kind}:{','.join(each)}"] in lines) == (number < n_workers)


def test_the_default_degree_is_shown_with_the_reason_and_goes_with_the_model(shown, tmp_path):
    folder = write_tiny("llama", tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": 6, "num_key_value_heads": 6}))
    for n_devices, degree, source in (
        (2, "2", "default: max of 2 devices"),
        (4, "2", "default: the most that goes, of 4 devices"),
        (5, "1", "default: the most that goes, of 5 devices"),
    ):
        content, _ = shown(f"cuda:{n_devices}", "rolling_batch=vllm", model=folder)
        assert content["options"]["option.tensor_parallel_degree"] == {
            "value": degree, "source": source, "overrode": []
        }  # fmt: skip
        assert (content["problems"], content["workers"]) == ([], n_devices // int(degree))


def test_a_default_of_all_devices_never_contradicts_an_option_that_is_set(shown):
    draft = "speculative_draft_model=org/draft"
    content, _ = shown("cuda:4", "rolling_batch=lmi-dist", draft, "draft_model_tp_size=2")
    assert (content["workers"], content["problems"]) == (2, [])
    content, _ = shown("cuda:4", "rolling_batch=lmi-dist", draft)
    assert (content["workers"], content["options"]["option.tensor_parallel_degree"]["value"]) == (1, "4")


def test_a_degree_under_another_of_its_names_is_not_contradicted_by_the_default(shown):
    content, _ = shown("cuda:4", "rolling_batch=vllm", "tensor_parallel_size=2")
    assert (content["workers"], content["problems"]) == (2, [])


@pytest.mark.parametrize(
    ("devices", "options", "problem"),
    [
        (
            "cuda:4",
            ["rolling_batch=echo", "device=neuron"],
            "[device.missing] option.device=neuron, but this machine has no such device (command line -o device)",
        ),
        (
            "cpu",
            ["rolling_batch=echo", "device=cuda"],
            "[device.missing] option.device=cuda, but this machine has no such device (command line -o device)",
        ),
        (
            "cuda:4",
            ["rolling_batch=vllm", "tensor_parallel_degree=4", "load_on_devices=0;3"],
            "[device.too-few] tensor_parallel_degree=4, and 2 of the 4 cuda devices may be used (load_on_devices, "
            "command line -o load_on_devices) (command line -o tensor_parallel_degree)",
        ),
        ("cuda:4", ["rolling_batch=neuronx"], "[backend.misfit] neuronx runs on neuron, not on cuda"),
        (
            "cuda:4",
            ["rolling_batch=neuronx", "tensor_parallel_degree=8"],
            "[backend.misfit] neuronx runs on neuron, not on cuda",
        ),
        (
            "cuda:4",
            ["rolling_batch=neuronx", "tensor_parallel_degree=3", "minWorkers=7"],
            "[backend.misfit] neuronx runs on neuron, not on cuda",
        ),
    ],
)
def test_a_wrong_kind_of_device_or_too_few_of_it_is_said_once(shown, devices, options, problem):
    content, _ = shown(devices, *options)
    [found] = content["problems"]
    assert found.startswith(problem)
    assert not any("[device." in each for each in content["warnings"])


@pytest.mark.parametrize("option", ["device=cpu", "load_on_devices=cpu"])
def test_a_model_that_is_to_run_on_cpu_gets_no_device_of_another_machine(shown, option):
    content, _ = shown("cuda:4", "rolling_batch=echo", option)
    assert (content["devices"], content["slices"], content["problems"]) == ("cpu:1", [], [])
