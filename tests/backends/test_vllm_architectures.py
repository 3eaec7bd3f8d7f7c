# SPDX-License-Identifier: Apache-2.0
"""Which architectures and adapters vllm takes: one row a rule."""

from typing import Any

import pytest

from lmi.api import ModelArtifacts, Severity
from lmi_vllm import lmi_describe_backend
from lmi_vllm.architectures import read_lists
from tests.backends.vllm_models import WEIGHTS, gpu, model, only, problems

# --------------------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize(
    "architecture",
    [
        "BloomForCausalLM", "ChatGLMModel", "DeciLMForCausalLM", "FalconForCausalLM", "GemmaForCausalLM",
        "GPT2LMHeadModel", "GPTBigCodeForCausalLM", "GPTJForCausalLM", "GPTNeoXForCausalLM", "LlamaForCausalLM",
        "MistralForCausalLM", "MixtralForCausalLM", "OPTForCausalLM", "PhiForCausalLM", "Qwen2ForCausalLM",
        "DbrxForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM", "LlavaForConditionalGeneration",
    ],
)  # fmt: skip
def test_what_vllm_has_code_for_is_served(architecture):
    assert problems(model(architecture)) == []


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param("PersimmonForCausalLM", id="dropped, but transformers' own code is open"),
        pytest.param("LlamaForSequenceClassification", id="made from the same weights for texts"),
        pytest.param("", id="not named"),
    ],
)
def test_what_vllm_can_do_without_code_of_its_own_is_served(architecture):
    assert problems(model(architecture)) == []


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("AquilaForCausalLM", "vLLM served it up to version 0.24.0"),
        ("BaichuanForCausalLM", "up to version 0.23.0"),
        ("InternLMForCausalLM", "up to version 0.23.0"),
        ("MPTForCausalLM", "up to version 0.28.0"),
        ("QWenLMHeadModel", "up to version 0.23.0"),
        ("BartForConditionalGeneration", "bart-plugin beside vLLM"),
        ("LamaForCausalLM", "Is it LlamaForCausalLM?"),
        ("AcmeForCausalLM", "neither vLLM 0.32.0 nor transformers"),
    ],
)
def test_what_vllm_has_no_code_for_is_refused_with_what_to_do(architecture, said):
    problem = only(problems(model(architecture)))
    assert (problem.code, said in str(problem)) == ("model.architecture-not-served", True), problem
    assert problem.hint


@pytest.mark.parametrize(
    ("architecture", "version", "n_problems"),
    [
        pytest.param("MPTForCausalLM", "0.28.0", 0, id="the last that had it"),
        pytest.param("MPTForCausalLM", "0.9.2", 0, id="an earlier one"),
        pytest.param("MPTForCausalLM", "0.29.1", 1, id="a later one"),
        pytest.param("AcmeForCausalLM", "0.28.0", 1, id="never had it"),
        pytest.param("AcmeForCausalLM", "0.33.0", 0, id="newer than the lists"),
        pytest.param("AcmeForCausalLM", "0.32.4", 1, id="the version of the lists"),
        pytest.param("AcmeForCausalLM", "main", 1, id="no version"),
    ],
)
def test_the_version_in_the_container_decides_on_what_came_and_went(architecture, version, n_problems):
    found = problems(model(architecture), gpu(versions={"vllm": version}))
    assert [each.code for each in found] == ["model.architecture-not-served"] * n_problems


@pytest.mark.parametrize(
    ("architecture", "model_type", "auto_map", "said"),
    [
        ("AcmeForCausalLM", "acme", ["AutoConfig", "AutoModelForCausalLM"], "its model is in Python files"),
        ("LlamaForCausalLM", "acme", ["AutoConfig"], "its configuration is in Python files"),
        ("LlamaForCausalLM", "llama", ["AutoConfig", "AutoModelForCausalLM"], ""),
        ("ChatGLMModel", "chatglm", ["AutoConfig", "AutoModel"], ""),
    ],
)
def test_code_that_comes_with_a_model_needs_permission_where_nobody_else_has_it(
    architecture, model_type, auto_map, said
):
    own = model(architecture, config={"model_type": model_type, "auto_map": dict.fromkeys(auto_map, "own.Thing")})
    found = problems(own)
    assert [each.code for each in found] == ["model.remote-code"] * bool(said)
    assert all(said in each.message and each.fields == ("trust_remote_code",) for each in found)
    assert problems(own, trust_remote_code=True) == []


