# SPDX-License-Identifier: Apache-2.0
"""How long a start takes, and the ranking of backends for a model and a machine."""

import pytest

from lmi.api import Accelerator, ArtifactFormat, BackendInfo, Target
from lmi.planning import instance_of
from lmi.planning.ranking import instance_problems, ranked
from lmi.planning.timing import start_problems, start_time
from lmi.planning.units import shown_bytes, shown_compiling, shown_seconds
from lmi.plugins import Plugins
from lmi.plugins.absent import known_backends
from tests.core import planned_models as models
from tests.core.planned_models import N_PARAMETERS, artifacts_of

LLAMA = artifacts_of(models.LLAMA_3_8B, 8_030_261_248)
COMPILING = BackendInfo(name="acme", summary="", needs_compile=True)
LOADING = BackendInfo(name="acme", summary="")
G5 = instance_of("ml.g5.12xlarge")


def elsewhere(config=models.LLAMA_3_70B, n=N_PARAMETERS["70B"], model_format=ArtifactFormat.PRETRAINED):
    return artifacts_of(config, n, folder="s3://bucket/it", model_format=model_format)


def time_of(artifacts, info=LOADING, instance=None, timeout_s=1800):
    return start_time(artifacts, artifacts.weights.n_bytes, info, instance, timeout_s)


# where the model is, machine, bytes a second that are assumed
RATES = [
    (LLAMA, None, 0.5e9),
    (LLAMA, G5, 0.5e9),
    (elsewhere(), None, 1.25e9),
    (elsewhere(), G5, 1.25e9),
    (elsewhere(), instance_of("ml.g5.xlarge"), 0.3125e9),
    (elsewhere(), instance_of("ml.p5.48xlarge"), 1.25e9),
]


@pytest.mark.parametrize(("artifacts", "instance", "rate"), RATES)
def test_the_rate_that_weights_come_at_is_stated(artifacts, instance, rate):
    found = time_of(artifacts, instance=instance)
    assert found.rate_bytes_s == rate
    assert found.load_s == 30 + artifacts.weights.n_bytes / rate
    assert shown_bytes(rate) in found.assumption


# what is loaded, timeout; codes and a part of the hints
STARTS = [
    (LLAMA, LOADING, 1800, []),
    (LLAMA, COMPILING, 1800, [("start.compiles", "Compile it once, ahead of time")]),
    (
        artifacts_of(models.LLAMA_3_70B, N_PARAMETERS["70B"]),
        COMPILING,
        1800,
        [("start.compiles", "ahead of time"), ("start.too-slow", "ContainerStartupHealthCheckTimeoutInSeconds=1560")],
    ),
    (LLAMA, LOADING, 60, [("start.too-slow", "Set option.model_loading_timeout=")]),
    (elsewhere(model_format=ArtifactFormat.NEURON), COMPILING, 1800, []),
    (elsewhere(model_format=ArtifactFormat.ENGINES), COMPILING, 1800, []),
]


@pytest.mark.parametrize(("artifacts", "info", "timeout_s", "told"), STARTS)
def test_a_start_that_compiles_or_takes_too_long_is_told(artifacts, info, timeout_s, told):
    found = start_problems(time_of(artifacts, info, timeout_s=timeout_s), info)
    assert [problem.code for problem in found] == [code for code, _ in told]
    for problem, (_, hint) in zip(found, told, strict=True):
        assert hint in problem.hint
        assert problem.severity.value == "warning"


def test_a_backend_off_its_machines_names_those_that_are_offered_there():
    here = BackendInfo(name="here", summary="", accelerators=(Accelerator.CUDA,), instances=("g4dn",))
    away = BackendInfo(name="away", summary="", accelerators=(Accelerator.CUDA,), instances=("g5", "p5"))
    (problem,) = instance_problems(away, instance_of("ml.g4dn.xlarge").target(), [here, away])
    assert (problem.code, problem.hint) == ("backend.not-on-instance", "Choose here, or another machine")
    assert problem.message == "away is not offered on g4dn, only on g5, p5, and the machine is ml.g4dn.xlarge"
    assert instance_problems(here, instance_of("ml.g4dn.xlarge").target(), [here]) == []
    assert instance_problems(away, Target(accelerator=Accelerator.CUDA), [here]) == []


# the machine, the backends that would take Llama-3-8B on it, in alphabetical order
TAKEN = [
    ("ml.g5.12xlarge", ["deepspeed", "hf", "lmi-dist", "trtllm", "vllm"]),
    ("ml.g4dn.12xlarge", ["hf", "vllm"]),
    ("ml.inf2.24xlarge", ["neuronx"]),
    ("ml.p4d.24xlarge", ["deepspeed", "hf", "lmi-dist", "trtllm", "vllm"]),
]


@pytest.mark.parametrize(("instance", "names"), TAKEN)
@pytest.mark.parametrize("is_installed", [True, False])
def test_every_known_backend_is_ranked_installed_or_not(instance, names, is_installed):
    plugins = Plugins.discover({}) if is_installed else Plugins([], {})
    found = ranked(LLAMA, instance_of(instance).target(), plugins)
    assert sorted(each.name for each in found if each.takes) == names
    assert {each.is_installed for each in found} == {is_installed}
    assert [each.takes for each in found] == sorted((each.takes for each in found), reverse=True)
    assert all(each.reason and each.package for each in found)


def test_a_backend_that_does_not_know_the_architecture_says_so():
    config = {**models.LLAMA_3_8B, "architectures": ["StrangeForCausalLM"]}
    found = ranked(artifacts_of(config, 10**9), G5.target(), Plugins([], {}))
    reasons = {each.name: each.reason for each in found if not each.takes}
    assert "not StrangeForCausalLM" in reasons["trtllm"]


def test_a_model_too_large_for_a_machine_is_taken_by_nobody_there():
    found = ranked(artifacts_of(models.LLAMA_3_70B, N_PARAMETERS["70B"]), G5.target(), Plugins([], {}))
    assert not any(each.takes for each in found)
    assert next(each.reason for each in found if each.name == "vllm") == "the weights do not fit, split over 4"


def test_every_known_backend_but_the_example_has_the_kind_of_image_that_lmi_builds():
    images = {info.name: info.image for info, _ in known_backends()}
    assert {name: image for name, image in images.items() if image} == {
        "vllm": "deepspeed", "hf": "deepspeed", "lmi-dist": "deepspeed", "deepspeed": "deepspeed",
        "trtllm": "tensorrtllm", "neuronx": "neuronx",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(12, "12 bytes"), (2_500, "2.5 kB"), (819_200, "0.819 MB"), (13_476_831_232, "13.5 GB"), (141e9, "141 GB"),
     (1.5e12, "1.5 TB"), (269e6, "0.269 GB")],
)  # fmt: skip
def test_bytes_are_shown_with_three_digits(n_bytes, text):
    assert shown_bytes(n_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(1, "minutes"), (59, "minutes"), (600, "10 min at least")])
def test_compiling_never_takes_less_than_minutes(seconds, text):
    assert shown_compiling(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(31.2, "31 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_are_shown_in_the_unit_people_wait_in(seconds, text):
    assert shown_seconds(seconds) == text
