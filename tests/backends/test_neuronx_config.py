# SPDX-License-Identifier: Apache-2.0
"""lmi_neuronx without its engine: options, what they mean together, and the problems of a model's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lmi_neuronx
from lmi.api import (
    Accelerator,
    ConfigError,
    Problem,
    Severity,
    Target,
)
from lmi.config import Parsed, parse, read_settings
from lmi_neuronx.config import NeuronxConfig

INFO = lmi_neuronx.lmi_describe_backend()
NEURON = Target(accelerator=Accelerator.NEURON, n_devices=12)


def read(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Parsed:
    """The typed configuration of a serving.properties; ``;`` separates its lines."""
    (tmp_path / "serving.properties").write_text("\n".join(text.split(";")), "utf-8")
    return parse(read_settings(model_folder=tmp_path, environ=environ or {}, flags={}), INFO, NeuronxConfig, {})


def config_of(tmp_path: Path, text: str) -> NeuronxConfig:
    config = read(tmp_path, text).config
    assert isinstance(config, NeuronxConfig)
    return config


def refusal(tmp_path: Path, text: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert len(caught.value.problems) == 1, caught.value
    return caught.value.problems[0]


# ---------------------------------------------------------------------------------------------- options and defaults

DEFAULTS = {
    "n_positions": 128, "quantize": None, "load_in_8bit": False, "unroll": None, "neuron_optimize_level": None,
    "enable_mixed_precision_accumulation": False, "enable_saturate_infinity": False, "context_length_estimate": None,
    "low_cpu_mem_usage": False, "load_split_model": False, "compiled_graph_path": None, "group_query_attention": None,
    "dtype": "fp16", "save_mp_checkpoint_path": None, "model_loader": None, "partition_schema": "legacy",
    "rolling_batch_strategy": None, "fuse_qkv": False, "on_device_embedding": False, "attention_layout": None,
    "collectives_layout": None, "cache_layout": None, "all_reduce_dtype": None, "cast_logits_dtype": None,
    "speculative_draft_model": None, "draft_model_compiled_path": None, "on_device_generation": None,
    "shard_over_sequence": False, "sequence_parallel": False, "use_stable_diffusion": False, "height": 512,
    "width": 512, "num_images_per_prompt": 1, "use_auth_token": None, "max_rolling_batch_size": 32, "batch_size": 1,
    "tensor_parallel_degree": 1, "trust_remote_code": False,
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), DEFAULTS.items())
def test_every_option_of_the_original_is_there_with_its_default(name: str, value: Any) -> None:
    assert getattr(NeuronxConfig(), name) == value


VALUES = [
    ("option.n_positions=2048", "n_positions", 2048),
    ("option.quantize=STATIC_INT8", "quantize", "static_int8"),
    ("option.load_in_8bit=True", "load_in_8bit", True),
    ("option.unroll=4", "unroll", 4),
    ("option.unroll=none", "unroll", None),
    ("option.neuron_optimize_level=3", "neuron_optimize_level", 3),
    ("option.context_length_estimate=32, 64,128", "context_length_estimate", (32, 64, 128)),
    ("option.context_length_estimate=[32, 64]", "context_length_estimate", (32, 64)),
    ("option.context_length_estimate=", "context_length_estimate", None),
    ("option.dtype=FP16", "dtype", "fp16"),
    ("option.dtype=float16", "dtype", "fp16"),
    ("option.dtype=BFloat16", "dtype", "bf16"),
    ("option.dtype=float32", "dtype", "fp32"),
    ("option.group_query_attention=Shard-Over-Heads", "group_query_attention", "shard-over-heads"),
    ("option.compiled_graph_path=s3://bucket/graphs/", "compiled_graph_path", "s3://bucket/graphs/"),
    ("option.compiled_graph_path=compiled", "compiled_graph_path", "compiled"),
    ("option.save_mp_checkpoint_path=s3://bucket/out", "save_mp_checkpoint_path", "s3://bucket/out"),
    ("option.model_loader=TNX", "model_loader", "tnx"),
    ("option.model_loader=optimum", "model_loader", "optimum"),
    ("option.partition_schema=compile_only", "partition_schema", "compile_only"),
    ("option.rolling_batch_strategy=naive_rolling_batch", "rolling_batch_strategy", "naive_rolling_batch"),
    ("option.attention_layout=bsh", "attention_layout", "BSH"),
    ("option.collectives_layout=HSB", "collectives_layout", "HSB"),
    ("option.cache_layout=sbh", "cache_layout", "SBH"),
    ("option.all_reduce_dtype=bf16", "all_reduce_dtype", "bfloat16"),
    ("option.cast_logits_dtype=Float32", "cast_logits_dtype", "float32"),
    ("option.on_device_generation=top_k=50,temperature=0.7,deterministic=true", "on_device_generation",
     {"top_k": 50, "temperature": 0.7, "deterministic": True}),
    ('option.on_device_generation={"do_sample": true, "top_k": 1}', "on_device_generation",
     {"do_sample": True, "top_k": 1}),
    ("batch_size=4", "compiled_batch_size", 4),
    ("batch_size=4;option.rolling_batch=disable", "compiled_batch_size", 4),
    ("option.rolling_batch=auto;option.max_rolling_batch_size=8", "compiled_batch_size", 8),
    ("option.rolling_batch=disable", "compiled_batch_size", 1),
    ("option.quantize=static_int8", "has_int8_weights", True),
    ("option.load_in_8bit=true", "has_int8_weights", True),
    ("option.neuron_optimize_level=1;option.enable_saturate_infinity=true", "compiler_flags",
     ("-O1", "--enable-saturate-infinity")),
    ("option.enable_mixed_precision_accumulation=true", "compiler_flags", ("--enable-mixed-precision-accumulation",)),
    ("option.enable_mixed_precision_accumulation=false;option.enable_saturate_infinity=false", "compiler_flags", ()),
    ("option.model_id=x", "loader", None),
    ("option.partition_schema=optimum", "loader", "optimum"),
    ("option.fuse_qkv=true", "loader", "tnx"),
    ("option.collectives_layout=BSH", "loader", "tnx"),
    ("option.on_device_embedding=true", "loader", "tnx"),
    ("option.load_in_8bit=true;option.model_id=x", "loader", "tnx"),
    ("option.quantize=static_int8;option.model_id=x", "loader", "tnx"),
    ("option.load_split_model=true", "loader", "tnx"),
    ("option.compiled_graph_path=s3://bucket/graphs", "loader", "tnx"),
    ("option.context_length_estimate=64", "loader", "tnx"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "value"), VALUES)
def test_text_becomes_a_typed_value(tmp_path: Path, text: str, name: str, value: Any) -> None:
    parsed = read(tmp_path, text)
    assert getattr(parsed.config, name) == value
    assert parsed.warnings == []


def test_variables_are_the_same_options(tmp_path: Path) -> None:
    environ = {"OPTION_N_POSITIONS": "512", "OPTION_ENTRYPOINT": "djl_python.transformers_neuronx"}
    found = read(tmp_path, "option.model_id=x", environ)
    assert found.config.model_fields_set == {"n_positions", "entryPoint"}


WRONG_VALUES = [
    ("option.n_positions=0", "at least 1 (tokens)"),
    ("option.neuron_optimize_level=4", "at most 3"),
    ("option.unroll=all", "a whole number"),
    ("option.context_length_estimate=64,many", "a whole number"),
    ("option.context_length_estimate=64,0", "at least 1"),
    ("option.quantize=awq", "Choices: static_int8"),
    ("option.dtype=int8", "Choices: fp32, fp16, bf16"),
    ("option.group_query_attention=shard-over-head", "Did you mean 'shard-over-heads'?"),
    ("option.attention_layout=BHS", "Choices: BSH, HSB, SBH"),
    ("option.all_reduce_dtype=int8", "Choices: float32, float16, bfloat16"),
    ("option.rolling_batch_strategy=continuous", "Did you mean 'continuous_batching'?"),
    ("option.model_loader=vllm", "set option.rolling_batch=vllm"),
    ("option.model_loader=nxdi", "set option.model_loader=optimum"),
    ("option.model_loader=hf", "it takes tnx, optimum"),
    ("option.partition_schema=safetensors", "never implemented"),
    ("option.partition_schema=other", "it takes legacy, optimum, compile_only"),
    ("option.compiled_graph_path=https://host/graphs", "s3://BUCKET/PREFIX"),
    ("option.compiled_graph_path=s3://bucket", "s3://BUCKET/PREFIX"),
    ("option.save_mp_checkpoint_path=gs://bucket/x", "s3://BUCKET/PREFIX"),
    ("option.on_device_generation=top_kk=5", "it has no top_kk"),
    ("option.use_stable_diffusion=true", "diffusion models are not served"),
    ("batch_size=0", "at least 1 (requests)"),
]


@pytest.mark.parametrize(("text", "words"), WRONG_VALUES)
def test_a_wrong_value_is_refused_with_its_source_and_what_to_do(tmp_path: Path, text: str, words: str) -> None:
    problem = refusal(tmp_path, text)
    assert (problem.code, problem.source.startswith("serving.properties")) == ("config.invalid-value", True)
    assert words in str(problem)


# ----------------------------------------------------------------------------------------- options that go together

CONFLICTS = [
    ("batch_size=4;option.rolling_batch=auto", "rolling_batch=auto asks for continuous batching"),
    ("batch_size=4;option.rolling_batch=tnx", "Set option.rolling_batch=disable"),
    ("option.context_length_estimate=256;option.n_positions=200", "has 256 tokens, n_positions is 200"),
    (
        "option.context_length_estimate=64,128;option.rolling_batch_strategy=continuous_batching",
        "context_length_estimate=64,128, but continuous batching compiles prompts of n_positions=128 only",
    ),
    ("option.model_loader=tnx;option.partition_schema=optimum", "model_loader=tnx means the loader tnx"),
    ("option.model_loader=optimum;option.partition_schema=compile_only", "written by the loader tnx"),
    ("option.quantize=static_int8;option.partition_schema=optimum", "quantize=static_int8 means the loader tnx"),
    ("option.fuse_qkv=true;option.partition_schema=optimum", "fuse_qkv=true means the loader tnx"),
]


@pytest.mark.parametrize(("text", "words"), CONFLICTS)
def test_options_that_exclude_each_other_are_refused_with_both_sources(tmp_path: Path, text: str, words: str) -> None:
    problem = refusal(tmp_path, text)
    assert problem.code == "config.conflict"
    assert {"serving.properties:1", "serving.properties:2"} == set(problem.source.split(", "))
    assert words in str(problem)


def test_a_compiled_graph_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "graphs"
    problem = refusal(tmp_path, f"option.compiled_graph_path={missing}")
    assert (problem.code, problem.source) == ("config.conflict", "serving.properties:1")
    missing.mkdir()
    assert "holds no compiled graph" in refusal(tmp_path, f"option.compiled_graph_path={missing}").message


@pytest.mark.parametrize("name", ["a.neff", "neuronxcc-2.12.54.0+f631c2365/MODULE_1+2/model.neff"])
def test_a_folder_of_graphs_and_a_compilers_cache_are_compiled_graphs(tmp_path: Path, name: str) -> None:
    graph = tmp_path / "graphs" / name
    graph.parent.mkdir(parents=True)
    graph.touch()
    assert read(tmp_path, f"option.compiled_graph_path={tmp_path / 'graphs'}").warnings == []


@pytest.mark.parametrize("path", ["/graphs/model.neff", "compiled/model.neff", "s3://bucket/graphs.tar.gz"])
def test_a_compiled_graph_is_no_single_file(tmp_path: Path, path: str) -> None:
    problem = refusal(tmp_path, f"option.compiled_graph_path={path}")
    assert (problem.code, problem.source) == ("config.conflict", "serving.properties:1")
    assert "is one file; it takes the folder" in problem.message


GOING_TOGETHER = [
    "option.engine=Python;batch_size=4;option.rolling_batch=disable;option.enable_streaming=false",
    "option.context_length_estimate=128;option.rolling_batch_strategy=continuous_batching",
    "option.context_length_estimate=64;option.rolling_batch_strategy=naive_rolling_batch",
    "option.context_length_estimate=64,128;option.rolling_batch=disable",
    "option.model_loader=tnx;option.partition_schema=legacy",
    "option.model_loader=optimum;option.partition_schema=optimum",
    "option.load_in_8bit=false;option.quantize=static_int8",
]


@pytest.mark.parametrize("text", GOING_TOGETHER)
def test_options_that_go_together_are_taken(tmp_path: Path, text: str) -> None:
    kept = ";".join(each for each in text.split(";") if not each.startswith(("option.engine", "option.enable_str")))
    assert read(tmp_path, kept).warnings == []


WARNINGS = [
    ("option.model_loader=optimum;option.fuse_qkv=true", "config.no-effect", "model_loader=optimum is left out"),
    ("option.model_loader=optimum;option.partition_schema=legacy", "config.no-effect", "partition_schema=optimum"),
    ("option.rolling_batch=disable;option.rolling_batch_strategy=naive_rolling_batch", "config.no-effect", "is off"),
    ("option.speculative_length=3", "config.no-effect", "does nothing without speculative_draft_model"),
    ("option.draft_model_compiled_path=s3://bucket/x", "config.no-effect", "without speculative_draft_model"),
    ("option.on_device_generation=top_k=5,dynamic=true", "config.no-effect", "dynamic=true, which does nothing"),
    ("option.height=256", "config.no-effect", "height=256 does nothing"),
    ("option.num_images_per_prompt=2", "config.no-effect", "num_images_per_prompt=2 does nothing"),
    ("option.entryPoint=djl_python.transformersneuronx", "config.deprecated", "djl_python.transformers_neuronx"),
    ("option.data_type=bf16", "config.deprecated", "Write option.dtype=bf16"),
]


@pytest.mark.parametrize(("text", "code", "words"), WARNINGS)
def test_what_does_nothing_or_has_a_new_name_is_warned_about(tmp_path: Path, text: str, code: str, words: str) -> None:
    (warning,) = read(tmp_path, text).warnings
    assert (warning.code, warning.severity) == (code, Severity.WARNING)
    assert "serving.properties:1" in warning.source
    assert words in str(warning)


def test_a_forced_loader_overrules_the_wanted_one(tmp_path: Path) -> None:
    assert config_of(tmp_path, "option.model_loader=optimum;option.fuse_qkv=true").loader == "tnx"


def test_a_token_is_not_shown(tmp_path: Path) -> None:
    (warning,) = read(tmp_path, "option.use_auth_token=hf_geheim").warnings
    assert "HF_TOKEN" in str(warning)
    assert "geheim" not in str(warning) + repr(read(tmp_path, "option.use_auth_token=hf_geheim").config)


@pytest.mark.parametrize("company", ["option.model_loader=optimum", "option.rolling_batch=disable", "batch_size=4"])
@pytest.mark.parametrize("name", [name for name, value in DEFAULTS.items() if value is not None])
def test_an_option_set_to_its_default_never_stops_a_start(tmp_path: Path, name: str, company: str) -> None:
    value = str(DEFAULTS[name]).lower()
    key = name if name == "batch_size" else f"option.{name}"
    assert read(tmp_path, company if company.startswith(f"{name}=") else f"{company};{key}={value}")


def test_a_draft_model_is_refused_by_name(tmp_path: Path) -> None:
    problem = refusal(tmp_path, "option.speculative_draft_model=org/small;option.speculative_length=4")
    assert (problem.code, problem.source) == ("config.conflict", "serving.properties:1")
    assert "neuronx does not guess with a draft model yet" in problem.message
