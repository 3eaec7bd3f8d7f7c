# SPDX-License-Identifier: Apache-2.0
"""Everything that would stop a model on lmi-dist, as its small files, the names of the others and the options tell."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import (
    ArtifactFormat,
    ModelArtifacts,
    Problem,
    Target,
    adapter_problems,
    context_problems,
    degree_problems,
    merging_problems,
    quantization_of,
    shape_of,
    unserved_adapters,
)
from lmi_hf.architectures import check_code, other_heads, other_task
from lmi_hf.lmi_dist.config import DistConfig


def find_problems(artifacts: ModelArtifacts, config: DistConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Opens no file, touches no device."""
    shape = shape_of(artifacts)
    sizes = {
        "attention heads": shape.n_heads,
        "key-value heads": shape.n_kv_heads,
        "feed-forward numbers": shape.intermediate,
        "tokens of the vocabulary": shape.vocab,
    }
    otherwise = "or use option.rolling_batch=deepspeed, which splits unevenly"
    other = other_heads(artifacts)
    return [
        *([other_task(artifacts, ", ".join(other), "lmi-dist")] if other else []),
        *check_code(artifacts, trust_remote_code=config.trust_remote_code),
        *degree_problems(artifacts, config.tensor_parallel_degree, sizes, otherwise),
        *context_problems(artifacts, config.max_model_len),
        *_check_quantization(artifacts, config),
        *_check_adapters(artifacts, config),
    ]


def _check_adapters(artifacts: ModelArtifacts, config: DistConfig) -> list[Problem]:
    """An adapter that is served as the model is merged into its base; those beside a model are asked for by name."""
    if artifacts.format is ArtifactFormat.ADAPTER:
        return merging_problems(artifacts)
    if not config.enable_lora:
        return unserved_adapters(artifacts, "enable_lora is false", "Set option.enable_lora=true", "enable_lora")
    return adapter_problems(artifacts, max_rank=config.max_lora_rank)


def _check_quantization(artifacts: ModelArtifacts, config: DistConfig) -> Iterator[Problem]:
    asked, found = config.quantize, str(quantization_of(artifacts).get("quant_method") or "")
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
    elif asked is not None and found not in (asked, "unknown"):
        yield Problem(
            code="config.quantize",
            message=f"quantize is {asked}, but the checkpoint is compressed with {found}",
            hint="Remove option.quantize",
            path=artifacts.folder,
            fields=("quantize",),
        )
