# SPDX-License-Identifier: Apache-2.0
"""The options of vllm: one row a rule of LMI's reference."""

import json

import pytest

from lmi.api import Accelerator, ArtifactFormat, ConfigError, ModelArtifacts, Severity, Target
from lmi.config import parse, read_settings
from lmi.config.coerce import as_text
from lmi.config.typed import keys_of
from lmi.testing.config_rules import sample_values
from lmi_vllm import lmi_describe_backend, lmi_validate_artifacts
from lmi_vllm.arguments import read_arguments
from lmi_vllm.config import VLLMConfig
from lmi_vllm.contract import CASE
from tests.backends.placing import placed
from tests.backends.static_lane import STATIC_RULES, keep, kit_of

SPECULATION = '{"method": "ngram", "num_speculative_tokens": 3}'


def parsed(environ=None, **settings):
    flags = {key: as_text(value) for key, value in settings.items()}
    found = read_settings(model_folder=None, environ=environ or {}, flags=flags)
    return parse(found, lmi_describe_backend(), VLLMConfig, {})


def config_of(**settings):
    return parsed(**settings).config


def problems_of(**settings):
    with pytest.raises(ConfigError) as caught:
        parsed(**settings)
    return caught.value.problems


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("max_rolling_batch_size", 256),
        ("tensor_parallel_degree", 1),
        ("pipeline_parallel_degree", 1),
        ("trust_remote_code", False),
        ("dtype", "auto"),
        ("quantize", None),
        ("max_rolling_batch_prefill_tokens", None),
        ("max_model_len", None),
        ("load_format", "auto"),
        ("enforce_eager", False),
        ("gpu_memory_utilization", None),
        ("max_logprobs", 100),
        ("enable_lora", False),
        ("max_loras", 4),
        ("max_lora_rank", 16),
        ("lora_extra_vocab_size", 256),
        ("max_cpu_loras", None),
        ("seed", 0),
        ("cpu_offload_gb_per_gpu", 0),
        ("task", None),
    ],
)
def test_defaults_are_those_of_the_reference_and_stop_no_start(name, default):
    assert getattr(config_of(), name) == default
    found = parsed(**{name: default})
    assert (getattr(found.config, name), found.warnings) == (default, [])


