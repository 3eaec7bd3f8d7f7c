# SPDX-License-Identifier: Apache-2.0
"""The options of trtllm: one row a rule, as text that a user writes; and the part of the contract without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lmi_trtllm
from lmi.api import Accelerator, ArtifactFormat, ConfigError, ModelArtifacts, Problem, Severity, Target
from lmi.config import parse, read_settings
from lmi.config.typed import Parsed
from lmi.plugins import Plugins
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.contract import CASE
from lmi_trtllm.families import ARCHITECTURES
from tests.backends.placing import placed
from tests.backends.static_lane import STATIC_RULES, keep, kit_of

INFO = lmi_trtllm.lmi_describe_backend()
CUDA = Target(accelerator=Accelerator.CUDA, n_devices=8)
ARCHITECTURE_OF = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "mixtral": "MixtralForCausalLM",
    "falcon": "FalconForCausalLM", "internlm": "InternLMForCausalLM", "baichuan": "BaichuanForCausalLM",
    "chatglm": "ChatGLMModel", "gptj": "GPTJForCausalLM", "qwen": "QWenLMHeadModel", "qwen2": "Qwen2ForCausalLM",
    "gpt2": "GPT2LMHeadModel", "gpt_bigcode": "GPTBigCodeForCausalLM",
}  # fmt: skip


def options(text: str) -> dict[str, str]:
    """``a=1 b=2`` as flags."""
    return dict(each.split("=", 1) for each in text.split())


def typed(text: str, environ: dict[str, str] | None = None) -> Parsed:
    settings = read_settings(model_folder=None, environ=environ or {}, flags=options(text))
    return parse(settings, INFO, TrtllmConfig, {})


def model(family: str, **config: Any) -> ModelArtifacts:
    name = ARCHITECTURE_OF.get(family, family)
    config = {"model_type": family, "architectures": [name], "num_attention_heads": 32, **config}
    return ModelArtifacts(
        folder="/no/such/folder",
        format=ArtifactFormat.PRETRAINED,
        config=config,
        architectures=(name,),
        model_type=family,
        max_context_tokens=4096,
    )


def checked(artifacts: ModelArtifacts, text: str = "") -> list[Problem]:
    """What is wrong; that compressing means compiling at the start is another matter."""
    found = placed(lmi_trtllm.lmi_validate_artifacts(artifacts, typed(text).config, CUDA), TrtllmConfig)
    return [each for each in found if each.code != "engine.compiles-at-start"]


DEFAULTS = {
    "rolling_batch": "auto", "max_rolling_batch_size": 32, "tensor_parallel_degree": 1, "pipeline_parallel_degree": 1,
    "dtype": "fp16", "backend": "auto", "max_input_len": 1024, "max_output_len": 512, "max_num_tokens": None,
    "max_num_sequences": None, "max_draft_len": None, "use_custom_all_reduce": False, "tokens_per_block": None,
    "batch_scheduler_policy": "max_utilization", "kv_cache_free_gpu_mem_fraction": 0.95, "enable_trt_overlap": False,
    "enable_kv_cache_reuse": False, "baichuan_model_version": "v1_13b", "chatglm_model_version": "unspecified",
    "gpt_model_version": "gpt2", "multi_block_mode": False, "use_fused_mlp": False, "rotary_base": None,
    "rotary_dim": None, "rotary_scaling_type": None, "rotary_scaling_factor": None, "quantize": None,
    "smoothquant_alpha": 0.8, "smoothquant_per_token": False, "smoothquant_per_channel": False,
    "multi_query_mode": False, "q_format": "int4_awq", "calib_size": 32,
}  # fmt: skip


def test_defaults():
    assert {name: getattr(typed("").config, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("max_input_len=256", "max_input_len", 256),
        ("max_num_tokens=50000", "max_rolling_batch_size", 256),
        ("max_num_tokens=50000 max_rolling_batch_size=16", "max_rolling_batch_size", 16),
        ("max_num_tokens=50000 max_rolling_batch_size=16", "engine_batch_size", 256),
        ("max_num_tokens=50000 max_rolling_batch_size=512", "engine_batch_size", 512),
        ("max_num_tokens=50000", "engine_input_len", 4096),
        ("max_num_tokens=2000", "engine_input_len", 2000),
        ("max_num_tokens=2000 max_input_len=3000", "engine_input_len", 3000),
        ("max_num_tokens=50000 max_output_len=8000", "engine_output_len", 8000),
        ("max_rolling_batch_size=16", "engine_batch_size", 16),
        ("max_num_sequences=64 max_rolling_batch_size=16", "engine_batch_size", 64),
        ("use_custom_all_reduce=TRUE", "use_custom_all_reduce", True),
        ("tokens_per_block=64", "tokens_per_block", 64),
        ("batch_scheduler_policy=GUARANTEED_NO_EVICT", "batch_scheduler_policy", "guaranteed_no_evict"),
        ("kv_cache_free_gpu_mem_fraction=1", "kv_cache_free_gpu_mem_fraction", 1.0),
        ("free_gpu_memory_fraction=0.5", "kv_cache_free_gpu_mem_fraction", 0.5),
        ("enable_block_reuse=true", "enable_kv_cache_reuse", True),
        ("chatglm_model_version=chatglm3", "chatglm_model_version", "chatglm3_6b"),
        ("rotary_scaling_type=Dynamic rotary_scaling_factor=2", "rotary_scaling_factor", 2.0),
        ("rotary_base=10000.0", "rotary_base", 10000.0),
        ("quantize=SmoothQuant", "quantize", "smoothquant"),
        ("quantize=none", "quantize", None),
        ("dtype=FP16", "dtype", "fp16"),
        ("dtype=float16", "dtype", "fp16"),
        ("dtype=BFloat16", "dtype", "bf16"),
        ("rolling_batch=Disable", "rolling_batch", "disable"),
        ("rolling_batch=", "rolling_batch", "auto"),
    ],
)
def test_values(text, name, value):
    parsed = typed(text)
    assert getattr(parsed.config, name) == value
    assert parsed.warnings == []


@pytest.mark.parametrize(
    "text",
    [
        "max_input_len=0", "max_output_len=0", "max_num_tokens=0", "max_num_sequences=0", "tokens_per_block=0",
        "kv_cache_free_gpu_mem_fraction=0", "kv_cache_free_gpu_mem_fraction=1.01", "max_rolling_batch_size=0",
        "batch_scheduler_policy=fifo", "baichuan_model_version=v3_7b", "chatglm_model_version=chatglm4",
        "gpt_model_version=gpt3", "rotary_base=0", "rotary_dim=0", "rotary_scaling_factor=1.0",
        "rotary_scaling_type=yarn", "quantize=squeezellm", "smoothquant_alpha=1.5", "awq_format=int8", "dtype=int8",
        "rolling_batch=vllm", "use_fused_mlp=perhaps", "calib_size=0", "max_draft_len=-1",
    ],
)  # fmt: skip
def test_values_that_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        typed(text)
    (problem,) = caught.value.problems
    assert (problem.code, problem.source) == ("config.invalid-value", f"command line -o {text.partition('=')[0]}")


@pytest.mark.parametrize(
    ("text", "fields", "said"),
    [
        ("rotary_scaling_type=linear", ["rotary_scaling_type"], "rotary_scaling_factor is not set"),
        ("rotary_scaling_factor=2.0", ["rotary_scaling_factor"], "rotary_scaling_type is not set"),
        ("quantize=smoothquant backend=pytorch", ["quantize", "backend"], "backend=pytorch builds none"),
        ("tokens_per_block=48", ["tokens_per_block"], "tokens_per_block=48 is no power of two"),
    ],
)
def test_options_that_contradict_each_other(text, fields, said):
    with pytest.raises(ConfigError) as caught:
        typed(text)
    (problem,) = caught.value.problems
    assert problem.code == "config.conflict"
    assert said in problem.message
    assert [field in problem.source for field in fields] == [True] * len(fields)
    assert problem.hint


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("smoothquant_alpha=0.5", "config.no-effect", "smoothquant_alpha=0.5 is only applied under"),
        ("smoothquant_per_token=true", "config.no-effect", "under quantize=smoothquant; quantize is not set"),
        ("smoothquant_per_channel=true quantize=awq", "config.no-effect", "smoothquant; quantize=awq"),
        ("multi_query_mode=true", "config.no-effect", "only applied under quantize=smoothquant"),
        ("calib_size=64", "config.no-effect", "only applied under quantize=awq or fp8"),
        ("calib_size=64 quantize=smoothquant", "config.no-effect", "quantize=awq or fp8; quantize=smoothquant"),
        ("calib_batch_size=8", "config.no-effect", "only applied under quantize=awq or fp8"),
        ("use_fp8_context_fmha=true quantize=awq", "config.no-effect", "only applied under quantize=fp8"),
        ("num_checkpoint_workers=4", "config.no-effect", "changes nothing"),
        ("load_by_shard=true", "config.no-effect", "changes nothing"),
        ("trtllm_checkpoint_path=/x", "config.no-effect", "option.model_id"),
        ("logits_dtype=fp16", "config.no-effect", "T5"),
        ("rolling_batch=tensorrtllm", "config.deprecated", "old spelling"),
        ("data_type=bf16", "config.deprecated", "old name of 'option.dtype'"),
        ("awq_format=int4_awq quantize=awq", "config.deprecated", "old name of 'option.q_format'"),
        ("awq_calib_size=64 quantize=awq", "config.deprecated", "old name of 'option.calib_size'"),
    ],
)
def test_warnings(text, code, said):
    (warning,) = typed(text).warnings
    assert (warning.code, warning.severity) == (code, Severity.WARNING)
    assert said in warning.message
    assert f"-o {text.partition('=')[0]}" in warning.source
    assert warning.hint


def test_a_warning_names_both_sources():
    parsed = typed("smoothquant_per_token=true", {"OPTION_QUANTIZE": "awq"})
    assert parsed.warnings[0].source == "command line -o smoothquant_per_token, OPTION_QUANTIZE"


@pytest.mark.parametrize(
    "text",
    [
        "quantize=smoothquant smoothquant_alpha=0.7 smoothquant_per_token=true smoothquant_per_channel=true",
        "quantize=smoothquant multi_query_mode=true",
        "quantize=awq calib_size=64 awq_block_size=64",
        "quantize=fp8 use_fp8_context_fmha=true calib_size=512 calib_batch_size=16",
    ],
)
def test_options_that_belong_together_are_fine(text):
    assert typed(text).warnings == []
    assert checked(model("llama"), text) == []


def test_the_sample_of_the_guide(tmp_path: Path):
    text = (
        "option.model_id=org/model\noption.tensor_parallel_degree=1\n"
        "option.max_rolling_batch_size=16 # default is 32\n"
        "option.max_input_len=256 # default is 1024\noption.max_output_len=256 # default is 512\n"
    )
    (tmp_path / "serving.properties").write_text(text)
    parsed = parse(read_settings(model_folder=tmp_path, environ={}, flags={}), INFO, TrtllmConfig, {})
    asked = {"tensor_parallel_degree": 1, "max_rolling_batch_size": 16, "max_input_len": 256, "max_output_len": 256}
    assert parsed.config.model_dump(exclude_unset=True) == asked
    assert {each.code for each in parsed.warnings} == {"config.inline-comment"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rolling_batch", "trtllm"), ("rolling_batch", "TensorRTLLM"), ("entryPoint", "djl_python.tensorrt_llm"),
        ("engine", "trtllm"),
    ],
)  # fmt: skip
def test_what_selects_it(key, value):
    chosen = Plugins.discover({"LMI_EXTENSIONS": ""}).choose(
        read_settings(model_folder=None, environ={}, flags={key: value, "mpi_mode": "true"}), model("llama"), CUDA
    )
    assert (chosen.info.name, chosen.is_explicit) == ("trtllm", True)


# ------------------------------------------------------------------------------------------------ what a model allows

DOCUMENTED = (
    "max_input_len=1024 max_output_len=512 use_custom_all_reduce=false tokens_per_block=64 "
    "batch_scheduler_policy=max_utilization kv_cache_free_gpu_mem_fraction=0.95 max_num_sequences=32 "
    "enable_trt_overlap=false enable_kv_cache_reuse=false baichuan_model_version=v1_13b gpt_model_version=gpt2 "
    "multi_block_mode=false use_fused_mlp=false rotary_base=10000.0 rotary_dim=64 rotary_scaling_type=none "
    "rotary_scaling_factor=none quantize=none smoothquant_alpha=0.8 smoothquant_per_token=false "
    "smoothquant_per_channel=false multi_query_mode=false q_format=int4_awq calib_size=32 rolling_batch=trtllm "
    "chatglm_model_version=unspecified logits_dtype=fp32 load_by_shard=false max_rolling_batch_size=32 dtype=fp16"
)


@pytest.mark.parametrize("family", [each for each in ARCHITECTURE_OF if each != "chatglm"])
def test_documented_defaults_never_stop_a_start(family):
    assert typed(DOCUMENTED).warnings == []
    assert checked(model(family), DOCUMENTED) == []


ROTARY = "rotary_scaling_type=linear rotary_scaling_factor=2.0"


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("use_fused_mlp=true", {"llama"}),
        ("rotary_base=500000", {"llama", "internlm", "qwen", "qwen2"}),
        ("rotary_dim=32", {"gptj"}),
        (ROTARY, {"llama", "internlm", "qwen", "qwen2"}),
        ("multi_block_mode=true", set(ARCHITECTURE_OF) - {"qwen", "qwen2"}),
        ("quantize=smoothquant", {"llama", "mistral", "internlm", "baichuan"}),
        ("quantize=awq", {"llama", "mistral"}),
        ("quantize=fp8", set(ARCHITECTURE_OF)),
        ("quantize=gptq", set()),
    ],
)
@pytest.mark.parametrize("family", ARCHITECTURE_OF)
def test_options_for_some_families(text, allowed, family):
    version = "" if family != "chatglm" else " chatglm_model_version=chatglm3_6b"
    found = checked(model(family), text + version)
    if family in allowed:
        assert found == []
        return
    assert {each.code for each in found} == {"config.quantize" if "quantize" in text else "config.conflict"}
    name, _, value = text.split()[0].partition("=")
    assert found[0].severity is Severity.ERROR
    assert f"{name}={value}" in found[0].message or f"{name}={float(value)}" in found[0].message
    assert all(each.hint for each in found)


VERSIONS = {"baichuan": "baichuan_model_version=v2_7b", "chatglm": "chatglm_model_version=chatglm2_6b",
            "gpt_bigcode": "gpt_model_version=starcoder"}  # fmt: skip


@pytest.mark.parametrize(("family", "text"), VERSIONS.items())
def test_versions_are_of_one_family(family, text):
    assert checked(model(family), text) == []
    (warning,) = checked(model("llama"), text)
    assert (warning.code, warning.severity) == ("config.no-effect", Severity.WARNING)
    assert text in warning.message


@pytest.mark.parametrize("text", ["", "chatglm_model_version=unspecified"])
def test_a_chatglm_must_say_which(text):
    (problem,) = checked(model("chatglm"), text)
    assert (problem.code, problem.severity) == ("config.missing-key", Severity.ERROR)
    assert "chatglm_model_version is unspecified" in problem.message
    assert "chatglm2_6b_32k" in problem.hint


def test_disable_is_refused():
    (problem,) = checked(model("llama"), "rolling_batch=disable")
    assert problem.code == "config.conflict"
    assert "rolling_batch=disable" in problem.message


@pytest.mark.parametrize(
    ("artifacts", "code"),
    [
        (model("T5ForConditionalGeneration", is_encoder_decoder=True), "model.task-not-served"),
        (model("BloomForCausalLM"), "model.architecture-not-served"),
    ],
)
def test_models_that_are_not_served(artifacts, code):
    (problem,) = checked(artifacts)
    assert problem.code == code
    assert artifacts.architectures[0] in problem.message
    assert problem.hint


@pytest.mark.parametrize("name", [each for each in ARCHITECTURES if "GLM" not in each])
def test_models_that_are_served(name):
    assert checked(model(name)) == []


@pytest.mark.parametrize(
    ("text", "config", "code", "said"),
    [
        ("quantize=awq", {"quantization_config": {"quant_method": "awq"}}, "", ""),
        ("quantize=awq backend=pytorch", {"quantization_config": {"quant_method": "AWQ"}}, "", ""),
        ("quantize=awq backend=pytorch", {}, "model.not-quantized", "backend=pytorch"),
        ("quantize=fp8 backend=pytorch", {}, "model.not-quantized", "backend=pytorch"),
        ("quantize=awq", {"quantization_config": {"quant_method": "gptq"}}, "config.quantize", "compressed with gptq"),
        ("quantize=smoothquant", {"quantization_config": {"quant_method": "awq"}}, "config.quantize", "with awq"),
        ("quantize=gptq", {"quantization_config": {"quant_method": "gptq"}}, "config.quantize", "built before"),
        ("tensor_parallel_degree=3", {}, "config.tensor-parallel", "32 attention heads"),
        ("tensor_parallel_degree=4", {}, "", ""),
    ],
)
def test_what_a_checkpoint_allows(text, config, code, said):
    found = checked(model("llama", **config), text)
    assert [each.code for each in found] == [code] * bool(code)
    assert all(said in each.message and each.hint for each in found)


# ------------------------------------------------------------------------------------------------------- the contract


@pytest.fixture(scope="module")
def kit():
    with kit_of(CASE) as kit:
        yield kit


@pytest.mark.parametrize("rule_id", STATIC_RULES)
def test_the_contract_without_an_engine(rule_id, kit):
    keep(rule_id, kit)


# ------------------------------------------------------------------------------------------------ which of a family

VERSIONS = [
    ("chatglm", {"position_encoding_2d": True}, "chatglm_model_version=chatglm2_6b", "chatglm_6b"),
    ("chatglm", {"position_encoding_2d": True}, "chatglm_model_version=chatglm_6b", ""),
    ("chatglm", {"_name_or_path": "THUDM/chatglm2-6b"}, "chatglm_model_version=chatglm3", "chatglm2_6b"),
    ("chatglm", {"_name_or_path": "THUDM/chatglm3-6b-32k"}, "chatglm_model_version=chatglm3_6b", "chatglm3_6b_32k"),
    ("chatglm", {"_name_or_path": "THUDM/chatglm3-6b-base"}, "chatglm_model_version=chatglm3_6b_base", ""),
    ("chatglm", {"multi_query_attention": True}, "chatglm_model_version=chatglm_6b", "chatglm2_6b or"),
    ("chatglm", {"multi_query_attention": True}, "chatglm_model_version=chatglm3_6b_32k", ""),
    ("chatglm", {}, "chatglm_model_version=chatglm2_6b", ""),
    ("baichuan", {"vocab_size": 125696, "hidden_size": 4096}, "baichuan_model_version=v1_7b", "v2_7b"),
    ("baichuan", {"vocab_size": 125696, "hidden_size": 4096}, "baichuan_model_version=v2_7b", ""),
    ("baichuan", {"vocab_size": 64000, "hidden_size": 5120}, "baichuan_model_version=v2_13b", "v1_13b"),
    ("baichuan", {"vocab_size": 125696, "hidden_size": 4096}, "baichuan_model_version=v1_13b", ""),  # the default
    ("baichuan", {}, "baichuan_model_version=v2_7b", ""),
    ("gpt2", {}, "gpt_model_version=starcoder", "gpt2"),
    ("gpt_bigcode", {"n_embd": 6144}, "gpt_model_version=santacoder", "starcoder"),
    ("gpt_bigcode", {"n_embd": 6144}, "gpt_model_version=starcoder", ""),
    ("gpt_bigcode", {"n_embd": 512}, "gpt_model_version=santacoder", ""),
]


@pytest.mark.parametrize(("family", "config", "text", "found"), VERSIONS)
def test_a_version_that_the_model_contradicts_is_an_error_that_names_both(family, config, text, found):
    problems = checked(model(family, **config), text)
    assert [each.code for each in problems] == ["config.conflict"] * bool(found)
    for each in problems:
        assert each.severity is Severity.ERROR and each.fields == (text.partition("=")[0],)
        said = text.replace("chatglm3", "chatglm3_6b") if text.endswith("=chatglm3") else text
        assert said in each.message and f"the model is {found}" in each.message
