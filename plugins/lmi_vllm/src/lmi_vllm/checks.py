# SPDX-License-Identifier: Apache-2.0
"""Everything that would stop a model on vLLM, found in its small files and the names of the others."""

from __future__ import annotations

import os
from collections.abc import Iterator

from lmi.api import (
    ArtifactFormat,
    ModelArtifacts,
    Problem,
    Target,
    context_problems,
    degree_problems,
    shape_of,
)
from lmi.api.shapes import language_part
from lmi_vllm.adapters import check_adapters
from lmi_vllm.architectures import check_architecture
from lmi_vllm.compressed import capability_of, check_quantization
from lmi_vllm.config import VLLMConfig
from lmi_vllm.on_cpu import check_cpu
from lmi_vllm.tasks import check_task

_NOT_IN_FP16 = ("gemma2", "gemma3", "gemma3_text", "glm4")
"""Model types that overflow in fp16; vLLM refuses them."""

_SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""Ways to stretch positions whose limit in config.json is that of the stretched model."""

_VOCABULARY_STEP = 64
"""vLLM fills the vocabulary up to a multiple of this before it is divided among devices."""

_FORMS: dict[tuple[str, str], tuple[str | tuple[str, ...], str | tuple[str, ...], str]] = {
    ("config_format", "mistral"): ("params.json", "", "params.json"),
    ("config_format", "hf"): ("config.json", "", "config.json"),
    ("load_format", "safetensors"): ("", ".safetensors", "*.safetensors"),
    ("load_format", "mistral"): ("consolidated", ".safetensors", "consolidated*.safetensors"),
    ("load_format", "pt"): ("", (".bin", ".pt"), "*.bin or *.pt"),
    ("tokenizer_mode", "mistral"): (("tekken", "tokenizer.model"), "", "tekken.json or tokenizer.model.v*"),
}
"""Option and value -> how the name of a file begins and ends that it needs, and how people write it."""


def find_problems(artifacts: ModelArtifacts, config: VLLMConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Opens no file, touches no device."""
    if artifacts.format is ArtifactFormat.NONE:
        return []
    return [
        *check_architecture(artifacts, config, target),
        *check_task(artifacts, config),
        *_check_degree(artifacts, config),
        *_check_stages(artifacts, config),
        *_check_context(artifacts, config),
        *check_quantization(artifacts, config, target),
        *_check_dtype(artifacts, config, target),
        *_check_files(artifacts, config),
        *check_adapters(artifacts, config),
        *check_cpu(artifacts, config, target),
    ]


def _check_stages(artifacts: ModelArtifacts, config: VLLMConfig) -> Iterator[Problem]:
    n_stages, n_layers = config.pipeline_parallel_degree, shape_of(artifacts).n_layers
    if n_stages > n_layers > 0:
        yield Problem(
            code="config.pipeline-parallel",
            message=f"pipeline_parallel_degree is {n_stages}; the model has {n_layers} layers to spread",
            hint=f"Set option.pipeline_parallel_degree={n_layers} or less",
            path=artifacts.folder,
            fields=("pipeline_parallel_degree",),
        )


def _check_degree(artifacts: ModelArtifacts, config: VLLMConfig) -> Iterator[Problem]:
    degree = config.tensor_parallel_degree
    if degree == 1:
        return
    shape = shape_of(artifacts)
    n_kv = 0 if shape.is_latent else shape.n_kv_heads
    sizes = {
        "attention heads": shape.n_heads,
        # Where there are fewer key-value heads than devices, each is copied to as many devices as share it.
        "key-value heads": n_kv if n_kv >= degree or degree % max(n_kv, 1) else 0,
        "feed-forward numbers": 0 if shape.n_experts else shape.intermediate,
        "tokens of the vocabulary": -(-shape.vocab // _VOCABULARY_STEP) * _VOCABULARY_STEP,
    }
    yield from degree_problems(artifacts, degree, sizes)


def _check_context(artifacts: ModelArtifacts, config: VLLMConfig) -> Iterator[Problem]:
    asked, limit = config.max_model_len or 0, artifacts.max_context_tokens
    own_limit = artifacts.config.get("model_max_length")
    if getattr(config, "hf_overrides", None) or asked <= limit * _stretch(artifacts):
        return
    if isinstance(own_limit, int) and asked <= own_limit:
        return
    if os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "").lower() in ("1", "true"):
        return
    yield from context_problems(artifacts, asked)


def _stretch(artifacts: ModelArtifacts) -> float:
    """By how much the context is longer than config.json says, as its rotary positions tell."""
    text = language_part(artifacts.config)
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(rope, dict) or "gemma3" in artifacts.model_type:
        return 1.0
    layers = [each for each in rope.values() if isinstance(each, dict)] or [rope]  # one for each kind of layer
    factors = [
        each.get("factor") for each in layers if (each.get("rope_type") or each.get("type")) not in _SCALED_ALREADY
    ]
    return max((float(each) for each in factors if isinstance(each, (int, float))), default=1.0)


def _check_dtype(artifacts: ModelArtifacts, config: VLLMConfig, target: Target) -> Iterator[Problem]:
    if config.dtype == "fp16" and artifacts.model_type in _NOT_IN_FP16:
        yield Problem(
            code="config.dtype",
            message=f"dtype is fp16, in which {artifacts.model_type} models overflow; vLLM refuses it",
            hint="Set option.dtype=bf16 or leave it out",
            path=artifacts.folder,
            fields=("dtype",),
        )
    capability = capability_of(target)
    if config.dtype == "bf16" and 0 < capability < 80:
        device = target.device_name or "this device"
        yield Problem(
            code="config.dtype",
            message=f"dtype is bf16, which needs compute capability 8.0; {device} has {capability / 10:.1f}",
            hint="Set option.dtype=fp16 or leave it out",
            fields=("dtype",),
        )


def _check_files(artifacts: ModelArtifacts, config: VLLMConfig) -> Iterator[Problem]:
    """Files without which the model cannot be read in the way that options ask for."""
    names = [name for name in artifacts.files if "/" not in name]
    for (field, value), (starts, ends, shown) in _FORMS.items():
        if getattr(config, field) != value or not names or (field == "tokenizer_mode" and _has_other_tokenizer(config)):
            continue
        if not any(name.startswith(starts) and name.endswith(ends) for name in names):
            yield Problem(
                code="artifacts.file-missing",
                message=f"{field} is {value}, and the model has no {shown}",
                hint=f"Leave option.{field} out; vLLM finds what is there",
                path=artifacts.folder,
                fields=(field,),
            )
    if config.load_format == "gguf":
        yield Problem(
            code="model.quantization-not-served",
            message="load_format is gguf, which vLLM does not read any more",
            hint="Use the checkpoint that the GGUF file was made from",
            path=artifacts.folder,
            fields=("load_format",),
        )


def _has_other_tokenizer(config: VLLMConfig) -> bool:
    return bool(getattr(config, "tokenizer", None))
