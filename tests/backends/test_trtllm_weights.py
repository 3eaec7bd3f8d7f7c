# SPDX-License-Identifier: Apache-2.0
"""Weights on trtllm: how they are split and compressed, the code and the GPU they need, and what is compiled."""

from __future__ import annotations

from typing import Any

import pytest

import lmi_trtllm
from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Severity, Target
from lmi_trtllm.config import TrtllmConfig
from tests.backends.placing import placed

ERROR, WARNING = Severity.ERROR, Severity.WARNING
FORMATS = ("pretrained", "triton-repository", "engines")


def gpus(n_devices: int = 8, **said: str) -> Target:
    return Target(accelerator=Accelerator.CUDA, n_devices=n_devices, **said)  # type: ignore[arg-type]


def model(name: str = "LlamaForCausalLM", documents: dict[str, Any] | None = None, **config: Any) -> ModelArtifacts:
    config = {"model_type": "llama", "architectures": [name], "num_attention_heads": 32, **config}
    return ModelArtifacts(
        folder="s3://bucket/model", format=ArtifactFormat.PRETRAINED, config=config, architectures=(name,),
        model_type=config["model_type"], documents=documents or {},
    )  # fmt: skip


def checked(artifacts: ModelArtifacts, target: Target | None = None, **options: Any) -> list[Problem]:
    config = TrtllmConfig(**options)
    return placed(lmi_trtllm.lmi_validate_artifacts(artifacts, config, target or gpus()), TrtllmConfig)


def test_it_loads_weights_repositories_and_engines() -> None:
    assert lmi_trtllm.lmi_describe_backend().artifact_formats == FORMATS


GQA = {"num_key_value_heads": 8}
DEGREES = [
    ({}, 8, ""),
    ({}, 3, "32 attention heads cannot be split into so many equal parts"),
    (GQA, 4, ""),
    (GQA, 16, ""),
    (GQA, 32, ""),
    ({"num_attention_heads": 48, "num_key_value_heads": 8}, 16, ""),
    ({"num_attention_heads": 48, "num_key_value_heads": 8}, 12, "8 key-value heads cannot be dealt out evenly"),
    ({"num_attention_heads": 40, "num_key_value_heads": 10}, 4, "10 key-value heads cannot be dealt out evenly"),
    ({"num_attention_heads": 71, "model_type": "falcon", "multi_query": True}, 2, "71 attention heads"),
    ({"num_attention_heads": 64, "model_type": "falcon", "multi_query": True}, 8, ""),
    ({"text_config": {"num_attention_heads": 12}}, 8, "12 attention heads"),
    ({"vocab_size": 32001}, 4, ""),
    ({"num_attention_heads": None}, 3, ""),
]


@pytest.mark.parametrize(("config", "degree", "said"), DEGREES)
def test_a_degree_deals_out_heads_evenly(config: dict[str, Any], degree: int, said: str) -> None:
    found = checked(model(**config), gpus(64), tensor_parallel_degree=degree)
    assert [(each.code, each.severity, each.fields) for each in found] == [
        ("config.tensor-parallel", ERROR, ("tensor_parallel_degree",))
    ] * bool(said)
    assert all(said in each.message and "Set option.tensor_parallel_degree to one of 1" in each.hint for each in found)


def test_a_degree_that_is_recommended_has_no_problem() -> None:
    artifacts = model(num_attention_heads=48, num_key_value_heads=8)
    (problem,) = checked(artifacts, tensor_parallel_degree=12)
    numbers = [int(each) for each in problem.hint.partition("one of ")[2].split(", ")]
    assert numbers == [1, 2, 4, 8, 16, 24, 48]
    assert [checked(artifacts, tensor_parallel_degree=each) for each in numbers] == [[]] * len(numbers)


def test_a_number_of_heads_that_no_model_has_is_no_long_search() -> None:
    (problem,) = checked(model(num_attention_heads=10**15 + 1), tensor_parallel_degree=2)
    assert problem.code == "config.tensor-parallel"


