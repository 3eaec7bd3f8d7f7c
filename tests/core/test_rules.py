# SPDX-License-Identifier: Apache-2.0
"""Rules about a model that several backends share."""

import pytest

from lmi.api import ArtifactFormat, ModelArtifacts, context_problems, degree_problems, quantization_of

MODEL = ModelArtifacts(folder="/m", format=ArtifactFormat.PRETRAINED, max_context_tokens=4096)


@pytest.mark.parametrize(
    ("degree", "sizes", "said", "hint"),
    [
        (2, {"attention heads": 9}, "does not divide the model's 9 attention heads", "degree to 1"),
        (4, {"attention heads": 6, "key-value heads": 6}, "6 attention heads and 6 key-value heads", "one of 1, 2, 3"),
        (8, {"attention heads": 12, "tokens of the vocabulary": 100}, "12 attention heads and 100", "one of 1, 2, 4"),
        (4, {"attention heads": 8, "key-value heads": 6}, "divide the model's 6 key-value heads", "one of 1, 2"),
    ],
)
def test_a_degree_that_divides_unevenly_names_what_and_which_would_fit(degree, sizes, said, hint):
    (problem,) = degree_problems(MODEL, degree, sizes, "or do something else")
    assert problem.code == "config.tensor-parallel"
    assert (said in problem.message, hint in problem.hint) == (True, True), problem
    assert problem.hint.endswith(", or do something else")
    assert problem.fields == ("tensor_parallel_degree",)


@pytest.mark.parametrize(
    ("degree", "sizes"),
    [(1, {"attention heads": 9}), (3, {"attention heads": 9}), (4, {"attention heads": 0}), (4, {})],
)
def test_a_degree_that_divides_what_is_known_has_no_problem(degree, sizes):
    assert degree_problems(MODEL, degree, sizes) == []


@pytest.mark.parametrize(
    ("asked", "limit", "n_problems"), [(4097, 4096, 1), (4096, 4096, 0), (None, 4096, 0), (0, 4096, 0), (9999, 0, 0)]
)
def test_a_length_beyond_the_model_is_told_with_both_numbers(asked, limit, n_problems):
    found = context_problems(ModelArtifacts(max_context_tokens=limit), asked)
    assert [each.message for each in found] == ["max_model_len is 4097 tokens, the model takes 4096"] * n_problems


@pytest.mark.parametrize(
    ("config", "documents", "method"),
    [
        ({}, {}, None),
        ({"quantization_config": {"quant_method": "AWQ"}}, {}, "awq"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, {}, "fp8"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, {}, "compressed-tensors"),
        ({"quantization_config": {"load_in_4bit": True}}, {}, "bitsandbytes"),
        ({"quantization_config": {"bits": 4, "group_size": 128, "desc_act": False}}, {}, "gptq"),
        ({"quantization_config": {"something": "else"}}, {}, "unknown"),
        ({"quantization_config": "fp8"}, {}, None),
        ({}, {"quantize_config.json": {"bits": 4, "group_size": 128}}, "gptq"),
        ({}, {"quant_config.json": {"w_bit": 4, "q_group_size": 128, "zero_point": True}}, "awq"),
        ({}, {"quantize_config.json": {"quant_method": "awq", "bits": 4, "group_size": 64}}, "awq"),
        ({}, {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}}, "modelopt"),
        ({}, {"params.json": {"dim": 64, "quantization": {"qformat_weight": "fp8_e4m3"}}}, "fp8"),
        ({"quantization_config": {"quant_method": "gptq"}}, {"quantize_config.json": {"w_bit": 4}}, "gptq"),
    ],
)
def test_a_checkpoint_says_how_it_is_compressed_in_one_of_several_files(config, documents, method):
    found = quantization_of(ModelArtifacts(config=config, documents=documents))
    assert found.get("quant_method") == method