@pytest.mark.parametrize(
    ("key", "text", "name", "value"),
    [
        ("dtype", "BF16", "dtype", "bf16"),
        ("dtype", "bfloat16", "dtype", "bf16"),
        ("dtype", "Float16", "dtype", "fp16"),
        ("dtype", "half", "dtype", "fp16"),
        ("dtype", "float32", "dtype", "fp32"),
        ("dtype", "FP32", "dtype", "fp32"),
        ("quantize", "awq", "quantize", "awq"),
        ("quantize", "GPTQ", "quantize", "gptq"),
        ("quantize", "compressed_tensors", "quantize", "compressed-tensors"),
        ("quantization", "fp8", "quantize", "fp8"),
        ("quantize", "none", "quantize", None),
        ("max_num_batched_tokens", "4096", "max_rolling_batch_prefill_tokens", 4096),
        ("max_num_seqs", "64", "max_rolling_batch_size", 64),
        ("tensor_parallel_size", "2", "tensor_parallel_degree", 2),
        ("pipeline_parallel_size", "1", "pipeline_parallel_degree", 1),
        ("cpu_offload_gb", "2.5", "cpu_offload_gb_per_gpu", 2.5),
        ("cpu_offload_gb_per_gpu", "1", "cpu_offload_gb_per_gpu", 1),
        ("max_model_len", "-1", "max_model_len", -1),
        ("load_format", "Safetensors", "load_format", "safetensors"),
        ("limit_mm_per_prompt", "image=2,video=1", "limit_mm_per_prompt", {"image": 2, "video": 1}),
        ("limit_mm_per_prompt", '{"image": {"count": 2}}', "limit_mm_per_prompt", {"image": {"count": 2}}),
        ("speculative_config", SPECULATION, "speculative_config", json.loads(SPECULATION)),
        ("enable_prefix_caching", "True", "enable_prefix_caching", True),
        ("enable_chunked_prefill", "false", "enable_chunked_prefill", False),
        ("kv_cache_dtype", "FP8", "kv_cache_dtype", "fp8"),
        ("optimization_level", "0", "optimization_level", 0),
        ("cudagraph_capture_sizes", "1,2,4", "cudagraph_capture_sizes", [1, 2, 4]),
        ("allowed_media_domains", "a.org, b.org", "allowed_media_domains", ["a.org", "b.org"]),
        ("hf_overrides", '{"rope_theta": 1e6}', "hf_overrides", {"rope_theta": 1e6}),
        ("async_scheduling", "true", "async_scheduling", True),
        ("mamba_backend", "flashinfer", "mamba_backend", "flashinfer"),
    ],
)
def test_text_becomes_a_value(key, text, name, value):
    found = parsed(**{key: text})
    assert getattr(found.config, name) == value
    assert found.warnings == []
    variable = parsed({f"OPTION_{key.upper()}": text})
    assert getattr(variable.config, name) == value


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("dtype", "int8", "Choices: auto, bf16, fp16, fp32"),
        ("quantize", "squeezellm", "compress the model with awq or gptq"),
        ("quantize", "bitsandbytes", "use fp8"),
        ("quantize", "gguf", "GGUF"),
        ("quantize", "awk", "Did you mean 'awq'?"),
        ("max_lora_rank", "24", "32 holds adapters of rank 24"),
        ("max_lora_rank", "1024", "at most 512"),
        ("gpu_memory_utilization", "1.5", "at most 1"),
        ("gpu_memory_utilization", "0", "greater than 0"),
        ("max_model_len", "long", "a whole number (tokens)"),
        ("max_loras", "0", "at least 1"),
        ("max_rolling_batch_size", "0", "at least 1"),
        ("speculative_config", '{"method": ', "a JSON object"),
        ("enforce_eager", "perhaps", "true or false"),
        ("moe_backend", "tritn", "Did you mean 'triton'?"),
        ("optimization_level", "4", "at most 3"),
        ("master_port", "70000", "at most 65535"),
        ("lora_dtype", "fp32", "Choices: auto, bf16, fp16"),
    ],
)
def test_a_wrong_value_is_refused_with_what_it_takes(key, text, said):
    (problem,) = problems_of(**{key: text})
    assert problem.code == "config.invalid-value"
    assert problem.source == f"command line -o {key}"
    assert said in str(problem)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data_parallel_size": 2}, "for more copies set minWorkers"),
        ({"prefill_context_parallel_size": 2}, "split the model with option.tensor_parallel_degree"),
        ({"nnodes": 2}, "one machine"),
        ({"distributed_executor_backend": "ray"}, "starts its ranks itself"),
        ({"distributed_executor_backend": "uni", "tensor_parallel_degree": 2}, "a copy has 2 devices"),
        ({"decode_context_parallel_size": 2, "tensor_parallel_degree": 3}, "does not divide"),
        ({"runner": "draft"}, "option.speculative_config"),
        ({"spec_tokens": 3}, "Set option.spec_method (for example ngram)"),
        ({"max_rolling_batch_prefill_tokens": 128, "max_rolling_batch_size": 200}, "=200 or more"),
        (
            {"max_rolling_batch_prefill_tokens": 1024, "max_model_len": 4096, "enable_chunked_prefill": False},
            "max_rolling_batch_prefill_tokens=4096",
        ),
        ({"max_cpu_loras": 2, "max_loras": 3, "enable_lora": True}, "max_cpu_loras=3 or more"),
        ({"long_lora_scaling_factors": "4.0,8.0"}, "does not support"),
        ({"enable_reasoning": True}, "Set option.reasoning_parser"),
        ({"lmcache_auto_config": True}, "lmcache_config_file"),
        ({"speculative_config": SPECULATION, "spec_tokens": 3}, "Keep one of them"),
        ({"collect_detailed_traces": "model"}, "otlp_traces_endpoint"),
    ],
)
def test_options_that_exclude_each_other_are_refused(settings, said):
    (problem,) = problems_of(**settings)
    assert problem.code == "config.conflict"
    assert said in str(problem)
    switches = {"enable_lora"}  # what merely makes the others count is not named
    assert all(f"command line -o {key}" in problem.source for key in settings.keys() - switches)


ALIASES = {
    "tensor_parallel_degree": "tensor_parallel_size",
    "pipeline_parallel_degree": "pipeline_parallel_size",
    "max_rolling_batch_size": "max_num_seqs",
    "max_rolling_batch_prefill_tokens": "max_num_batched_tokens",
    "cpu_offload_gb_per_gpu": "cpu_offload_gb",
    "quantize": "quantization",
}


def test_every_pair_of_names_is_tested():
    fields = VLLMConfig.model_fields.items()
    pairs = {name: tuple(info.json_schema_extra["aliases"]) for name, info in fields if info.json_schema_extra}
    assert {name: aliases for name, aliases in pairs.items() if aliases} == {
        name: (alias,) for name, alias in ALIASES.items()
    }


