# SPDX-License-Identifier: Apache-2.0
"""The names that LMI gave its backends, and the choice among those of this repository: one row a rule."""

from dataclasses import replace

import pytest

from lmi.api import Accelerator, ArtifactFormat, EngineLibrary, ModelArtifacts, PluginError, Target
from lmi.config.settings import Settings
from lmi.plugins import Plugins
from lmi.plugins.absent import entry_points_of, packages_of
from lmi.plugins.choice import choose
from lmi.plugins.fit import cannot_load_yet
from lmi.plugins.selectors import SELECTORS
from tests.core.backend_records import ACME, CPU, GPU, LLAMA, PLAYBACK, backend, settings

INSTALLED = Plugins.discover({"LMI_EXTENSIONS": ""})
NEURON = Target(accelerator=Accelerator.NEURON, n_devices=2)
LMI_IMAGE = ("vllm", "lmi-dist")


def model(model_type, *architectures):
    return ModelArtifacts(
        folder="/m", format=ArtifactFormat.PRETRAINED, model_type=model_type, architectures=architectures
    )


LLAMA_2 = model("llama", "LlamaForCausalLM")
NEOX = model("gpt_neox", "GPTNeoXForCausalLM")
QWEN_3 = model("qwen3", "Qwen3ForCausalLM")


def records():
    """The installed backends as they are once all of them load models."""
    found = [each for each in INSTALLED.records if each.info is not None]
    return [replace(each, info=replace(each.info, is_loadable=True)) for each in found]


def chosen(artifacts=LLAMA_2, target=GPU, features=(), has=lambda _: True, given=None, **asked):
    return choose(given or records(), settings("x", **asked), artifacts, target, features=features, has=has)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"rolling_batch": "vllm"}, "vllm"),
        ({"rolling_batch": "vllm", "engine": "Python"}, "vllm"),
        ({"rolling_batch": "lmi-dist"}, "lmi-dist"),
        ({"rolling_batch": "lmi-dist", "engine": "MPI"}, "lmi-dist"),
        ({"rolling_batch": "deepspeed"}, "deepspeed"),
        ({"rolling_batch": "trtllm"}, "trtllm"),
        ({"rolling_batch": "TRTLLM", "engine": "MPI"}, "trtllm"),
        ({"rolling_batch": "tensorrtllm"}, "trtllm"),
        ({"rolling_batch": "scheduler"}, "hf"),
        ({"rolling_batch": "scheduler", "engine": "MPI"}, "hf"),
        ({"rolling_batch": "tnx"}, "neuronx"),
        ({"entry_point": "djl_python.deepspeed"}, "deepspeed"),
        ({"entry_point": "djl_python.deepspeed", "rolling_batch": "auto"}, "deepspeed"),
        ({"entry_point": "djl_python.deepspeed", "rolling_batch": "disable"}, "deepspeed"),
        ({"entry_point": "djl_python.tensorrt_llm", "rolling_batch": "Auto"}, "trtllm"),
        ({"entry_point": "djl_python.tensorrt_llm", "rolling_batch": "Disable"}, "trtllm"),
        ({"entry_point": "djl_python.transformers_neuronx"}, "neuronx"),
        ({"entry_point": "djl_python.transformersneuronx"}, "neuronx"),
        ({"entry_point": "djl_python.huggingface", "rolling_batch": "vllm"}, "vllm"),
        ({"entry_point": "djl_python.huggingface", "rolling_batch": "lmi-dist"}, "lmi-dist"),
        ({"entry_point": "djl_python.huggingface", "rolling_batch": "scheduler"}, "hf"),
        ({"entry_point": "djl_python.huggingface", "engine": "MPI"}, "lmi-dist"),
        ({"entry_point": "djl_python.huggingface", "mpi_mode": "true"}, "lmi-dist"),
        ({"entry_point": "djl_python.huggingface", "engine": "MPI", "rolling_batch": "auto"}, "lmi-dist"),
        ({"entry_point": "djl_python.lmi_vllm.vllm_async_service"}, "vllm"),
        ({"entry_point": "djl_python.lmi_trtllm.trtllm_async_service"}, "trtllm"),
        ({"engine": "DeepSpeed"}, "deepspeed"),
        ({"rolling_batch": "deepspeed", "engine": "DeepSpeed"}, "deepspeed"),
    ],
)
def test_the_names_of_lmi_select_its_backends(asked, name):
    choice = chosen(**asked)
    assert (choice.info.name, choice.is_explicit, choice.warnings) == (name, True, ())
    assert any(value in choice.reason for value in asked.values())


@pytest.mark.parametrize(
    ("entry_point", "rolling_batch", "words"),
    [
        ("djl_python.deepspeed", "vllm", "takes: auto, disable, deepspeed. Take option.entryPoint out"),
        ("djl_python.deepspeed", "foo", "takes: auto, disable, deepspeed. Set one of these"),
        ("djl_python.deepspeed", "deepsped", "Did you mean 'deepspeed'?"),
        ("djl_python.tensorrt_llm", "lmi-dist", "takes: auto, disable, trtllm, tensorrtllm"),
        ("djl_python.huggingface", "trtllm", "scheduler"),
        ("djl_python.huggingface", "deepspeed", "scheduler"),
    ],
)
def test_a_rolling_batch_that_the_entry_point_does_not_have_is_an_error_naming_both(entry_point, rolling_batch, words):
    with pytest.raises(PluginError) as caught:
        chosen(entry_point=entry_point, rolling_batch=rolling_batch)
    said = str(caught.value)
    assert said.startswith(f"plugin.conflict: rolling_batch={rolling_batch} (x) is not among what entryPoint=")
    assert words in said


