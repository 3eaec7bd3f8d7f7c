# SPDX-License-Identifier: Apache-2.0
"""The backend lmi-dist without its engine: what selects it, its options and their rules."""

from __future__ import annotations

from typing import Any

import pytest

from lmi.api import ConfigError, Severity
from lmi.config import Parsed, parse, read_settings
from lmi.plugins import Plugins
from lmi_hf import lmi_dist
from lmi_hf.lmi_dist.config import DistConfig
from lmi_hf.lmi_dist.contract import CASE
from tests.backends.dist_models import CPU, CUDA, model
from tests.backends.static_lane import STATIC_RULES, keep, kit_of


def read(folder: Any, lines: str) -> Parsed:
    """What serving.properties with these lines, divided by blanks, means."""
    (folder / "serving.properties").write_text("\n".join(f"option.{line}" for line in lines.split()))
    settings = read_settings(model_folder=folder, environ={}, flags={})
    return parse(settings, lmi_dist.lmi_describe_backend(), DistConfig, {})


@pytest.fixture(scope="module")
def kit():
    with kit_of(CASE) as kit:
        yield kit


@pytest.mark.parametrize("rule_id", STATIC_RULES)
def test_the_static_rules_of_the_contract_hold(rule_id, kit):
    keep(rule_id, kit)


@pytest.mark.parametrize(
    "flags",
    [
        {"rolling_batch": "lmi-dist"},
        {"rolling_batch": "LMI-Dist", "engine": "MPI"},
        {"rolling_batch": "lmi-dist", "engine": "MPI", "entryPoint": "djl_python.huggingface"},
    ],
)
def test_what_selects_it(flags):
    settings = read_settings(model_folder=None, environ={}, flags=flags)
    choice = Plugins.discover({"LMI_EXTENSIONS": ""}).choose(settings, model(), CUDA)
    assert (choice.info.name, choice.warnings) == ("lmi-dist", ())


@pytest.mark.parametrize("flags", [{}, {"engine": "Python"}, {"entryPoint": "djl_python.huggingface"}])
@pytest.mark.parametrize("target", [CPU, CUDA])
def test_nothing_selects_it_by_chance(flags, target):
    settings = read_settings(model_folder=None, environ={}, flags=flags)
    assert Plugins.discover({"LMI_EXTENSIONS": ""}).choose(settings, model(), target).info.name != "lmi-dist"


DEFAULTS = {
    "max_rolling_batch_size": 256, "tensor_parallel_degree": 1, "trust_remote_code": False, "dtype": "auto",
    "quantize": None, "max_model_len": None, "max_rolling_batch_prefill_tokens": None, "load_format": "auto",
    "enforce_eager": False, "gpu_memory_utilization": 0.9, "enable_lora": False, "max_loras": 4, "max_lora_rank": 16,
    "lora_extra_vocab_size": 256, "max_cpu_loras": None, "speculative_draft_model": None, "draft_model_tp_size": 1,
    "speculative_length": 5, "spec_length": 0, "record_acceptance_rate": False, "disable_sliding_window": False,
    "max_logprobs": 20, "use_passive_workers": True, "limit_mm_per_prompt": None,
}  # fmt: skip


def test_the_defaults_are_those_of_the_reference():
    assert DistConfig().model_dump() == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_option_set_to_its_default_changes_nothing(name, tmp_path):
    default = DEFAULTS[name]
    parsed = read(tmp_path, f"{name}={'none' if default is None else str(default).lower()}")
    assert (parsed.config.model_dump(), parsed.warnings) == (DEFAULTS, [])


@pytest.mark.parametrize(
    ("lines", "n_proposed", "codes"),
    [
        ("spec_length=0", 0, []),
        ("spec_length=0 speculative_draft_model=a/b", 5, []),
        ("spec_length=0 speculative_draft_model=a/b speculative_length=4", 4, []),
        ("spec_length=3 speculative_draft_model=a/b", 3, ["config.deprecated"]),
        ("spec_length=3 speculative_draft_model=a/b speculative_length=3", 3, ["config.deprecated"]),
    ],
)
def test_the_old_name_of_the_speculative_length_counts_unless_it_is_at_its_default(lines, n_proposed, codes, tmp_path):
    parsed = read(tmp_path, lines)
    assert (parsed.config.n_proposed, [each.code for each in parsed.warnings]) == (n_proposed, codes)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("dtype=BF16", "dtype", "bf16"),
        ("dtype=float16", "dtype", "fp16"),
        ("dtype=Float32", "dtype", "fp32"),
        ("quantize=AWQ", "quantize", "awq"),
        ("quantize=gptq", "quantize", "gptq"),
        ("quantization=awq", "quantize", "awq"),
        ("max_model_len=4096", "max_model_len", 4096),
        ("max_rolling_batch_prefill_tokens=1088", "max_rolling_batch_prefill_tokens", 1088),
        ("max_num_batched_tokens=1088", "max_rolling_batch_prefill_tokens", 1088),
        ("max_num_seqs=16", "max_rolling_batch_size", 16),
        ("load_format=Safetensors", "load_format", "safetensors"),
        ("enforce_eager=True", "enforce_eager", True),
        ("gpu_memory_utilization=0.5", "gpu_memory_utilization", 0.5),
        ("gpu_memory_utilization=1", "gpu_memory_utilization", 1.0),
        ("load_format=DUMMY", "load_format", "dummy"),
        ("speculative_draft_model=s3://bucket/draft", "speculative_draft_model", "s3://bucket/draft"),
        ("speculative_model=org/draft", "speculative_draft_model", "org/draft"),
    ],
)
def test_an_option_is_typed(line, name, value, tmp_path):
    parsed = read(tmp_path, line)
    assert (getattr(parsed.config, name), parsed.warnings) == (value, [])


