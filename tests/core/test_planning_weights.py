# SPDX-License-Identifier: Apache-2.0
"""What weights come to in memory, by number type and compression."""

import msgspec
import pytest

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi.api.artifacts import WeightSummary
from lmi.planning import served_weights
from lmi.planning.weights import stored_dtype
from tests.core.planned_models import LLAMA_2_7B, N_PARAMETERS, artifacts_of

N = N_PARAMETERS["7B"]
TABLES = 2 * 32_000 * 4_096
"""Embedding and head, which stay as they are."""

# stored type, option.dtype, option.quantize, bytes in memory
ROWS = [
    ("F32", "fp32", "", 4 * N),
    ("F32", "bf16", "", 2 * N),
    ("F16", "fp16", "", 2 * N),
    ("BF16", "fp32", "", 4 * N),
    ("F16", "fp16", "bitsandbytes8", 2 * TABLES + (N - TABLES)),
    ("F16", "fp16", "bitsandbytes4", 2 * TABLES + (N - TABLES) * 4.5 / 8),
    ("F32", "fp16", "fp8", 2 * TABLES + (N - TABLES)),
    ("F16", "fp16", "static_int8", 2 * TABLES + (N - TABLES)),
    ("F16", "fp16", "smoothquant", 2 * TABLES + (N - TABLES)),
    ("F16", "fp16", "awq", 2 * TABLES + (N - TABLES) * 4.25 / 8),
]


@pytest.mark.parametrize(("stored", "dtype", "quantize", "n_bytes"), ROWS)
def test_numbers_are_cast_and_matrices_of_layers_compressed(stored, dtype, quantize, n_bytes):
    found = served_weights(artifacts_of(LLAMA_2_7B, N, stored), dtype=dtype, quantize=quantize)
    assert (found.n_bytes, found.quantization) == (round(n_bytes), quantize)


def test_a_checkpoint_that_is_compressed_stays_as_it_is_stored_but_for_its_floats():
    config = {**LLAMA_2_7B, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    summary = WeightSummary(n_bytes=5_000, n_parameters=1_500, bytes_by_dtype={"I32": 3_000, "F32": 2_000})
    artifacts = ModelArtifacts(folder="/m", format=ArtifactFormat.PRETRAINED, config=config, weights=summary)
    found = served_weights(artifacts, dtype="fp16", quantize="gptq")
    assert (found.n_bytes, found.stored_bytes, found.quantization) == (4_000, 5_000, "gptq")
    assert stored_dtype(artifacts) == "fp16"


def test_a_compression_that_stands_in_a_file_of_its_own_is_one_too():
    summary = WeightSummary(n_bytes=1_200, n_parameters=1_100, bytes_by_dtype={"F8_E4M3": 1_000, "BF16": 200})
    artifacts = ModelArtifacts(
        folder="/m", format=ArtifactFormat.PRETRAINED, config=LLAMA_2_7B, weights=summary,
        documents={"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}},
    )  # fmt: skip
    found = served_weights(artifacts, dtype="bf16", quantize="fp8")
    assert (found.n_bytes, found.quantization) == (1_200, "modelopt")


def test_numbers_of_eight_bits_are_not_cast():
    summary = WeightSummary(n_bytes=1_200, n_parameters=1_100, bytes_by_dtype={"F8_E4M3": 1_000, "BF16": 200})
    artifacts = ModelArtifacts(folder="/m", format=ArtifactFormat.PRETRAINED, config=LLAMA_2_7B, weights=summary)
    assert served_weights(artifacts, dtype="fp32").n_bytes == 1_400


@pytest.mark.parametrize(
    ("said", "dtype", "factor"),
    [("float16", "fp16", 1), ("float32", "fp16", 0.5), ("bfloat16", "fp32", 2), (None, "fp16", 0.5)],
)
def test_pytorch_files_count_by_their_size_and_what_config_json_says(said, dtype, factor):
    config = {**LLAMA_2_7B, "torch_dtype": said}
    artifacts = ModelArtifacts(
        folder="/m", format=ArtifactFormat.PRETRAINED, config=config, weight_files=("a.bin", "b.bin"),
        files={"a.bin": 1_000, "b.bin": 500, "optimizer.bin": 9_000},
    )  # fmt: skip
    found = served_weights(artifacts, dtype=dtype)
    assert (found.stored_bytes, found.n_bytes) == (1_500, 1_500 * factor)


def test_pytorch_files_are_compressed_but_for_embedding_and_head():
    artifacts = artifacts_of(LLAMA_2_7B, N, "F16")
    bare = msgspec.structs.replace(
        artifacts, weights=WeightSummary(), files={"pytorch_model.bin": 2 * N}, weight_files=("pytorch_model.bin",)
    )
    expected = served_weights(artifacts, dtype="fp16", quantize="bitsandbytes8").n_bytes
    assert served_weights(bare, dtype="fp16", quantize="bitsandbytes8").n_bytes == expected


def test_built_engines_take_what_their_files_take():
    artifacts = ModelArtifacts(
        folder="/m", format=ArtifactFormat.ENGINES, files={"rank0.engine": 700, "rank1.engine": 800, "config.json": 5}
    )
    assert served_weights(artifacts, dtype="fp32", quantize="awq").n_bytes == 1_500
