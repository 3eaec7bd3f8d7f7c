# SPDX-License-Identifier: Apache-2.0
"""What vllm finds wrong with a model, from its small files and the names of the others: one row a rule."""

import pytest

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi_vllm import lmi_describe_backend
from lmi_vllm.names import BF16_ALONE, METHODS, MIN_CAPABILITY
from tests.backends.vllm_models import CPU, WEIGHTS, gpu, model, only, problems

# ------------------------------------------------------------------------------------------------------- the split


@pytest.mark.parametrize(
    ("config", "degree", "said"),
    [
        pytest.param({}, 3, "32 attention heads, 8 key-value", id="heads"),
        pytest.param({"num_attention_heads": 12, "num_key_value_heads": 4}, 6, "4 key-value heads", id="neither way"),
        pytest.param({"num_attention_heads": 12, "num_key_value_heads": 12}, 3, "14336 feed-forward", id="inner size"),
        pytest.param({"num_attention_heads": 12, "num_key_value_heads": 12, "intermediate_size": 12288,
                      "vocab_size": 128256 + 64}, 3, "128320 tokens of the vocabulary", id="the filled vocabulary"),
        pytest.param({"text_config": {"num_attention_heads": 9}}, 2, "9 attention heads", id="the language part"),
    ],
)  # fmt: skip
def test_a_degree_must_divide_what_vllm_divides(config, degree, said):
    problem = only(problems(model(config=config), tensor_parallel_degree=degree))
    assert problem.code == "config.tensor-parallel"
    assert said.replace(", ", " and ") in problem.message


@pytest.mark.parametrize(
    ("config", "degree"),
    [
        pytest.param({}, 8, id="everything divides"),
        pytest.param({"num_key_value_heads": 2}, 8, id="key-value heads are copied"),
        pytest.param({"num_key_value_heads": 1}, 4, id="one head for all"),
        pytest.param({"vocab_size": 32003}, 4, id="the vocabulary is filled up"),
        pytest.param({"num_local_experts": 8, "intermediate_size": 14337}, 4, id="experts are not split evenly"),
        pytest.param({"kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_key_value_heads": 7}, 4, id="latent attention"),
    ],
)
def test_a_degree_that_vllm_takes_has_no_problem(config, degree):
    assert problems(model(config=config), tensor_parallel_degree=degree) == []


GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
QWEN_72B = {"num_attention_heads": 64, "intermediate_size": 29568, "num_key_value_heads": 8, "hidden_size": 8192}


@pytest.mark.parametrize(
    ("config", "degree", "said"),
    [
        ({**QWEN_72B, **GPTQ}, 8, "would get 3696 of the 29568 feed-forward numbers, which is no multiple"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}, "intermediate_size": 4160,
          "num_attention_heads": 64}, 2, "get 2080 of the 4160"),
        ({**GPTQ, "intermediate_size": 14336}, 8, ""),
        ({"quantization_config": {"quant_method": "awq", "group_size": -1}, "intermediate_size": 4160}, 8, ""),
        (QWEN_72B, 8, ""),
    ],
)  # fmt: skip
def test_weights_that_share_a_scale_stay_together(config, degree, said):
    found = problems(model(config=config), tensor_parallel_degree=degree)
    assert [each.code for each in found] == ["config.tensor-parallel"] * bool(said)
    assert all(said in each.message for each in found)


def test_on_a_processor_ranks_share_the_cores():
    assert problems(model(), CPU, tensor_parallel_degree=2) == []


# ------------------------------------------------------------------------------------------- context, numbers, files