@pytest.mark.parametrize(("lmi_name", "engine_name"), ALIASES.items())
def test_two_names_of_one_setting_agree_or_are_refused(lmi_name, engine_name):
    good, other = ("awq", "gptq") if lmi_name == "quantize" else ("1000", "2000")
    assert parsed(**{lmi_name: good, engine_name: good}).warnings == []
    (problem,) = [each for each in problems_of(**{lmi_name: good, engine_name: other}) if "two names" in each.message]
    assert problem.code == "config.conflict"
    assert f"-o {lmi_name}" in problem.message
    assert f"-o {engine_name}" in problem.message


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"data_type": "bf16"}, "config.deprecated", "option.dtype=bf16"),
        ({"lora_extra_vocab_size": 512}, "config.no-effect", "no adapters that add tokens"),
        ({"max_loras": 8}, "config.no-effect", "enable_lora is false"),
        ({"max_lora_rank": 64}, "config.no-effect", "enable_lora is false"),
        ({"max_cpu_loras": 8}, "config.no-effect", "enable_lora is false"),
        ({"fully_sharded_loras": True}, "config.no-effect", "enable_lora is false"),
        ({"lora_dtype": "float16"}, "config.no-effect", "enable_lora is false"),
        ({"enable_reasoning": False, "reasoning_parser": "qwen3"}, "config.no-effect", "turns reasoning on"),
        ({"gpu_memory_utilization": 0.9, "kv_cache_memory_bytes": 1 << 30}, "config.no-effect", "sizes the cache"),
        ({"enforce_eager": True, "cudagraph_capture_sizes": "1,2"}, "config.no-effect", "captures no graphs"),
        ({"logprobs_mode": "raw_logits"}, "config.conflict", "raw log probabilities"),
        (
            {"lmcache_config_file": "/c.yaml", "kv_transfer_config": '{"kv_connector": "NixlConnector"}'},
            "config.no-effect",
            "NixlConnector",
        ),
    ],
)
def test_what_changes_nothing_is_warned_about(settings, code, said):
    (warning,) = parsed(**settings).warnings
    assert (warning.code, warning.severity) == (code, Severity.WARNING)
    assert said in str(warning)
    assert warning.hint
    assert "command line -o" in warning.source


