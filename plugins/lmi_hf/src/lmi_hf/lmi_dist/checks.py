# SPDX-License-Identifier: Apache-2.0
"""Everything that would stop a model on lmi-dist, as its config.json and the options tell."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import ModelArtifacts, Problem, Target
from lmi_hf.lmi_dist.config import DistConfig

_SPLIT = {
    "attention heads": ("num_attention_heads", "n_head"),
    "key-value heads": ("num_key_value_heads", "num_kv_heads"),
    "intermediate size": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
}
"""What every rank gets an equal part of, and how config.json calls it."""


def find_problems(artifacts: ModelArtifacts, config: DistConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Reads no file, touches no device."""
    return [
        *_check_degree(artifacts, config),
        *_check_context(artifacts, config),
        *_check_quantization(artifacts, config),
    ]


def _check_degree(artifacts: ModelArtifacts, config: DistConfig) -> Iterator[Problem]:
    n = config.tensor_parallel_degree
    sizes = {what: size for what, keys in _SPLIT.items() if (size := _number(artifacts, keys))}
    uneven = [f"{size} ({what})" for what, size in sizes.items() if size % n]
    if not uneven:
        return
    fitting = [each for each in range(1, n) if not any(size % each for size in sizes.values())]
    yield Problem(
        code="config.tensor-parallel",
        message=f"tensor_parallel_degree is {n}, which does not divide the model's {', '.join(uneven)}",
        hint=f"Set option.tensor_parallel_degree to one of {', '.join(map(str, fitting))}, or use "
        "option.rolling_batch=deepspeed, which splits unevenly",
        path=artifacts.folder,
        fields=("tensor_parallel_degree",),
    )


def _number(artifacts: ModelArtifacts, keys: tuple[str, ...]) -> int:
    """The first of these keys of config.json that is a positive number, else 0."""
    found = (artifacts.config.get(key) for key in keys)
    return next((each for each in found if isinstance(each, int) and each > 0), 0)


def _check_context(artifacts: ModelArtifacts, config: DistConfig) -> Iterator[Problem]:
    asked, limit = config.max_model_len, artifacts.max_context_tokens
    if limit and asked is not None and asked > limit:
        yield Problem(
            code="config.max-model-len",
            message=f"max_model_len is {asked} tokens, the model takes {limit}",
            hint=f"Set option.max_model_len={limit} or leave it out",
            fields=("max_model_len",),
        )


def _check_quantization(artifacts: ModelArtifacts, config: DistConfig) -> Iterator[Problem]:
    asked = config.quantize
    given = artifacts.config.get("quantization_config")
    found = str(given.get("quant_method") or "") if isinstance(given, dict) else ""
    if found == "squeezellm":
        yield Problem(
            code="model.quantization-not-served",
            message="the checkpoint is compressed with squeezellm, which no maintained library reads",
            hint="Use a checkpoint of the same model compressed with gptq or awq",
            path=artifacts.folder,
        )
    elif asked is not None and not found:
        yield Problem(
            code="model.not-quantized",
            message=f"quantize is {asked}, but config.json has no quantization_config",
            hint="Use a checkpoint that was compressed so, or remove option.quantize",
            path=artifacts.folder,
            fields=("quantize",),
        )
    elif asked is not None and asked != found:
        yield Problem(
            code="config.quantize",
            message=f"quantize is {asked}, but the checkpoint is compressed with {found}",
            hint="Remove option.quantize",
            path=artifacts.folder,
            fields=("quantize",),
        )