STAGES = [
    (gpus(4), {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}, "", ""),
    (gpus(4), {"tensor_parallel_degree": 4, "pipeline_parallel_degree": 2}, "device.too-few", "needs 8 GPUs"),
    (gpus(2), {"tensor_parallel_degree": 4, "pipeline_parallel_degree": 2}, "", ""),  # the degree alone is too much
    (Target(), {"tensor_parallel_degree": 4, "pipeline_parallel_degree": 2}, "", ""),
    (gpus(64), {"pipeline_parallel_degree": 33}, "config.conflict", "the model has 32 layers"),
]


@pytest.mark.parametrize(("target", "options", "code", "said"), STAGES)
def test_stages_take_gpus_and_layers(target: Target, options: dict[str, Any], code: str, said: str) -> None:
    found = checked(model(num_hidden_layers=32), target, **options)
    assert [each.code for each in found] == [code] * bool(code)
    assert all(said in each.message and each.hint for each in found)


T4 = {"device_name": "Tesla T4", "compute_capability": "7.5"}
GPUS = [
    (T4, {}, "device.too-old", "Tesla T4 has compute capability 7.5; TensorRT-LLM runs on 8.0 and later"),
    ({"instance": "ml.g4dn.xlarge"}, {}, "device.too-old", "ml.g4dn.xlarge has compute capability 7.5"),
    ({"instance": "ml.g5.xlarge"}, {}, "", ""),
    ({"compute_capability": "10.0"}, {"quantize": "fp8"}, "", ""),
    ({"compute_capability": "8.9"}, {"quantize": "fp8"}, "", ""),
    ({"device_name": "NVIDIA A10G"}, {"quantize": "fp8"}, "config.quantize", "8.9 or later; NVIDIA A10G has 8.6"),
    ({}, {"quantize": "fp8"}, "", ""),
]


@pytest.mark.parametrize(("said_of", "options", "code", "said"), GPUS)
def test_a_gpu_may_be_too_old(said_of: dict[str, str], options: dict[str, Any], code: str, said: str) -> None:
    found = [each for each in checked(model(), gpus(**said_of), **options) if each.severity is ERROR]
    assert [each.code for each in found] == [code] * bool(code)
    assert all(said in each.message and each.hint for each in found)


def test_a_model_that_brings_code_needs_trust() -> None:
    artifacts = model("BaichuanForCausalLM", model_type="baichuan", auto_map={"AutoConfig": "configuration.Config"})
    problem, built = checked(artifacts)
    assert (problem.code, problem.severity, problem.fields) == ("model.remote-code", ERROR, ("trust_remote_code",))
    assert checked(artifacts, trust_remote_code=True) == [built]
    assert built.code == "engine.compiles-at-start"
    assert checked(model(auto_map={"AutoConfig": "configuration.Config"})) == []  # transformers knows this one


