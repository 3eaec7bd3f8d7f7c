# SPDX-License-Identifier: Apache-2.0
"""What vLLM's engine is started with: each option reaches it under vLLM's name, or is known to act elsewhere."""

import json
import subprocess

import pytest
from pydantic import ValidationError

from lmi.api import ArtifactFormat, BackendConfig, ModelArtifacts
from lmi.testing import write_tiny
from lmi.testing.config_rules import sample_values
from lmi_vllm.arguments import read_arguments, read_record
from lmi_vllm.config import VLLMConfig
from lmi_vllm.starting import ELSEWHERE, OWN_NAMES, engine_arguments
from tests.limits import limit_s

MODEL = ModelArtifacts(folder="/m", format=ArtifactFormat.PRETRAINED)
ALWAYS = {"model": "/m", "disable_log_stats": True, "max_num_seqs": 256, "max_logprobs": 100}
RECORD = read_record()
PASSED = {**RECORD["of_lmi"], **RECORD["arguments"]}
TYPES = {
    "switch": bool, "int": int, "float": (int, float), "text": str, "list": list, "int_list": list, "map": dict,
}  # fmt: skip


def arguments_of(cache_bytes=None, **settings):
    return engine_arguments(MODEL, VLLMConfig.model_validate(settings), cache_bytes)


def another_value(name):
    """A value that an option takes, other than its default."""
    info = VLLMConfig.model_fields[name]
    for value in (*sample_values(info, info.default), 2, 0.5, True, "x", "awq", ["x"], [2], {"x": 1}):
        try:
            config = VLLMConfig.model_validate({name: value})
        except ValidationError:
            continue
        if getattr(config, name) != info.default:
            return value
    raise AssertionError(f"no value found for {name}")


def test_what_nobody_sets_is_left_to_vllm():
    assert arguments_of() == {**ALWAYS, "gpu_memory_utilization": 0.9}


def test_every_option_is_an_argument_or_acts_elsewhere():
    options = set(VLLMConfig.model_fields)
    known = [*OWN_NAMES, *read_arguments(), *ELSEWHERE]
    assert sorted(options - set(known)) == []
    assert sorted(name for name in known if known.count(name) > 1 or name not in options) == []


@pytest.mark.parametrize("name", [*OWN_NAMES, *read_arguments()])
def test_an_option_that_is_set_reaches_the_engine(name):
    value = another_value(name)
    further = {"enable_lora": True} if "lora" in name else {}
    arguments = arguments_of(**{**further, name: value})
    written = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    expected = getattr(VLLMConfig.model_validate({name: value}), name)
    expected = written.get(expected, expected) if isinstance(expected, str) else expected
    assert arguments[OWN_NAMES.get(name, name)] == expected


@pytest.mark.parametrize("name", [*OWN_NAMES, *read_arguments()])
def test_what_reaches_the_engine_is_an_argument_of_its_own_with_its_type(name):
    engine_name = OWN_NAMES.get(name, name)
    entry = PASSED[engine_name]
    further = {"enable_lora": True} if "lora" in name else {}
    value = arguments_of(**{**further, name: another_value(name)})[engine_name]
    if "choices" in entry:
        assert str(value) in entry["choices"]
    else:
        assert isinstance(value, TYPES[entry["type"]])


def test_the_record_of_the_engine_is_divided_without_rest():
    assert set(RECORD["of_lmi"]) == {*OWN_NAMES.values(), "model"}
    assert not set(RECORD["of_lmi"]) & set(RECORD["arguments"])
    assert not set(RECORD["not_passed"]) & set(PASSED)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_acts_elsewhere_is_no_argument(name):
    base, passed = arguments_of(), arguments_of(**{name: another_value(name)})
    assert name not in passed
    changed = {key for key in base.keys() | passed.keys() if base.get(key) != passed.get(key)}
    assert changed == {"lmcache_config_file": {"kv_transfer_config"}, "task": {"runner"}}.get(name, set())


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({"max_model_len": 0}, "max_model_len", None),
        ({"max_model_len": -1}, "max_model_len", -1),
        ({"max_logprobs": 20}, "max_logprobs", 20),
        ({"max_rolling_batch_size": 32}, "max_num_seqs", 32),
        ({"gpu_memory_utilization": 0.5}, "gpu_memory_utilization", 0.5),
        ({"kv_cache_memory_bytes": 1 << 30}, "gpu_memory_utilization", None),
        ({"max_loras": 8}, "max_loras", None),
        ({"enable_lora": True}, "max_loras", 4),
        ({"enable_lora": True, "lora_dtype": "fp16"}, "lora_dtype", "float16"),
        ({"reasoning_parser": "qwen3"}, "reasoning_parser", "qwen3"),
        ({"reasoning_parser": "qwen3", "enable_reasoning": False}, "reasoning_parser", None),
        ({"reasoning_parser": "think"}, "reasoning_parser", "deepseek_r1"),
        ({"reasoning_parser": "mistral"}, "reasoning_parser", "mistral"),
        ({"reasoning_parser": "auto"}, "reasoning_parser", None),
        ({"reasoning_parser": "none"}, "reasoning_parser", None),
        ({"lmcache_config_file": "/c.yaml"}, "kv_transfer_config",
         {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}),
        ({"lmcache_config_file": "/c.yaml", "kv_transfer_config": {"kv_connector": "LMCacheMPConnector"}},
         "kv_transfer_config", {"kv_connector": "LMCacheMPConnector"}),
        ({"spec_method": "ngram", "spec_tokens": 3}, "spec_tokens", 3),
    ],
)  # fmt: skip
def test_what_options_come_to(settings, name, value):
    assert arguments_of(**settings).get(name) == value