@pytest.mark.parametrize(
    "lines",
    [
        "quantize=awq dtype=fp16",
        "quantize=gptq dtype=auto",
        "quantize=gptq tensor_parallel_degree=2",
        "load_format=dummy tensor_parallel_degree=4",
        "speculative_draft_model=a/b draft_model_tp_size=1 tensor_parallel_degree=4 speculative_length=4",
        "speculative_draft_model=a/b draft_model_tp_size=4 tensor_parallel_degree=4 record_acceptance_rate=true",
        "speculative_draft_model=a/b enable_lora=false",
    ],
)
def test_what_goes_together(lines, tmp_path):
    assert read(tmp_path, lines).warnings == []


@pytest.mark.parametrize(
    ("lines", "code", "said", "n_sources"),
    [
        ("enable_lora=true", "config.not-supported", "Use option.rolling_batch=vllm, or serve the adapter's own", 1),
        ("enable_lora=true max_loras=8 max_cpu_loras=2", "config.not-supported", "requests cannot name adapters", 1),
        ("load_format=npcache", "config.not-supported", "Use load_format=auto", 1),
        ("quantize=awq dtype=bf16", "config.conflict", "dtype=bf16 does not go with quantize=awq", 2),
        ("quantize=gptq dtype=float32", "config.conflict", "dtype=fp32 does not go with quantize=gptq", 2),
        (
            "speculative_draft_model=a/b draft_model_tp_size=2 tensor_parallel_degree=4",
            "config.conflict", "neither 1 nor tensor_parallel_degree=4", 2,
        ),
        ("dtype=int8", "config.conflict", "option.rolling_batch=hf", 1),
        ("quantize=bitsandbytes", "config.conflict", "was removed from lmi-dist", 1),
        ("quantize=BitsAndBytes8", "config.conflict", "option.quantize=bitsandbytes8", 1),
        ("quantize=SqueezeLLM", "config.conflict", "compressed with gptq or awq", 1),
        (
            "speculative_draft_model=a/b spec_length=3 speculative_length=5",
            "config.conflict", "spec_length=3 and speculative_length=5 are two names", 2,
        ),
        ("quantize=gguf", "config.invalid-value", "Choices: awq, gptq.", 1),
        ("load_format=safetensor", "config.invalid-value", "Did you mean 'safetensors'", 1),
        ("dtype=fp8", "config.invalid-value", "Choices: auto, bf16, fp16, fp32", 1),
        ("gpu_memory_utilization=0", "config.invalid-value", "greater than 0", 1),
        ("gpu_memory_utilization=1.1", "config.invalid-value", "at most 1", 1),
        ("max_loras=0", "config.invalid-value", "at least 1", 1),
        ("max_lora_rank=0", "config.invalid-value", "at least 1", 1),
        ("speculative_length=-1", "config.invalid-value", "at least 0", 1),
        ("disable_sliding_window=true", "config.invalid-value", "option.rolling_batch=vllm", 1),
        ("use_passive_workers=false", "config.invalid-value", "not supported by lmi-dist", 1),
        ("limit_mm_per_prompt=image=2,video=1", "config.invalid-value", "option.rolling_batch=vllm", 1),
        ("speculative_draft_modell=a", "config.unknown-key", "Did you mean 'option.speculative_draft_model'", 1),
    ],
)  # fmt: skip
def test_what_is_refused(lines, code, said, n_sources, tmp_path):
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, lines)
    (problem,) = raised.value.problems
    assert (problem.code, problem.severity) == (code, Severity.ERROR)
    assert said in str(problem)
    assert problem.source.count("serving.properties:") == n_sources


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        ("data_type=fp16", "config.deprecated", "Write option.dtype=fp16"),
        ("draft_model_id=a/b", "config.deprecated", "Write option.speculative_draft_model=a/b"),
        ("spec_length=5", "config.no-effect", "spec_length=5 does nothing: no speculative_draft_model is set"),
        ("speculative_length=3", "config.no-effect", "no speculative_draft_model is set"),
        ("record_acceptance_rate=true", "config.no-effect", "no speculative_draft_model is set"),
        ("speculative_draft_model=a/b speculative_length=0", "config.no-effect", "speculative_length is 0"),
        ("max_loras=8", "config.no-effect", "max_loras=8 does nothing: lmi-dist serves no adapters"),
        ("max_lora_rank=8", "config.no-effect", "max_lora_rank=8 does nothing"),
        ("lora_extra_vocab_size=0", "config.no-effect", "lora_extra_vocab_size=0 does nothing"),
        ("max_cpu_loras=8", "config.no-effect", "max_cpu_loras=8 does nothing"),
        ("max_logprobs=5", "config.no-effect", "there is no such limit here"),
    ],
)
def test_what_is_warned_about(lines, code, said, tmp_path):
    (warning,) = read(tmp_path, lines).warnings
    assert (warning.code, said in str(warning)) == (code, True), warning
    assert warning.source.count("serving.properties:") == len(lines.split())
