# SPDX-License-Identifier: Apache-2.0
"""Everything that would stop a model on vLLM, found in config.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmi.api import Accelerator, ModelArtifacts, Problem, Severity, Target
from lmi_vllm.config import VLLMConfig
from lmi_vllm.names import COMPRESSED, FOR_SEVERAL, family_of

_NOT_IN_FP16 = ("gemma2", "gemma3", "gemma3_text", "glm4")
"""Model types that overflow in fp16; vLLM refuses them."""


def find_problems(artifacts: ModelArtifacts, config: VLLMConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Reads config.json, touches no device."""
    return [
        *_check_devices(artifacts, config, target),
        *_check_context(artifacts, config),
        *_check_quantization(artifacts, config),
        *_check_dtype(artifacts, config),
    ]


def _check_devices(artifacts: ModelArtifacts, config: VLLMConfig, target: Target) -> Iterator[Problem]:
    degree = config.tensor_parallel_degree
    if degree == 1:
        return
    if target.accelerator is Accelerator.CPU:
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {degree} on CPU; vLLM then wants to be told each rank's cores",
            hint="Set the variable VLLM_CPU_OMP_THREADS_BIND (0-3|4-7), or option.tensor_parallel_degree=1",
            severity=Severity.WARNING,
            fields=("tensor_parallel_degree",),
        )
    n_heads = _of_text(artifacts, "num_attention_heads")
    if isinstance(n_heads, int) and n_heads > 0 and n_heads % degree:
        most = max(each for each in range(1, degree) if n_heads % each == 0)
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {degree}, which does not divide the model's {n_heads} attention heads",
            hint=f"Set option.tensor_parallel_degree={most}, or another divisor of {n_heads}",
            path=artifacts.folder,
            fields=("tensor_parallel_degree",),
        )


def _check_context(artifacts: ModelArtifacts, config: VLLMConfig) -> Iterator[Problem]:
    asked, limit = config.max_model_len or 0, artifacts.max_context_tokens
    is_scaled = _of_text(artifacts, "rope_scaling") or getattr(config, "hf_overrides", None)
    if limit and asked > limit and not is_scaled:
        yield Problem(
            code="config.max-model-len",
            message=f"max_model_len is {asked} tokens, the model takes {limit}",
            hint=f"Set option.max_model_len={limit} or leave it out",
            fields=("max_model_len",),
        )


def _check_quantization(artifacts: ModelArtifacts, config: VLLMConfig) -> Iterator[Problem]:
    asked = config.quantize
    if asked is None or asked in FOR_SEVERAL:
        return
    found = _method_of(artifacts)
    if found and family_of(found) != family_of(asked):
        yield Problem(
            code="config.quantize",
            message=f"quantize is {asked}, but the checkpoint is compressed with {found}",
            hint="Leave option.quantize out; vLLM finds the method in config.json",
            path=artifacts.folder,
            fields=("quantize",),
        )
    elif not found and family_of(asked) in COMPRESSED and not (artifacts.path / "quantize_config.json").is_file():
        yield Problem(
            code="model.not-quantized",
            message=f"quantize is {asked}, but config.json has no quantization_config",
            hint="Use a checkpoint that was compressed so, or quantize=fp8, which compresses while loading",
            path=artifacts.folder,
            fields=("quantize",),
        )


def _check_dtype(artifacts: ModelArtifacts, config: VLLMConfig) -> Iterator[Problem]:
    if config.dtype == "fp16" and artifacts.model_type in _NOT_IN_FP16:
        yield Problem(
            code="config.dtype",
            message=f"dtype is fp16, in which {artifacts.model_type} models overflow; vLLM refuses it",
            hint="Set option.dtype=bf16 or leave it out",
            path=artifacts.folder,
            fields=("dtype",),
        )


def _method_of(artifacts: ModelArtifacts) -> str:
    given = _of_text(artifacts, "quantization_config") or artifacts.config.get("compression_config")
    return str(given.get("quant_method") or "") if isinstance(given, dict) else ""


def _of_text(artifacts: ModelArtifacts, name: str) -> Any:
    """A value of config.json; of a multimodal model, that of its language part."""
    inner = artifacts.config.get("text_config")
    own = artifacts.config.get(name)
    return own if own is not None or not isinstance(inner, dict) else inner.get(name)