def modelopt(method: str) -> dict[str, Any]:
    return {"hf_quant_config.json": {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": method}}}


COMPRESSED = [
    (model(quantization_config={"quant_method": "bitsandbytes"}), {}, "model.quantization-not-served", "bitsandbytes"),
    (model(quantization_config={"quant_method": "hqq"}), {"quantize": "awq"}, "model.quantization-not-served", "hqq"),
    (model(quantization_config={"quant_method": "fp8"}), {}, "", ""),
    (model(quantization_config={"quant_method": "mxfp4"}), {}, "", ""),
    (model(documents=modelopt("FP8")), {"quantize": "fp8"}, "", ""),
    (model(documents=modelopt("W4A16_AWQ")), {"quantize": "awq"}, "", ""),
    (model(documents=modelopt("W4A16_AWQ")), {"quantize": "fp8"}, "config.quantize", "compressed with W4A16_AWQ"),
    (model(documents=modelopt("FP8")), {"quantize": "awq", "backend": "pytorch"}, "config.quantize", "with FP8"),
    (
        model(quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4"}), {"quantize": "fp8"},
        "config.quantize", "compressed with NVFP4",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("artifacts", "options", "code", "said"), COMPRESSED)
def test_a_compressed_checkpoint_says_itself_how(
    artifacts: ModelArtifacts, options: dict[str, Any], code: str, said: str
) -> None:
    found = checked(artifacts, gpus(compute_capability="9.0"), **options)
    assert [each.code for each in found] == [code] * bool(code)
    assert all(said in each.message and each.hint for each in found)


AT_START = [
    ({}, {}, ""),
    ({"backend": "pytorch"}, {}, ""),
    ({"backend": "tensorrt"}, {}, "backend=tensorrt builds engines"),
    ({"quantize": "smoothquant"}, {}, "quantize=smoothquant is applied while engines are built"),
    ({"quantize": "awq"}, {}, "quantize=awq is applied while engines are built"),
    ({"quantize": "awq"}, {"quantization_config": {"quant_method": "awq"}}, ""),
    ({"backend": "tensorrt"}, {"quantization_config": {"quant_method": "awq"}}, "backend=tensorrt"),
    ({"multi_block_mode": True}, {}, "multi_block_mode=true is for built engines alone"),
    ({"max_draft_len": 4}, {}, "max_draft_len=4 is for built engines alone"),
]


ENGINES_ALONE = [
    ("FalconForCausalLM", {}, "FalconForCausalLM is served by built engines alone", ("backend",)),
    ("LlamaForCausalLM", {"multi_block_mode": True}, "multi_block_mode=true is for", ("backend", "multi_block_mode")),
    ("LlamaForCausalLM", {"max_draft_len": 4}, "max_draft_len=4 is for", ("backend", "max_draft_len")),
]


@pytest.mark.parametrize(("name", "options", "said", "fields"), ENGINES_ALONE)
def test_what_engines_alone_have_is_refused_where_none_are_built(
    name: str, options: dict[str, Any], said: str, fields: tuple[str, ...]
) -> None:
    (problem,) = checked(model(name), backend="pytorch", **options)
    assert (problem.code, problem.severity, problem.fields) == ("config.conflict", ERROR, fields)
    assert problem.message.startswith("backend=pytorch builds no engines, and ") and said in problem.message


@pytest.mark.parametrize(("options", "config", "said"), AT_START)
def test_a_start_that_compiles_says_so(options: dict[str, Any], config: dict[str, Any], said: str) -> None:
    found = checked(model(**config), **options)
    assert [(each.code, each.severity) for each in found] == [("engine.compiles-at-start", WARNING)] * bool(said)
    assert all(said in each.message and "option.model_id" in each.hint for each in found)


def test_an_architecture_that_is_not_compiled_here_is_converted_manually() -> None:
    (problem,) = checked(model("BloomForCausalLM", model_type="bloom"))
    assert (problem.code, problem.severity) == ("model.architecture-not-served", ERROR)
    assert "Convert it manually" in problem.hint


AWQ = {"quantization_config": {"quant_method": "awq"}}
WITHOUT_COUNTERPART = [
    (AWQ, {"quantize": "awq", "calib_size": 64}, "config.conflict", "calib_size=64 is for building engines"),
    (AWQ, {"quantize": "awq", "awq_block_size": 64}, "config.conflict", "awq_block_size=64 is for building engines"),
    (AWQ, {"quantize": "awq", "calib_size": 32, "awq_block_size": 128}, "", ""),
    ({}, {"backend": "tensorrt", "enable_trt_overlap": True}, "config.no-effect", "enable_trt_overlap=true changes"),
    ({}, {"backend": "tensorrt", "use_custom_all_reduce": True}, "config.no-effect", "the build decides"),
    ({}, {"enable_trt_overlap": True, "use_custom_all_reduce": True, "use_fused_mlp": True}, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("config", "options", "code", "said"), WITHOUT_COUNTERPART)
def test_an_option_that_a_way_does_not_have_is_told_unless_it_says_its_default(
    config: dict[str, Any], options: dict[str, Any], code: str, said: str
) -> None:
    found = [each for each in checked(model(**config), **options) if each.code != "engine.compiles-at-start"]
    assert [each.code for each in found] == [code] * bool(code)
    assert all(said in each.message for each in found)
    assert all((each.severity is ERROR) == (code == "config.conflict") for each in found)