@pytest.mark.parametrize(
    ("config", "asked", "n_problems"),
    [
        pytest.param({}, 8193, 1, id="more than the model takes"),
        pytest.param({}, -1, 0, id="as much as fits"),
        pytest.param({"rope_scaling": {"type": "linear", "factor": 2.0}}, 16384, 0, id="stretched"),
        pytest.param({"rope_scaling": {"type": "linear", "factor": 2.0}}, 16385, 1, id="beyond the stretch"),
        pytest.param({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 8193, 1, id="the limit is stretched"),
        pytest.param({"rope_parameters": {"rope_type": "default"}}, 8193, 1, id="not stretched"),
        pytest.param({"rope_parameters": {"full": {"rope_type": "linear", "factor": 8.0}}}, 65536, 0, id="by layers"),
        pytest.param({"model_max_length": 9000}, 9000, 0, id="a limit of its own"),
    ],
)
def test_a_context_is_as_long_as_vllm_derives_it(config, asked, n_problems):
    found = problems(model(config=config, max_context_tokens=8192), max_model_len=asked)
    assert [each.code for each in found] == ["config.max-model-len"] * n_problems


def test_a_context_may_be_too_long_where_vllm_was_told_to_allow_it(monkeypatch):
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert problems(model(max_context_tokens=8192), max_model_len=9000) == []


@pytest.mark.parametrize(
    ("options", "config", "capability", "said"),
    [
        ({"dtype": "bf16"}, {}, "7.5", "bf16, which needs compute capability 8.0; a GPU has 7.5"),
        ({"dtype": "fp32"}, GPTQ, "9.0", "gptq computes in bf16 or fp16"),
        ({"dtype": "fp16"}, {"quantization_config": {"quant_method": "mxfp4"}}, "9.0", "mxfp4 computes in bf16"),
        ({"dtype": "fp32", "quantize": "fp8"}, {}, "9.0", "fp8 computes in"),
    ],
)
def test_a_number_type_that_device_or_method_lacks_is_refused(options, config, capability, said):
    problem = only(problems(model(config=config), gpu(capability), **options))
    assert (problem.code, said in problem.message) == ("config.dtype", True), problem


@pytest.mark.parametrize(
    ("method", "capability", "said"),
    [
        ("awq", "7.0", "awq needs compute capability 7.5, a GPU has 7.0"),
        ("fp8", "7.0", "fp8 needs compute capability 7.5"),
        ("mxfp4", "7.5", "needs compute capability 8.0"),
        ("gptq", "6.0", ""),
        ("awq", "8.6", ""),
        ("compressed-tensors", "7.0", ""),
        ("awq", "", ""),
    ],
)
def test_a_compression_needs_a_device_that_computes_it(method, capability, said):
    found = problems(model(config={"quantization_config": {"quant_method": method}}), gpu(capability))
    assert [each.code for each in found] == ["model.quantization-not-served"] * bool(said)
    assert all(said in each.message for each in found)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("bitsandbytes", {}, "compressed with bitsandbytes, which vLLM does not read"),
        ("hqq", {}, "compressed with hqq"),
        ("fbgemm_fp8", {}, "which vLLM is about to drop"),
        ("fbgemm_fp8", {"allow_deprecated_quantization": True}, ""),
        ("auto-round", {}, ""),
        ("compressed_tensors", {}, ""),
    ],
)
def test_a_compression_that_vllm_does_not_read_is_refused(method, options, said):
    found = problems(model(config={"quantization_config": {"quant_method": method}}), **options)
    assert [each.code for each in found] == ["model.quantization-not-served"] * bool(said)
    assert all(said in each.message for each in found)


def test_every_method_has_a_least_capability_but_those_where_the_checkpoint_decides():
    assert set(METHODS) - set(MIN_CAPABILITY) == {"modelopt", "modelopt_mixed"}
    assert set(MIN_CAPABILITY) <= set(METHODS)
    assert set(BF16_ALONE) <= set(METHODS)


@pytest.mark.parametrize(
    ("options", "files", "code"),
    [
        ({"tokenizer_mode": "mistral"}, {}, "artifacts.file-missing"),
        ({"tokenizer_mode": "mistral"}, {"tekken.json": 1}, None),
        ({"tokenizer_mode": "mistral"}, {"tokenizer.model.v3": 1}, None),
        ({"tokenizer_mode": "mistral", "tokenizer": "org/other"}, {}, None),
        ({"load_format": "pt"}, {}, "artifacts.file-missing"),
        ({"load_format": "pt"}, {"pytorch_model.bin": 1}, None),
        ({"load_format": "safetensors"}, {}, None),
        ({"load_format": "mistral"}, {}, "artifacts.file-missing"),
        ({"config_format": "mistral"}, {}, "artifacts.file-missing"),
        ({"config_format": "mistral"}, {"params.json": 1}, None),
        ({"load_format": "gguf"}, {}, "model.quantization-not-served"),
    ],
)
def test_a_way_of_reading_needs_its_files(options, files, code):
    found = problems(model(files={**WEIGHTS, **files}), **options)
    assert [each.code for each in found] == ([code] if code else [])


def test_a_model_in_mistral_form_is_judged_by_params_json():
    params = {"dim": 5120, "n_heads": 32, "n_kv_heads": 8, "hidden_dim": 14336, "vocab_size": 131072, "n_layers": 40}
    files = {"params.json": 300, "consolidated.safetensors": 10_000, "tekken.json": 5000}
    own = ModelArtifacts(folder="s3://m", format=ArtifactFormat.MISTRAL, documents={"params.json": params}, files=files)
    assert "mistral" in lmi_describe_backend().artifact_formats
    assert problems(own, tensor_parallel_degree=4) == []
    assert "32 attention heads" in only(problems(own, tensor_parallel_degree=3)).message
