# SPDX-License-Identifier: Apache-2.0
"""Engines built before, as tests describe them, and what trtllm finds wrong with them."""

from __future__ import annotations

import json
from typing import Any

import lmi_trtllm
from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Target
from lmi_trtllm.config import TrtllmConfig
from tests.backends.placing import placed

A10G = Target(
    accelerator=Accelerator.CUDA, n_devices=4, device_name="NVIDIA A10G", compute_capability="8.6",
    versions={"tensorrt-llm": "0.7.1"},
)  # fmt: skip

HF = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_attention_heads": 32}
OLD = {
    "builder_config": {
        "name": "llama", "precision": "float16", "tensor_parallel": 2, "pipeline_parallel": 1, "max_batch_size": 16,
        "max_input_len": 1024, "max_output_len": 512, "max_num_tokens": 8192,
    },
    "plugin_config": {"paged_kv_cache": True, "remove_input_padding": True, "use_paged_context_fmha": False,
                      "tokens_per_block": 64},
}  # fmt: skip
NEW = {
    "version": "0.7.1",  # of the target, so that only what a row changes is told
    "pretrained_config": {
        "architecture": "LlamaForCausalLM", "dtype": "bfloat16", "quantization": {"quant_algo": "FP8"},
        "mapping": {"world_size": 4, "tp_size": 2, "pp_size": 2},
    },
    "build_config": {
        "max_batch_size": 64, "max_input_len": 2048, "max_seq_len": 4096, "max_num_tokens": 8192,
        "plugin_config": {"paged_kv_cache": True, "use_paged_context_fmha": True},
    },
}  # fmt: skip
PBTXT = """
name: "tensorrt_llm"
# decoupled: False is what an example said
model_transaction_policy { decoupled: True }
parameters: { key: "gpt_model_type" value: { string_value: "inflight_fused_batching" } }
parameters {
  key: "gpt_model_path"
  value: { string_value: "/models/tensorrt_llm/1" }
}
parameters: { key: "max_tokens_in_paged_kv_cache" value: { string_value: "${max_tokens_in_paged_kv_cache}" } }
"""


def changed(config: dict[str, Any], *path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a path; None removes it."""
    copy = json.loads(json.dumps(config))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    if value is None:
        del inner[path[-1]]
    return copy


def repository(
    config: dict[str, Any] | None = OLD, *, ranks: tuple[int, ...] = (0, 1), pbtxt: str = PBTXT,
    folder: str = "/models/repo", inner: str = "tensorrt_llm", name: str = "trt_llm_model_float16_tp2_rank",
    strays: tuple[str, ...] = (),
) -> ModelArtifacts:  # fmt: skip
    """A repository as compiling ahead of time leaves it; ``inner`` is empty where the inner folder is given itself."""
    start = f"{inner}/" if inner else ""
    files = {f"{start}{each}": 9 for each in ("config.pbtxt", "config.json", "tokenizer_config.json", "1/model.cache")}
    files |= {f"{start}1/{name}{rank}.engine": 1 << 30 for rank in ranks}
    files |= {f"{start}1/{each}": 1 << 30 for each in strays}
    documents: dict[str, Any] = {f"{start}config.pbtxt": pbtxt, f"{start}config.json": HF}
    if config is not None:
        files[f"{start}1/config.json"] = 9
        documents[f"{start}1/config.json"] = config
    return ModelArtifacts(
        folder=folder, format=ArtifactFormat.TRITON_REPOSITORY, inner=inner, config=HF,
        architectures=("LlamaForCausalLM",), model_type="llama", files=files, documents=documents,
        weight_files=tuple(each for each in files if each.endswith(".engine")),
    )  # fmt: skip


def saved(config: dict[str, Any] = NEW, *, ranks: tuple[int, ...] = (0, 1, 2, 3)) -> ModelArtifacts:
    """Engines as the library saves them."""
    return ModelArtifacts(
        folder="s3://bucket/engines", format=ArtifactFormat.ENGINES, config=config,
        architectures=(config["pretrained_config"]["architecture"],),
        files={"config.json": 9, **{f"rank{rank}.engine": 1 << 30 for rank in ranks}},
        weight_files=tuple(f"rank{rank}.engine" for rank in ranks),
        documents={"config.json": config},
    )  # fmt: skip


def checked(artifacts: ModelArtifacts, target: Target = A10G, **options: Any) -> list[Problem]:
    options = {"tensor_parallel_degree": 2, **options}
    return placed(lmi_trtllm.lmi_validate_artifacts(artifacts, TrtllmConfig(**options), target), TrtllmConfig)


def told(artifacts: ModelArtifacts, target: Target = A10G, **options: Any) -> list[Problem]:
    """What is wrong besides that nothing says on which GPU, and by which version, old engines were built."""
    return [each for each in checked(artifacts, target, **options) if each.code != "model.compiled-elsewhere"]