@pytest.mark.parametrize(
    "settings",
    [
        {"enable_lora": True, "max_loras": 8, "max_lora_rank": 64, "max_cpu_loras": 8, "fully_sharded_loras": True},
        {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
        {"enable_auto_tool_choice": True},
        {"tool_call_parser": "llama3_json", "reasoning_parser": "think"},
        {"enable_reasoning": True, "reasoning_parser": "deepseek_r1"},
        {"reasoning_parser": "deepseek_r1"},
        {"speculative_config": SPECULATION},
        {"lmcache_config_file": "/c.yaml", "kv_transfer_config": '{"kv_connector": "LMCacheConnectorV1"}'},
        {"spec_method": "ngram", "spec_tokens": 3},
        {"distributed_executor_backend": "mp", "tensor_parallel_degree": 2},
        {"decode_context_parallel_size": 2, "tensor_parallel_degree": 4},
        {"max_rolling_batch_prefill_tokens": 1024, "max_model_len": 4096},
    ],
)
def test_what_goes_together_is_not_warned_about(settings):
    assert parsed(**settings).warnings == []


def test_all_mistakes_are_told_at_once():
    problems = problems_of(dtype="int8", max_lora_rank=24, tensor_paralel_degree=2)
    assert sorted(each.code for each in problems) == [
        "config.invalid-value", "config.invalid-value", "config.unknown-key",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------- every other argument of vLLM


def test_every_argument_of_the_engine_is_an_option():
    assert read_arguments().keys() <= VLLMConfig.model_fields.keys()
    assert not any(name.startswith("_") for name in VLLMConfig.model_fields)
    keys = keys_of(VLLMConfig)
    assert all(keys[f"option.{name}"] for name in ("scheduling_policy", "max_num_seqs", "quantization"))


def test_every_default_and_choice_means_the_same_as_text():
    for name, info in VLLMConfig.model_fields.items():
        for value in sample_values(info, info.default):
            kind = VLLMConfig.model_validate({name: value})
            try:
                assert getattr(config_of(**{name: value}), name) == getattr(kind, name), name
            except ConfigError as error:
                assert {each.code for each in error.problems} == {"config.conflict"}, name


def test_no_argument_is_documented_twice():
    lines = [info.description for info in VLLMConfig.model_fields.values()]
    assert sorted({each for each in lines if lines.count(each) > 1}) == []


# ---------------------------------------------------------------------------------------------- what the model says

GPUS = Target(accelerator=Accelerator.CUDA, n_devices=4)
CPU = Target(accelerator=Accelerator.CPU)


def checked(settings, config=(), target=GPUS, **further):
    artifacts = ModelArtifacts(
        folder="/m",
        format=ArtifactFormat.PRETRAINED,
        architectures=("LlamaForCausalLM",),
        **{"config": {"num_attention_heads": 12, **dict(config)}, "model_type": "llama", **further},
    )
    return placed(lmi_validate_artifacts(artifacts, config_of(**settings), target), VLLMConfig)


AWQ = {"quantization_config": {"quant_method": "awq"}}


@pytest.mark.parametrize(
    ("settings", "further", "code", "said"),
    [
        ({"tensor_parallel_degree": 2}, {"config": {"num_attention_heads": 9}}, "config.tensor-parallel", "9 att"),
        (
            {"pipeline_parallel_degree": 4},
            {"config": {"num_hidden_layers": 3}},
            "config.pipeline-parallel",
            "3 or less",
        ),
        ({}, {"target": CPU, "config": {"head_dim": 48}}, "model.head-size", "on CPU vLLM takes 32, 64"),
        ({"enable_eplb": True}, {"target": CPU}, "config.conflict", "balances experts on accelerators"),
        ({"pipeline_parallel_degree": 2, "enforce_eager": True}, {"target": CPU}, "config.pipeline-parallel", "compil"),
        ({"pipeline_parallel_degree": 2, "enable_lora": True}, {"target": CPU}, "config.pipeline-parallel", "enable_l"),
        (
            {"decode_context_parallel_size": 2, "tensor_parallel_degree": 4},
            {"target": CPU},
            "config.conflict",
            "Remove option.decode_context_parallel_size",
        ),
        ({"cpu_offload_gb": 2}, {"target": CPU}, "config.no-effect", "in the host's memory anyway"),
        ({"max_model_len": 9000}, {"max_context_tokens": 8192}, "config.max-model-len", "the model takes 8192"),
        ({"quantize": "awq"}, {}, "model.not-quantized", "quantize=fp8"),
        ({"quantize": "gptq"}, {"config": AWQ}, "config.quantize", "compressed with awq"),
        ({"quantize": "fp8"}, {"config": AWQ}, "config.quantize", "compressed with awq"),
        ({"dtype": "float16"}, {"model_type": "gemma2"}, "config.dtype", "dtype=bf16"),
    ],
)
def test_a_model_that_does_not_fit_is_a_problem(settings, further, code, said):
    (problem,) = checked(settings, **further)
    assert problem.code == code
    assert said in str(problem)
    assert problem.hint


@pytest.mark.parametrize(
    ("settings", "further"),
    [
        ({}, {}),
        ({"tensor_parallel_degree": 4}, {}),
        ({"tensor_parallel_degree": 2, "pipeline_parallel_degree": 3}, {"config": {"num_hidden_layers": 3}}),
        ({"tensor_parallel_degree": 2}, {"target": CPU, "config": {"head_dim": 64}}),
        ({"async_scheduling": False}, {"target": CPU}),
        ({"pipeline_parallel_degree": 2}, {"target": CPU}),
        ({"pipeline_parallel_degree": 2, "enforce_eager": True}, {}),
        ({"cpu_offload_gb": 2, "enable_eplb": True}, {"config": {"head_dim": 48}}),
        ({"tensor_parallel_degree": 6}, {}),  # the core says that there are 4 devices
        ({"quantize": "awq"}, {"config": AWQ}),
        ({"quantize": "awq_marlin"}, {"config": AWQ}),
        ({"quantize": "moe_wna16"}, {"config": AWQ}),
        ({"quantize": "fp8"}, {}),
        ({"max_model_len": 8192}, {"max_context_tokens": 8192}),
        ({"max_model_len": 9000}, {"max_context_tokens": 8192, "config": {"rope_scaling": {"factor": 2}}}),
        ({"max_model_len": 9000, "hf_overrides": '{"a": 1}'}, {"max_context_tokens": 8192}),
        ({"dtype": "bf16"}, {"model_type": "gemma2"}),
    ],
)
def test_a_model_that_fits_has_no_problems(settings, further):
    assert list(checked(settings, **further)) == []


# --------------------------------------------------------------------------------------------------- the contract


@pytest.fixture(scope="module")
def kit():
    with kit_of(CASE) as kit:
        yield kit


@pytest.mark.parametrize("rule_id", STATIC_RULES)
def test_the_static_rules_hold(rule_id, kit):
    keep(rule_id, kit)
