# SPDX-License-Identifier: Apache-2.0
"""The options of hf: one row a rule, as text that a user writes."""

from __future__ import annotations

import pytest

import lmi_hf
from lmi.api import ConfigError, Severity
from lmi.config import parse, read_settings
from lmi.config.typed import Parsed
from lmi_hf.config import HFConfig

INFO = lmi_hf.lmi_describe_backend()

DEFAULTS = {
    "max_rolling_batch_size": 32, "tensor_parallel_degree": 1, "trust_remote_code": False, "dtype": "auto",
    "quantize": None, "load_in_4bit": False, "load_in_8bit": False, "low_cpu_mem_usage": True, "device_map": None,
    "disable_flash_attn": True, "decoding_strategy": "greedy", "max_sparsity": 0.33, "max_splits": 3,
    "multi_gpu": None, "is_peft_model": None,
}  # fmt: skip


def typed(text: str, environ: dict[str, str] | None = None) -> Parsed:
    """``a=1 b=2`` as flags."""
    flags = dict(each.split("=", 1) for each in text.split())
    return parse(read_settings(model_folder=None, environ=environ or {}, flags=flags), INFO, HFConfig, {})


def test_the_defaults_are_those_of_the_reference() -> None:
    config = typed("").config
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("dtype=Float16", "dtype", "fp16"),
        ("quantize=BitsAndBytes4", "quantize", "bitsandbytes4"),
        ("quantize=GPTQ", "quantize", "gptq"),
        ("quantize=", "quantize", None),
        ("device_map=Balanced_Low_0", "device_map", "balanced_low_0"),
        ("device_map=cuda:1", "device_map", "cuda:1"),
        ("device_map=0", "device_map", "0"),
        ("device_map=none", "device_map", None),
        ("max_sparsity=0.33", "max_sparsity", 0.33),
    ],
)
def test_text_becomes_a_value(text: str, name: str, value: object) -> None:
    parsed = typed(text)
    assert (getattr(parsed.config, name), parsed.warnings) == (value, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quantize=int8", "Choices: bitsandbytes4, bitsandbytes8, gptq, awq"),
        ("quantize=bitsandbites8", "Did you mean 'bitsandbytes8'?"),
        ("device_map=atuo", "Did you mean 'auto'?"),
        ("device_map=gpu0", "cuda or cuda:N"),
        ("decoding_strategy=gready", "Did you mean 'greedy'?"),
        ("max_sparsity=1.5", "at most 1"),
        ("max_sparsity=-1", "at least 0"),
        ("max_splits=0", "at least 1"),
        ("low_cpu_mem_usage=maybe", "true or false"),
    ],
)
def test_a_wrong_value_is_refused_with_what_it_takes(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        typed(text)
    (problem,) = caught.value.problems
    assert (problem.code, problem.source) == ("config.invalid-value", f"command line -o {text.partition('=')[0]}")
    assert said in str(problem)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("load_in_8bit=true load_in_4bit=true", "load_in_8bit=true and load_in_4bit=true exclude each other"),
        ("quantize=bitsandbytes4 load_in_8bit=true", "load_in_8bit=true asks for bitsandbytes8"),
        ("quantize=gptq load_in_4bit=true", "quantize=gptq, and load_in_4bit=true asks for bitsandbytes4"),
        ("decoding_strategy=sample", "Remove option.decoding_strategy, and let requests say do_sample"),
        ("decoding_strategy=contrastive", "decoding_strategy=contrastive: hf decodes greedily"),
    ],
)
def test_what_contradicts_is_refused_with_every_source(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        typed(text)
    (problem,) = caught.value.problems
    assert (problem.code, problem.severity) == ("config.conflict", Severity.ERROR)
    assert said in str(problem)
    assert sorted(problem.source.split(", ")) == sorted(
        f"command line -o {each.partition('=')[0]}" for each in text.split()
    )


@pytest.mark.parametrize(
    ("text", "code", "said", "method"),
    [
        ("load_in_8bit=true", "config.deprecated", "write option.quantize=bitsandbytes8", "bitsandbytes8"),
        ("load_in_4bit=true", "config.deprecated", "write option.quantize=bitsandbytes4", "bitsandbytes4"),
        ("load_in_8bit=true quantize=bitsandbytes8", "config.deprecated", "old form of quantize", "bitsandbytes8"),
        ("quantize=bitsandbytes", "config.deprecated", "Write option.quantize=bitsandbytes8", "bitsandbytes8"),
        ("data_type=bf16", "config.deprecated", "Write option.dtype=bf16", None),
        ("multi_gpu=True", "config.deprecated", "device_map and tensor_parallel_degree spread a model", None),
        ("max_sparsity=0.5", "config.no-effect", "never padded", None),
        ("max_splits=5", "config.no-effect", "never split", None),
        ("disable_flash_attn=false", "config.no-effect", "PyTorch's own attention kernels", None),
        ("low_cpu_mem_usage=false", "config.no-effect", "without a second copy", None),
    ],
)
def test_what_is_old_or_does_nothing_is_warned_about(text: str, code: str, said: str, method: str | None) -> None:
    parsed = typed(text)
    (warning,) = parsed.warnings
    assert (warning.code, warning.severity) == (code, Severity.WARNING)
    assert said in str(warning)
    assert warning.source == f"command line -o {text.partition('=')[0]}"
    config = parsed.config
    assert isinstance(config, HFConfig)
    assert config.quantization == method


def test_a_contradiction_names_a_file_and_a_variable_alike() -> None:
    with pytest.raises(ConfigError) as caught:
        typed("load_in_8bit=true", {"OPTION_QUANTIZE": "bitsandbytes4"})
    assert caught.value.problems[0].source == "OPTION_QUANTIZE, command line -o load_in_8bit"