def test_under_neurons_entry_point_any_other_rolling_batch_is_auto_with_a_warning():
    choice = chosen(target=NEURON, entry_point="djl_python.transformers_neuronx", rolling_batch="scheduler")
    assert choice.info.name == "neuronx"
    (warning,) = choice.warnings
    assert warning.code == "config.overruled"
    assert "taken for auto" in warning.message


@pytest.mark.parametrize(
    ("artifacts", "target", "features", "asked", "name"),
    [
        (LLAMA_2, GPU, (), {}, "vllm"),
        (LLAMA_2, GPU, LMI_IMAGE, {}, "lmi-dist"),
        (LLAMA_2, GPU, ("VLLM", "LMI-Dist"), {}, "lmi-dist"),
        (NEOX, GPU, LMI_IMAGE, {}, "lmi-dist"),
        (QWEN_3, GPU, LMI_IMAGE, {}, "vllm"),
        (LLAMA_2, GPU, LMI_IMAGE, {"rolling_batch": "auto"}, "lmi-dist"),
        (LLAMA_2, GPU, LMI_IMAGE, {"engine": "Python"}, "vllm"),
        (LLAMA_2, GPU, ("trtllm",), {}, "trtllm"),
        (NEOX, GPU, ("trtllm",), {}, "vllm"),
        (LLAMA_2, GPU, (), {"engine": "Python"}, "vllm"),
        (LLAMA_2, GPU, (), {"engine": "MPI"}, "lmi-dist"),
        (LLAMA_2, GPU, (), {"mpi_mode": "true"}, "lmi-dist"),
        (LLAMA_2, GPU, ("trtllm",), {"engine": "MPI"}, "trtllm"),
        (NEOX, GPU, (), {"engine": "MPI"}, "lmi-dist"),
        (LLAMA_2, CPU, (), {}, "hf"),
        (LLAMA_2, NEURON, ("vllm", "lmi-dist", "tnx"), {}, "neuronx"),
        (LLAMA_2, NEURON, (), {"engine": "Python"}, "neuronx"),
    ],
)
def test_the_automatic_choice_once_all_of_them_load_models(artifacts, target, features, asked, name):
    choice = chosen(artifacts, target, features, **asked)
    assert (choice.info.name, choice.is_explicit) == (name, False)
    assert choice.reason.startswith(f"fits {artifacts.architectures[0]} on {target.accelerator.value}")
    assert ("announced by SERVING_FEATURES=" in choice.reason) == (name in [each.lower() for each in features])


def test_a_backend_whose_library_is_not_installed_loses_and_the_reason_says_so():
    choice = chosen(has=lambda distribution: not distribution.startswith("vllm"))
    assert choice.info.name == "hf"
    assert choice.reason == (
        "fits LlamaForCausalLM on cuda; vllm would be taken before it, but needs vllm, which is not installed"
    )


def test_a_backend_without_its_library_is_still_chosen_where_it_is_asked_for_or_alone():
    assert chosen(has=lambda _: False, rolling_batch="vllm").info.name == "vllm"
    assert chosen(target=NEURON, has=lambda _: False).info.name == "neuronx"


def test_what_another_python_has_installed_is_not_judged():
    library = EngineLibrary(distribution="no-such-distribution")
    lacking = backend("a", engine_libraries=(library,))
    having = backend("b")
    assert choose([lacking, having], Settings(), LLAMA, CPU).info.name == "b"
    assert choose([lacking, having], settings(python="/venv/bin/python"), LLAMA, CPU).info.name == "a"


def test_a_backend_that_cannot_load_models_yet_is_chosen_only_where_no_other_fits():
    early = backend("early", is_loadable=False, priority=9)
    choice = choose([early, ACME], Settings(), LLAMA, CPU)
    assert choice.info.name == "acme"
    assert choice.reason.endswith("; early would be taken before it, but cannot load models yet")
    alone = choose([early], Settings(), LLAMA, CPU)
    assert alone.info.name == "early"
    (warning,) = alone.warnings
    assert warning.code == "engine.not-implemented"
    assert "cannot load models yet" in warning.message


@pytest.mark.parametrize(("features", "name"), [((), "hf"), (LMI_IMAGE, "lmi-dist"), (("trtllm",), "trtllm")])
def test_what_the_image_announces_is_taken_even_if_it_cannot_load_models_yet(features, name):
    given = records()
    given = [replace(each, info=replace(each.info, is_loadable=each.name == "hf")) for each in given]
    choice = chosen(features=features, given=given)
    assert choice.info.name == name
    assert [each.code for each in choice.warnings] == ([] if name == "hf" else ["engine.not-implemented"])


