# SPDX-License-Identifier: Apache-2.0
"""What a backend finds wrong with a model and its options says in which line or variable the option was set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmi.api import ArtifactError, Problem
from lmi.config.model_entries import ModelEntry
from lmi.loading import plan
from lmi.plugins import Plugins
from tests.backends.placing import named
from tests.core.model_folders import CONFIG, write_json, write_model

PLUGINS = Plugins.discover({"LMI_EXTENSIONS": ""})
SELECTORS = {"neuronx": "option.entryPoint=djl_python.transformers_neuronx"}
DEVICES = {"neuronx": "neuron:12", "hf": "cpu"}

FALCON = {"architectures": ["FalconForCausalLM"], "model_type": "falcon"}
BLOOM = {"architectures": ["BloomForCausalLM"], "model_type": "bloom"}
AWQ = {"quantization_config": {"quant_method": "awq"}}
HEADS = {"num_attention_heads": 6}

LINES = [
    ("trtllm", FALCON, "use_fused_mlp=true", "config.conflict", "use_fused_mlp=true is for llama only", 1),
    ("trtllm", AWQ, "tensor_parallel_degree=1 quantize=fp8", "config.quantize", "compressed with awq", 2),
    ("vllm", {}, "dtype=bf16 max_model_len=9000", "config.max-model-len", "the model takes 2048", 2),
    ("vllm", HEADS, "tensor_parallel_size=4", "config.tensor-parallel", "6 attention heads", 1),
    ("lmi-dist", HEADS, "max_model_len=64 tensor_parallel_degree=4", "config.tensor-parallel", "6 attention heads", 2),
    ("lmi-dist", AWQ, "quantization=gptq", "config.quantize", "compressed with awq", 1),
    ("deepspeed", FALCON, "dtype=fp16 quantize=smoothquant", "config.quantize", "the model is falcon", 2),
    ("deepspeed", {}, "checkpoint=shards.json", "artifacts.file-missing", "checkpoint is shards.json", 1),
    ("neuronx", {}, "n_positions=4096", "config.n-positions", "the model takes 2048", 1),
    ("neuronx", BLOOM, "n_positions=64 rolling_batch_strategy=continuous_batching", "config.rolling-batch-strategy",
     "this is a bloom model", 2),
    ("hf", {}, "dtype=fp32 device_map=cuda:0", "config.device-map", "meant for cpu", 2),
    ("hf", AWQ, "device_map=cpu load_in_8bit=true", "config.quantize", "load_in_8bit is true, but", 2),
]  # fmt: skip
"""Backend, what config.json says besides, options by line, and of the problem: its code, its words and its line."""


def found_by(
    backend: str, config: dict[str, Any], options: str, folder: Path, environ: dict[str, str]
) -> list[Problem]:
    """The problems of a folder that is real, whose options stand in the first lines of its serving.properties."""
    write_json(write_model(folder) / "config.json", {**CONFIG, **config})
    lines = [f"option.{each}" for each in options.split()]
    lines.append(SELECTORS.get(backend, f"option.rolling_batch={backend}"))
    (folder / "serving.properties").write_text("\n".join(lines))
    with pytest.raises(ArtifactError) as caught:
        plan(
            ModelEntry(url=str(folder)), flags={}, environ=environ, plugins=PLUGINS,
            devices=DEVICES.get(backend, "cuda:8"),
        )  # fmt: skip
    return list(caught.value.problems)


@pytest.mark.parametrize(("backend", "config", "options", "code", "said", "line"), LINES)
def test_a_problem_names_the_line_of_its_option(
    backend: str, config: dict[str, Any], options: str, code: str, said: str, line: int, tmp_path: Path
):
    (problem,) = (each for each in found_by(backend, config, options, tmp_path, {}) if each.code == code)
    assert said in problem.message
    assert problem.source == f"serving.properties:{line}"


def test_a_problem_names_the_variable_of_its_option(tmp_path: Path):
    (problem,) = found_by("vllm", {}, "dtype=fp16", tmp_path, {"OPTION_MAX_MODEL_LEN": "9000"})
    assert problem.source == "OPTION_MAX_MODEL_LEN"


def test_a_problem_of_two_options_names_both_places_the_one_to_change_first(tmp_path: Path):
    (problem,) = found_by("trtllm", {}, "quantize=awq", tmp_path, {"OPTION_BACKEND": "pytorch"})
    assert problem.code == "model.not-quantized"
    assert problem.source == "OPTION_BACKEND, serving.properties:1"


def test_a_problem_of_the_files_alone_names_no_option(tmp_path: Path):
    (problem,) = found_by("neuronx", {"quantization_config": {"quant_method": "awq"}}, "n_positions=64", tmp_path, {})
    assert (problem.code, problem.source) == ("model.quantization-not-served", "")


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("dtype is fp16, in which models overflow", {"dtype"}),
        ("quantize=awq with backend=pytorch needs a checkpoint", {"quantize", "backend"}),
        ("the backend is fine", set()),
        ("the engines were built for 2, tensor_parallel_degree says 4", {"tensor_parallel_degree"}),
        ("the model was compiled with max_input_len=4, max_output_len is 8", {"max_output_len"}),
    ],
)
def test_the_options_that_a_message_speaks_of_are_found(message: str, options: set[str]):
    assert named(message, PLUGINS.config_types()["trtllm"]) == options
