# SPDX-License-Identifier: Apache-2.0
"""Engines that were built before, on trtllm: what they were built for against options, machine and container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lmi_trtllm
from lmi.api import ArtifactFormat, ModelArtifacts, Severity
from lmi.artifacts import detect
from lmi_trtllm.built import BuiltEngines, read_built
from lmi_trtllm.config import TrtllmConfig
from tests.backends.trtllm_builds import A10G, NEW, OLD, PBTXT, changed, checked, repository, saved, told

ERROR, WARNING = Severity.ERROR, Severity.WARNING

# -------------------------------------------------------------------------------------------------- what they were for


def test_the_configuration_of_old_engines_is_understood() -> None:
    limits = {"max_batch_size": 16, "max_input_len": 1024, "max_output_len": 512, "max_num_tokens": 8192}
    assert read_built(repository()) == BuiltEngines(
        folder="tensorrt_llm/1", ranks=(0, 1), has_config=True, tensor_parallel=2, pipeline_parallel=1, dtype="fp16",
        limits=limits, plugins=OLD["plugin_config"],
        parameters={"gpt_model_type": "inflight_fused_batching", "gpt_model_path": "/models/tensorrt_llm/1"},
    )  # fmt: skip


def test_the_configuration_of_later_engines_is_understood() -> None:
    limits = {"max_batch_size": 64, "max_input_len": 2048, "max_seq_len": 4096, "max_num_tokens": 8192}
    assert read_built(saved()) == BuiltEngines(
        ranks=(0, 1, 2, 3), has_config=True, tensor_parallel=2, pipeline_parallel=2, dtype="bf16", quantization="FP8",
        version="0.7.1", architecture="LlamaForCausalLM", limits=limits,
        plugins=NEW["build_config"]["plugin_config"],
    )  # fmt: skip


def test_a_repository_may_hold_engines_of_either_kind() -> None:
    built = read_built(repository(NEW, ranks=(0, 1, 2, 3), name="rank"))
    assert (built.n_ranks, built.version, built.ranks) == (4, "0.7.1", (0, 1, 2, 3))


def test_where_there_is_no_configuration_the_names_of_the_engines_tell() -> None:
    built = read_built(repository(None, name="llama_bfloat16_tp4_rank"))
    assert (built.tensor_parallel, built.dtype, built.has_config) == (4, "bf16", False)


STRANGE = [[], {}, None, "text", 10**18, -1, True, 1.5, float("inf")]


@pytest.mark.parametrize("value", STRANGE, ids=repr)
@pytest.mark.parametrize(
    "path",
    [
        ("version",), ("pretrained_config",), ("pretrained_config", "mapping"), ("pretrained_config", "dtype"),
        ("pretrained_config", "mapping", "tp_size"), ("build_config",), ("build_config", "max_batch_size"),
        ("build_config", "plugin_config"), ("build_config", "compute_capability"),
    ],
    ids=".".join,
)  # fmt: skip
def test_whatever_stands_in_a_configuration_is_read_without_an_error(path: tuple[str, ...], value: Any) -> None:
    artifacts = saved(NEW)
    artifacts.documents["config.json"] = changed(NEW, *path, value=value)
    assert read_built(artifacts).ranks == (0, 1, 2, 3)
    assert all(each.hint for each in checked(artifacts, max_rolling_batch_size=16, enable_kv_cache_reuse=True))


@pytest.mark.parametrize(("wanted", "folder"), [("", "r/3"), ("/models/r/1", "r/1"), ("/elsewhere/7", "r/3")])
def test_of_several_versions_the_named_one_counts_else_the_last(wanted: str, folder: str) -> None:
    text = f'parameters {{ key: "gpt_model_path" value: {{ string_value: "{wanted}" }} }}'
    files = {"r/1/rank0.engine": 1, "r/3/rank0.engine": 1, "r/config.pbtxt": 1}
    artifacts = ModelArtifacts(
        folder="/models", format=ArtifactFormat.TRITON_REPOSITORY, inner="r", files=files,
        documents={"r/config.pbtxt": text},
    )  # fmt: skip
    assert read_built(artifacts).folder == folder


# ------------------------------------------------------------------------------------------------------ what goes well


@pytest.mark.parametrize("artifacts", [repository(), repository(inner=""), repository(folder="s3://bucket/repo")])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_rolling_batch_size": 16, "max_input_len": 1024, "max_output_len": 512, "max_num_tokens": 8192},
        {"max_rolling_batch_size": 4, "max_input_len": 100, "dtype": "fp16", "pipeline_parallel_degree": 1},
        {"dtype": "auto", "tokens_per_block": 64},
    ],
)
def test_engines_that_were_built_for_these_options_have_no_problems(
    artifacts: ModelArtifacts, options: dict[str, Any]
) -> None:
    assert told(artifacts, **options) == []


def test_engines_that_the_library_saved_have_no_problems_where_they_were_built() -> None:
    artifacts = saved(changed(NEW, "build_config", "compute_capability", value="8.6"))
    assert checked(artifacts, dtype="bf16", pipeline_parallel_degree=2) == []


# --------------------------------------------------------------------------------------------------- what does not go

AGAINST_FILES = [
    (repository(ranks=(1,)), "weights.rank-missing", ERROR, "built for 2 ranks, and there is no engine of rank 0"),
    (repository(ranks=(), strays=("model.engine",), pbtxt=""), "weights.rank-missing", ERROR, "no engine of rank 0, 1"),
    (saved(ranks=(0, 3)), "weights.rank-missing", ERROR, "built for 4 ranks, and there is no engine of rank 1, 2"),
    (repository(ranks=(0, 1, 2, 3)), "weights.rank-extra", WARNING, "there are engines of rank 2, 3 besides"),
    (repository(None), "config.missing", ERROR, "tensorrt_llm/1/config.json is not there"),
    (repository({"x": 1}), "config.unreadable", ERROR, "tensorrt_llm/1/config.json says nothing of engines"),
    (
        repository(changed(OLD, "plugin_config", "paged_kv_cache", value=False)), "model.compiled-otherwise", ERROR,
        "without paged_kv_cache, so they cannot batch requests in flight",
    ),
    (
        repository(changed(OLD, "plugin_config", "remove_input_padding", value=False)), "model.compiled-otherwise",
        ERROR, "without remove_input_padding",
    ),
    (
        repository(pbtxt=PBTXT.replace("decoupled: True", "decoupled: False")), "model.triton-config", WARNING,
        "config.pbtxt has decoupled: False",
    ),
    (
        repository(pbtxt=PBTXT.replace("inflight_fused_batching", "V1")), "model.triton-config", WARNING,
        "config.pbtxt has gpt_model_type=V1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("artifacts", "code", "severity", "said"), AGAINST_FILES)
def test_what_is_wrong_with_the_files_is_told(
    artifacts: ModelArtifacts, code: str, severity: Severity, said: str
) -> None:
    (problem,) = told(artifacts)
    assert (problem.code, problem.severity) == (code, severity)
    assert said in problem.message
    assert problem.hint
    assert problem.path.startswith(artifacts.folder)


def test_engines_that_are_not_beside_their_configuration_may_be_where_it_points_to() -> None:
    (problem,) = told(repository(ranks=()))  # that there are none is told by the core
    assert (problem.code, problem.severity) == ("model.triton-config", WARNING)
    assert (
        "looks for the engines in /models/tensorrt_llm/1; here they are looked for in tensorrt_llm/1" in problem.message
    )


AGAINST_OPTIONS = [
    (repository(), {"tensor_parallel_degree": 4}, "config.tensor-parallel", ERROR, "is 4, the engines were"),
    (repository(), {"tensor_parallel_degree": 1}, "config.tensor-parallel", ERROR, "the engines were built for 2"),
    (repository(), {"pipeline_parallel_degree": 2}, "model.compiled-otherwise", ERROR, "for 1 pipeline stage,"),
    (saved(), {"pipeline_parallel_degree": 1}, "model.compiled-otherwise", WARNING, "for 2 pipeline stages"),
    (repository(), {"max_rolling_batch_size": 64}, "model.compiled-otherwise", ERROR, "max_batch_size=16"),
    (repository(), {"max_rolling_batch_size": 32}, "model.compiled-otherwise", WARNING, "max_batch_size=16"),
    (repository(), {"max_num_sequences": 17}, "model.compiled-otherwise", ERROR, "max_num_sequences=17"),
    (repository(), {"max_input_len": 2048}, "model.compiled-otherwise", ERROR, "with max_input_len=1024"),
    (repository(), {"max_output_len": 1024}, "model.compiled-otherwise", ERROR, "with max_output_len=512"),
    (
        repository(), {"max_num_tokens": 16384, "max_rolling_batch_size": 8}, "model.compiled-otherwise", ERROR,
        "max_num_tokens=8192",
    ),
    (saved(), {"max_output_len": 5000}, "model.compiled-otherwise", ERROR, "max_seq_len=4096 for prompt and output"),
    (
        saved(), {"max_input_len": 2048, "max_output_len": 2049}, "model.compiled-otherwise", ERROR,
        "max_input_len=2048 and max_output_len=2049",
    ),
    (repository(), {"enable_kv_cache_reuse": True}, "config.conflict", ERROR, "without use_paged_context_fmha"),
    (repository(), {"backend": "pytorch"}, "config.conflict", ERROR, "backend=pytorch loads weights"),
    (saved(), {"gather_context_logits": True}, "model.compiled-otherwise", ERROR, "were built without it"),
    (repository(), {"rotary_dim": 32}, "config.conflict", ERROR, "rotary_dim=32 is for gptj only"),
    (repository(), {"quantize": "gptq"}, "config.no-effect", WARNING, "this one is built already"),
    (saved(), {"quantize": "awq"}, "config.no-effect", WARNING, "this one is built already (FP8)"),
    (repository(), {"dtype": "bf16"}, "config.no-effect", WARNING, "these engines compute in fp16"),
    (repository(), {"tokens_per_block": 128}, "config.no-effect", WARNING, "these engines have 64"),
]  # fmt: skip


@pytest.mark.parametrize(("artifacts", "options", "code", "severity", "said"), AGAINST_OPTIONS)
def test_options_that_the_engines_were_not_built_for_are_told_with_both_values(
    artifacts: ModelArtifacts, options: dict[str, Any], code: str, severity: Severity, said: str
) -> None:
    (problem,) = told(artifacts, **options)
    assert (problem.code, problem.severity) == (code, severity)
    assert said in problem.message
    assert problem.fields[0] in options
    assert problem.hint


def test_a_batch_that_only_follows_from_another_option_stops_nothing() -> None:
    config = TrtllmConfig(tensor_parallel_degree=2, max_num_tokens=4096)
    found = lmi_trtllm.lmi_validate_artifacts(repository(), config, A10G)
    (problem,) = (each for each in found if each.code == "model.compiled-otherwise")
    assert ("max_rolling_batch_size=256" in problem.message, problem.severity) == (True, WARNING)


def test_a_chatglm_that_is_built_needs_no_version_named() -> None:
    config = changed(NEW, "pretrained_config", "architecture", value="ChatGLMModel")
    assert told(saved(config)) == []


@pytest.mark.parametrize(
    ("name", "value", "options", "held"),
    [
        ("batch_scheduler_policy", "guaranteed_no_evict", {}, "batch_scheduler_policy=max_utilization"),
        ("kv_cache_free_gpu_mem_fraction", "0.5", {}, "kv_cache_free_gpu_mem_fraction=0.95"),
        ("max_num_sequences", "64", {}, "max_num_sequences is not set"),
        ("enable_trt_overlap", "true", {}, "enable_trt_overlap=false"),
        ("batch_scheduler_policy", "max_utilization", {}, ""),
        ("kv_cache_free_gpu_mem_fraction", "0.950", {}, ""),
        ("kv_cache_free_gpu_mem_fraction", "${kv_cache_free_gpu_mem_fraction}", {}, ""),
        ("kv_cache_free_gpu_mem_fraction", "most", {}, ""),
        ("max_num_sequences", "32", {}, ""),
        ("enable_trt_overlap", "False", {}, ""),
        ("enable_trt_overlap", "true", {"enable_trt_overlap": False}, ""),
    ],
)
def test_a_parameter_of_triton_that_an_option_does_not_repeat_is_told(
    name: str, value: str, options: dict[str, Any], held: str
) -> None:
    text = f'{PBTXT}parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}'
    found = told(repository(pbtxt=text), **options)
    assert [(each.code, each.severity, each.fields) for each in found] == [
        ("model.triton-config", WARNING, (name,))
    ] * bool(held)
    assert all(f"config.pbtxt has {name}={value}" in each.message and held in each.message for each in found)
    assert all(f"option.{name}={value}" in each.hint for each in found)


# ------------------------------------------------------------------------------------------------------- real folders


def write(folder: Path, artifacts: ModelArtifacts) -> Path:
    for name in artifacts.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = artifacts.documents.get(name, {})
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize("below", ["", "tensorrt_llm"])
def test_a_repository_is_one_at_either_level(tmp_path: Path, below: str) -> None:
    artifacts = detect(write(tmp_path, repository(ranks=(0,))) / below)
    assert artifacts.format is ArtifactFormat.TRITON_REPOSITORY
    assert [each.code for each in told(artifacts)] == ["weights.rank-missing"]


def test_saved_engines_are_engines(tmp_path: Path) -> None:
    artifacts = detect(write(tmp_path, saved(ranks=(0, 1, 2))))
    assert artifacts.format is ArtifactFormat.ENGINES
    assert [each.code for each in told(artifacts, max_rolling_batch_size=65)] == [
        "weights.rank-missing", "model.compiled-otherwise",
    ]  # fmt: skip
