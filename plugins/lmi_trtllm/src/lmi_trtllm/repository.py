# SPDX-License-Identifier: Apache-2.0
"""The folder that engines are deployed from: as LMI's own script left it, which is as Triton wants its models."""

from __future__ import annotations

from pathlib import Path

from lmi.api import ModelArtifacts
from lmi.api.folders import copy_documents
from lmi_trtllm.config import TrtllmConfig

NAME = "tensorrt_llm"
"""The model's folder in the repository."""

ENGINES = "1"
"""The folder of the engines in that: Triton's name for a first version."""


def finish_repository(artifacts: ModelArtifacts, config: TrtllmConfig, output: Path) -> None:
    """Put beside built engines what makes a repository of them: tokenizer, configuration, and Triton's file.

    Args:
        artifacts: the model that the engines were built from.
        config: its options.
        output: the repository; its engines are there.
    """
    copy_documents(artifacts.path, output / NAME)
    (output / NAME / "config.pbtxt").write_text(_triton_config(config), "utf-8")


def _triton_config(config: TrtllmConfig) -> str:
    """``config.pbtxt``. Source: TensorRT-LLM's backend for Triton, whose names for what options say here they are."""
    parameters = {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": "${engine_dir}",
        "max_beam_width": 1,
        "exclude_input_in_output": True,
        "max_num_sequences": config.engine_batch_size,
        "batch_scheduler_policy": config.batch_scheduler_policy,
        "kv_cache_free_gpu_mem_fraction": config.kv_cache_free_gpu_mem_fraction,
        "enable_kv_cache_reuse": config.enable_kv_cache_reuse,
        "enable_trt_overlap": config.enable_trt_overlap,
    }
    lines = [
        "# For LMI, which needs no more. To run the engines in Triton, add the inputs and outputs that it asks for.",
        f'name: "{NAME}"',
        'backend: "tensorrtllm"',
        f"max_batch_size: {config.engine_batch_size}",
        "model_transaction_policy { decoupled: True }",
        *(f'parameters {{ key: "{key}" value: {{ string_value: "{_text(value)}" }} }}'
          for key, value in parameters.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