def test_code_of_its_own_does_not_bring_back_a_model_that_vllm_has_dropped():
    own = {"model_type": "baichuan", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    problem = only(problems(model("BaichuanForCausalLM", config=own), trust_remote_code=True))
    assert (problem.code, "up to version 0.23.0" in problem.message) == ("model.architecture-not-served", True)
    earlier = gpu(versions={"vllm": "0.23.0"})
    assert problems(model("BaichuanForCausalLM", config=own), earlier, trust_remote_code=True) == []


def test_a_model_with_an_encoder_is_not_sent_to_a_backend_that_refuses_it_too():
    config = {"model_type": "t5", "is_encoder_decoder": True}
    problem = only(problems(model("T5ForConditionalGeneration", config=config)))
    assert (problem.code, problem.hint) == ("model.architecture-not-served", "Use a decoder-only model")


def test_the_lists_are_of_the_version_that_the_backend_is_tested_with():
    lists, (library,) = read_lists(), lmi_describe_backend().engine_libraries
    assert library.versions.startswith(f">={'.'.join(lists['version'].split('.')[:2])}")
    assert len(lists["served"]) > 250
    assert set(lists["without_adapters"]) < set(lists["served"])
    assert not set(lists["dropped"]) & set(lists["served"])


# ------------------------------------------------------------------------------------------------------- adapters

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def with_adapter(architecture: str = "LlamaForCausalLM", **config: Any) -> ModelArtifacts:
    files = {"adapters/fr/adapter_config.json": 600, "adapters/fr/adapter_model.safetensors": 4000}
    documents = {"adapters/fr/adapter_config.json": {**PLAIN, **config}}
    return model(architecture, files={**WEIGHTS, **files}, documents=documents)


def test_an_adapter_that_vllm_takes_has_no_problems():
    assert problems(with_adapter(), enable_lora=True) == []


def test_adapters_are_left_alone_without_enable_lora():
    problem = only(problems(with_adapter()))
    assert (problem.code, problem.severity, problem.fields) == (
        "adapter.not-served", Severity.WARNING, ("enable_lora",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 24}, "Set option.max_lora_rank=32"),
        ({"r": 600}, "At most 512"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias=all"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4"),
        ({"layer_replication": [[0, 4]]}, "replicated layers"),
        ({"kasa_config": {"beta": 1e-4}}, "KaSA, which cuts the base weights"),
        ({"trainable_token_indices": [5]}, "tokens that were trained"),
        ({"use_qalora": True}, "QALoRA"),
        ({"alora_invocation_tokens": [1, 2]}, "activated LoRA"),
        ({"modules_to_save": ["lm_head", "score"]}, "modules_to_save: lm_head)"),
        ({"peft_type": "LOHA"}, "the method LOHA"),
        ({"init_lora_weights": "gaussian", "modules_to_save": ["score"], "bias": "none"}, ""),
    ],
)
def test_an_adapter_of_another_kind_is_refused(config, said):
    found = problems(with_adapter(**config), enable_lora=True)
    assert len(found) == bool(said)
    assert all(said in str(each) and each.code in ("adapter.rank", "adapter.not-supported") for each in found)


def test_a_family_without_adapters_says_so():
    problem = only(problems(with_adapter("BloomForCausalLM"), enable_lora=True))
    assert (problem.code, "takes no adapters for BloomForCausalLM" in problem.message) == (
        "adapter.not-supported", True,
    )  # fmt: skip


def test_three_mistakes_are_told_at_once():
    found = problems(with_adapter(r=64), gpu("7.0"), enable_lora=True, tensor_parallel_degree=3, dtype="bf16")
    assert [each.code for each in found] == ["config.tensor-parallel", "config.dtype", "adapter.rank"]
