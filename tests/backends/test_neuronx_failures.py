# SPDX-License-Identifier: Apache-2.0
"""What stops neuronx, or a step of it, on a stand-in: the device, the runtime, and libraries that lack something."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lmi.api import EngineDeadError, OutOfMemoryError, Prefill, StepBatch
from lmi_neuronx import lmi_check_engine
from lmi_neuronx.config import NeuronxConfig
from tests.backends.neuron_standin import loaded, planned, refusal

pytestmark = pytest.mark.usefixtures("neuron_libraries")

ONE_STEP = StepBatch(prefills=[Prefill(slot=0, ids=[3, 4, 5], start=0, n_logits=1)])


# -------------------------------------------------------------------------------------------------------- failures


def test_a_device_without_room_is_told_with_what_to_do(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_NEURON_FAIL", "memory")
    with pytest.raises(OutOfMemoryError, match="the NeuronCores are full") as caught:
        loaded(planned(tiny_llama))
    assert (caught.value.code, "tensor_parallel_degree" in caught.value.hint) == ("engine.out-of-memory", True)


def test_a_runtime_that_dies_in_a_step_is_a_dead_engine(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = loaded(planned(tiny_llama))
    monkeypatch.setenv("STANDIN_NEURON_FAIL", "step:1")
    with pytest.raises(EngineDeadError, match="failed with status 1200"):
        found.step(ONE_STEP)


@pytest.mark.parametrize(
    ("shown", "code", "words"),
    [
        ("3", "device.too-few", "takes 2 NeuronCores, and this copy has 1 (NEURON_RT_VISIBLE_CORES=3)"),
        ("0,2-4", "", ""),
    ],
)
def test_fewer_cores_than_the_model_takes_are_told_before_the_runtime_is_asked(
    shown: str, code: str, words: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", shown)
    made = planned(tiny_llama, tensor_parallel_degree=2)
    if not code:
        loaded(made).close()
        return
    problem = refusal(lambda: loaded(made))
    assert (problem.code, words in problem.message) == (code, True)


def test_cores_that_the_runtime_does_not_give_are_told(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(n_cores: int) -> None:
        raise RuntimeError("nrt_init failed with status=9: Logical Neuron Core(s) not available")

    monkeypatch.setattr("transformers_neuronx._device.take_cores", refuse)
    problem = refusal(lambda: loaded(planned(tiny_llama)))
    assert (problem.code, "neuron-ls" in problem.hint) == ("engine.no-cores", True)


# ----------------------------------------------------------------------------------------------------- the libraries


@pytest.mark.parametrize("loader", [None, "tnx", "optimum"])
def test_a_library_with_everything_has_no_problems(loader: str | None) -> None:
    assert lmi_check_engine(NeuronxConfig(model_loader=loader)) == []


def test_what_a_library_lacks_is_named_by_check_and_at_the_load(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers_neuronx

    monkeypatch.delattr(transformers_neuronx.LlamaForSampling, "forward")
    (problem,) = lmi_check_engine(NeuronxConfig())
    assert problem.message == "transformers-neuronx 0.13.0 has no transformers_neuronx.LlamaForSampling.forward"
    assert "transformers-neuronx>=0.13,<0.14" in problem.hint
    found = refusal(lambda: loaded(planned(tiny_llama)))
    assert (found.code, found.message) == ("engine.symbol-moved", problem.message)


def test_a_parameter_that_is_called_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import optimum.neuron

    def forward(
        self: Any, input_ids: Any, positions: Any, seq_ids: Any = None, sampling_params: Any = None
    ) -> None: ...

    import optimum.neuron.models.inference.backend.modules.decoder.modeling_decoder as decoder

    monkeypatch.setattr(decoder.NxDModelForCausalLM, "forward", forward)
    (problem,) = lmi_check_engine(NeuronxConfig(model_loader="optimum"))
    assert problem.message.endswith("NxDModelForCausalLM.forward(position_ids) in place 2")
    assert optimum.neuron.__name__ in problem.message


def test_an_empty_package_of_the_public_registry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers_neuronx", None)
    (problem,) = lmi_check_engine(NeuronxConfig(model_loader="tnx"))
    assert problem.code == "engine.not-installed"
    assert "the public registry has an empty package of this name" in problem.message
    assert "AWS Neuron SDK" in problem.hint