def test_a_start_with_a_backend_that_cannot_load_models_yet_names_those_that_can():
    early, other = backend("early", is_loadable=False).info, backend("other").info
    bert = backend("reader", architectures=("BertForMaskedLM",)).info
    error = cannot_load_yet(early, "rolling_batch=early (x)", LLAMA, CPU, [early, other, bert, PLAYBACK.info])
    assert str(error) == (
        "engine.not-implemented: early (rolling_batch=early (x)) reads and checks its configuration; it cannot load "
        "models yet. Set option.rolling_batch to one that can: other."
    )
    assert "Wait for a later version" in str(cannot_load_yet(early, "", LLAMA, CPU, [early]))


def test_a_negative_priority_is_a_last_resort_even_on_its_own_device():
    last = backend("a", accelerators=(Accelerator.CUDA,), priority=-1)
    second = backend("b", accelerators=(Accelerator.CPU, Accelerator.CUDA))
    assert choose([last, second], Settings(), LLAMA, GPU).info.name == "b"


def test_a_mode_leaves_out_the_backends_that_cannot_run_in_it():
    solo = backend("solo", modes=("Python",), priority=9)
    assert choose([solo, ACME], settings("x", engine="MPI"), LLAMA, CPU).info.name == "acme"
    with pytest.raises(PluginError, match=r"solo: runs under engine=Python, not mpi"):
        choose([solo], settings("x", engine="MPI"), LLAMA, CPU)


def test_the_reason_says_that_a_batch_size_turns_continuous_batching_off():
    choice = choose([ACME], settings("SERVING_BATCH_SIZE", batch_size="4"), LLAMA, CPU)
    assert choice.reason.endswith("; batch_size=4 (SERVING_BATCH_SIZE) turns continuous batching off")


# -------------------------------------------------------------------------------------------------------- absent ones


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ({"rolling_batch": "vllm"}, "Try: pip install lmi-vllm."),
        ({"rolling_batch": "lmi-dist"}, "Try: pip install lmi-hf."),
        ({"rolling_batch": "scheduler"}, "Try: pip install lmi-hf."),
        ({"rolling_batch": "tnx"}, "Try: pip install lmi-neuronx."),
        ({"rolling_batch": "TensorRTLLM"}, "Try: pip install lmi-trtllm."),
        ({"entry_point": "djl_python.huggingface"}, "Try: pip install lmi-vllm or lmi-hf."),
        ({"entry_point": "djl_python.tensorrt_llm"}, "Try: pip install lmi-trtllm."),
        ({"entry_point": "djl_python.transformersneuronx"}, "Try: pip install lmi-neuronx."),
        ({"engine": "DeepSpeed"}, "Try: pip install lmi-deepspeed."),
        ({"rolling_batch": "vlm"}, "Did you mean 'vllm'?"),
        ({"entry_point": "djl_python.tensorrt_lm"}, "Did you mean 'djl_python.tensorrt_llm'?"),
        ({"engine": "Zoom"}, "Install the backend that has this name."),
    ],
)
def test_an_absent_backend_of_lmi_is_named_with_its_package(asked, hint):
    with pytest.raises(PluginError) as caught:
        choose([ACME], settings("x", **asked), LLAMA, CPU)
    assert caught.value.code == "plugin.not-installed"
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"entry_point": "djl_python.sklearn_handler"}, "scikit-learn"),
        ({"entry_point": "djl_python.xgboost_handler"}, "XGBoost"),
        ({"entry_point": "djl_python.stable-diffusion"}, "diffusion"),
        ({"entry_point": "djl_python.stable_diffusion_inf2"}, "diffusion"),
        ({"entry_point": "djl_python.sagemaker"}, "SageMaker"),
        ({"engine": "PyTorch"}, "Java"),
        ({"engine": "OnnxRuntime"}, "Java"),
    ],
)
def test_what_lmi_had_and_is_not_served_here_is_refused_by_its_name(asked, words):
    with pytest.raises(PluginError, match=words) as caught:
        choose([ACME], settings("x", **asked), LLAMA, CPU)
    assert caught.value.code == "plugin.not-served"
    assert "model.py" in caught.value.hint


@pytest.mark.parametrize("name", sorted(INSTALLED.backends))
def test_the_table_of_packages_agrees_with_what_the_packages_say(name):
    (record,) = (each for each in INSTALLED.records if each.name == name and each.info is not None)
    modes = {"python", "mpi"}
    for selector in SELECTORS:
        for value in {each.lower() for each in selector.names(record.info)} - modes:
            assert record.distribution in packages_of(selector.key, value), f"{selector.key}={value}"
    assert set(record.info.entry_points) <= set(entry_points_of(name))


def test_features_of_the_image_reach_the_choice():
    announced = Plugins.discover({"LMI_EXTENSIONS": "", "SERVING_FEATURES": "trtllm"})
    choice = announced.choose(settings("x", entry_point="djl_python.huggingface"), LLAMA_2, GPU)
    assert choice.info.name == "hf"  # the only one of this entry point that loads models today
    assert "trtllm" not in choice.reason
