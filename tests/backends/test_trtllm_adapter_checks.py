# SPDX-License-Identifier: Apache-2.0
"""Which LoRA adapters trtllm takes, for which models, ways and engines: found without the library."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import lmi_trtllm
from lmi.api import Accelerator, ModelArtifacts, Problem, Target
from lmi.artifacts import detect
from lmi.testing import write_tiny_adapter
from lmi_trtllm.arguments import engine_arguments
from lmi_trtllm.config import TrtllmConfig
from tests.backends.trtllm_builds import NEW, changed, saved
from tests.backends.trtllm_standin import folder

__all__ = ["folder"]

GPU = Target(accelerator=Accelerator.CUDA, n_devices=4, compute_capability="8.6")
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def model(folder: Path, architecture: str = "LlamaForCausalLM", **adapter: Any) -> ModelArtifacts:
    """A tiny model of some architecture with an adapter beside it, whose configuration differs."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    place = write_tiny_adapter(folder / "adapters" / "fr", folder)
    written = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps({**written, **adapter}))
    return detect(folder)


def told(artifacts: ModelArtifacts, **options: Any) -> list[Problem]:
    found = lmi_trtllm.lmi_validate_artifacts(artifacts, TrtllmConfig(**{"enable_lora": True, **options}), GPU)
    return [each for each in found if each.code.startswith("adapter.") or "lora" in each.message]


FITS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("LlamaForCausalLM", {}, {}),
    ("LlamaForCausalLM", {}, {"target_modules": list(ALL)}),
    ("LlamaForCausalLM", {"backend": "tensorrt"}, {"target_modules": list(ALL)}),
    ("LlamaForCausalLM", {}, {"target_modules": "all-linear"}),
    ("LlamaForCausalLM", {}, {"use_rslora": True}),
    ("MistralForCausalLM", {}, {"target_modules": ["q_proj", "model.layers.0.self_attn.o_proj"]}),
    ("MistralForCausalLM", {"backend": "tensorrt"}, {"target_modules": list(ALL)}),
    ("Qwen2ForCausalLM", {}, {"target_modules": list(ALL)}),
    ("LlamaForCausalLM", {"max_lora_rank": 64}, {"r": 64}),
]


@pytest.mark.parametrize(("architecture", "options", "adapter"), FITS)
def test_adapters_that_the_library_takes_have_no_problems(
    folder: Path, architecture: str, options: dict[str, Any], adapter: dict[str, Any]
) -> None:
    assert told(model(folder, architecture, **adapter), **options) == []


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    ("Qwen3ForCausalLM", {}, {}, "adapter.not-supported", r"of LlamaForCausalLM, .* alone; this model is Qwen3"),
    ("FalconForCausalLM", {}, {}, "adapter.not-supported", "this model is FalconForCausalLM"),
    (
        "MistralForCausalLM", {}, {"target_modules": list(ALL)}, "adapter.not-supported",
        r"changes gate_proj, up_proj, down_proj, and TensorRT-LLM changes .* alone.*option\.backend=tensorrt",
    ),
    (
        "MistralForCausalLM", {}, {"target_modules": "all-linear"}, "adapter.not-supported",
        "names its matrices by a pattern",
    ),
    ("LlamaForCausalLM", {}, {"r": 32}, "adapter.rank", "has rank 32, and max_lora_rank is 16"),
    ("LlamaForCausalLM", {}, {"use_dora": True}, "adapter.not-supported", "has DoRA"),
    ("LlamaForCausalLM", {}, {"alpha_pattern": {"q_proj": 2}}, "adapter.not-supported", "alpha_pattern"),
    ("LlamaForCausalLM", {}, {"modules_to_save": ["lm_head"]}, "adapter.not-supported", "modules_to_save: lm_head"),
    ("LlamaForCausalLM", {}, {"target_modules": ["q_proj", "lm_head"]}, "adapter.not-supported", "changes lm_head"),
    ("LlamaForCausalLM", {"enable_lora": False}, {}, "adapter.not-served", "cannot be asked for: enable_lora is false"),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "options", "adapter", "code", "said"), REFUSED)
def test_adapters_that_would_be_left_out_of_account_are_refused_by_name(
    folder: Path, architecture: str, options: dict[str, Any], adapter: dict[str, Any], code: str, said: str
) -> None:
    (problem,) = told(model(folder, architecture, **adapter), **options)
    assert problem.code == code
    assert re.search(said, str(problem)), str(problem)


ROOM = {"lora_target_modules": ["attn_q", "attn_k", "attn_v"], "max_lora_rank": 8}
WITH = changed(changed(NEW, "build_config", "lora_config", value=ROOM), "build_config", "plugin_config", "lora_plugin",
               value="auto")  # fmt: skip
WITHOUT = changed(WITH, "build_config", "plugin_config", "lora_plugin", value=None)
BUILT = [
    (WITH, {}, ""),
    (WITH, {"max_lora_rank": 4}, ""),
    (WITH, {"max_lora_rank": 32}, "were built with max_lora_rank=8, max_lora_rank=32"),
    (WITHOUT, {}, r"enable_lora=true, but the engines were built without adapters \(their lora_plugin is off\)"),
    (NEW, {}, "enable_lora=true, but the engines were built without adapters"),
    (NEW, {"enable_lora": False}, ""),
]


@pytest.mark.parametrize(("content", "options", "said"), BUILT)
def test_engines_built_before_serve_adapters_where_they_were_built_for_them(
    content: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    found = told(saved(content), tensor_parallel_degree=2, **options)
    assert [each.code for each in found] == ["model.compiled-otherwise"] * bool(said)
    assert all(re.search(said, each.message) for each in found), found


def test_room_for_adapters_is_what_engines_built_before_have() -> None:
    found = engine_arguments(saved(WITH), TrtllmConfig(enable_lora=True, tensor_parallel_degree=2, max_cpu_loras=6))
    room = found.keywords["lora_config"].keywords
    assert room == {"max_loras": 4, "max_cpu_loras": 6, **{**ROOM, "max_lora_rank": 8}}
    assert found.n_adapters == 6 and found.keywords["enable_lora"] is True


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"max_loras": 2}, "config.no-effect", "max_loras=2 changes nothing: enable_lora is false"),
        ({"max_cpu_loras": 2}, "config.no-effect", "max_cpu_loras=2 changes nothing"),
        ({"max_lora_rank": 64}, "config.no-effect", "max_lora_rank=64 changes nothing"),
        (
            {"enable_lora": True, "max_cpu_loras": 2, "max_loras": 3}, "config.conflict",
            "max_cpu_loras=2 is less than max_loras=3",
        ),
    ],
)  # fmt: skip
def test_options_of_adapters_need_adapters(options: dict[str, Any], code: str, said: str) -> None:
    (found,) = TrtllmConfig(**options).conflicts()
    assert found.code == code and said in found.message