@pytest.mark.parametrize(
    ("settings", "n_bytes", "share"),
    [
        ({}, 4096, None),
        ({"kv_cache_memory_bytes": 1024}, 1024, None),
        ({"gpu_memory_utilization": 0.5}, None, 0.5),
    ],
)
def test_the_size_that_was_chosen_for_the_machine_yields_to_what_options_say(settings, n_bytes, share):
    arguments = arguments_of(4096, **settings)
    assert arguments.get("kv_cache_memory_bytes") == n_bytes
    assert arguments.get("gpu_memory_utilization") == share


def test_a_copy_takes_the_degree_times_the_stages():
    assert VLLMConfig(tensor_parallel_degree=2, pipeline_parallel_degree=3).n_devices == 6
    assert BackendConfig(tensor_parallel_degree=2).n_devices == 2


# ---------------------------------------------------------------------------------------------- against the real vLLM

FIELDS = """
import dataclasses, json, types, typing
from vllm.engine.arg_utils import AsyncEngineArgs
PLAIN = {bool: "switch", int: "int", float: "float", str: "text"}
def named(kind):
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return sorted({name for part in typing.get_args(kind) for name in named(part)})
    if typing.get_origin(kind) is typing.Literal:
        return ["choice"]
    return [PLAIN.get(kind, "other")]
fields = {field.name: named(field.type) for field in dataclasses.fields(AsyncEngineArgs)}
print("ANSWER" + json.dumps(fields))
"""

START = """
import json, sys
from vllm.engine.arg_utils import AsyncEngineArgs
answers = {}
for name, arguments in json.load(sys.stdin).items():
    try:
        made = AsyncEngineArgs(**arguments).create_engine_config()
        answers[name] = [made.parallel_config.world_size, str(made.model_config.dtype), made.model_config.max_model_len,
                         made.scheduler_config.max_num_seqs, made.cache_config.kv_cache_memory_bytes]
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
print("ANSWER" + json.dumps(answers))
"""


def asked(python, program, given=None):
    done = subprocess.run(
        [python, "-c", program], input=json.dumps(given), capture_output=True, text=True, timeout=limit_s(240),
        env={"PATH": "/usr/bin:/bin", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[-1].removeprefix("ANSWER"))


@pytest.mark.long
def test_the_installed_vllm_has_the_arguments_that_are_recorded(vllm_python):
    fields = asked(vllm_python, FIELDS)
    assert sorted(fields) == sorted([*PASSED, *RECORD["not_passed"]])
    plain = {"switch", "int", "float", "text", "choice"}
    differing = {
        name: (entry["type"], fields[name])
        for name, entry in PASSED.items()
        if entry["type"] in plain and entry["type"] not in fields[name] and name not in ENUMERATIONS
    }
    assert differing == {}


ENUMERATIONS = ("attention_backend", "mamba_backend", "mm_encoder_attn_backend", "optimization_level")
"""Arguments that are an enumeration to vLLM, and to users the name or the number of a member."""

STARTS = {
    "plain": {},
    "own names": {
        "dtype": "fp32", "max_model_len": 128, "max_rolling_batch_size": 8, "max_rolling_batch_prefill_tokens": 256,
        "enforce_eager": True, "enable_prefix_caching": False, "seed": 3, "kv_cache_memory_bytes": 1 << 26,
        "load_format": "safetensors", "tokenizer_mode": "hf", "trust_remote_code": True, "cpu_offload_gb_per_gpu": 0.5,
        "limit_mm_per_prompt": {"image": 2},
    },
    "as long as the cache": {"max_model_len": -1},
    "parts": {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2},
    "adapters": {"enable_lora": True, "max_lora_rank": 8, "max_cpu_loras": 5, "lora_dtype": "bf16"},
    "n-gram": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
    "n-gram, short": {"spec_method": "ngram", "spec_tokens": 3},
    "objects": {
        "structured_outputs_config": {"backend": "xgrammar"}, "pooler_config": {"seq_pooling_type": "MEAN"},
        "kv_events_config": {"enable_kv_cache_events": False}, "compilation_config": {"mode": 0},
        "attention_config": {}, "kernel_config": {}, "hf_overrides": {"rope_theta": 1e5}, "reasoning_parser": "qwen3",
        "cpu_offload_params": ["a"], "additional_config": {"a": 1},
    },
    "texts": {
        "mamba_backend": "flashinfer", "attention_backend": "CPU_ATTN", "optimization_level": 0, "log_level": "ERROR",
        "performance_mode": "interactivity",
    },
    "quantized": {"quantize": "fp8"},
}  # fmt: skip


def test_the_installed_vllm_takes_what_the_options_come_to(vllm_python, tmp_path):
    folder = str(write_tiny("llama", tmp_path / "model"))
    model = ModelArtifacts(folder=folder, format=ArtifactFormat.PRETRAINED)
    given = {
        name: engine_arguments(model, VLLMConfig.model_validate(settings), 1 << 27) for name, settings in STARTS.items()
    }
    made = asked(vllm_python, START, given)
    common = [1, "torch.bfloat16", 512, 256, 1 << 27]
    assert made == {
        **dict.fromkeys(STARTS, common),
        "own names": [1, "torch.float32", 128, 8, 1 << 26],
        "parts": [4, *common[1:]],
    }
