# SPDX-License-Identifier: Apache-2.0
"""What would stop the LoRA adapters beside a model on vLLM."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import (
    Adapter,
    ModelArtifacts,
    Problem,
    adapter_problem,
    adapter_problems,
    adapters_of,
    unserved_adapters,
)
from lmi.api.adapters import beyond_lora
from lmi_vllm.architectures import takes_adapters
from lmi_vllm.config import VLLMConfig
from lmi_vllm.names import LORA_RANKS

_HEADS = ("classifier", "score")
"""Whole matrices that vLLM takes with an adapter."""


def check_adapters(artifacts: ModelArtifacts, config: VLLMConfig) -> list[Problem]:
    """Judge ``adapters/`` by the options of adapters and by what vLLM's loader takes."""
    if not config.enable_lora:
        return unserved_adapters(artifacts, "enable_lora is false", "Set option.enable_lora=true", "enable_lora")
    if not takes_adapters(artifacts):
        return [
            Problem(
                code="adapter.not-supported",
                message=f"enable_lora is true, and vLLM takes no adapters for {artifacts.architectures[0]}",
                hint="Remove option.enable_lora and serve a model the adapter was merged into",
                path=artifacts.folder,
                fields=("enable_lora",),
            )
        ]
    return [
        *adapter_problems(artifacts, max_rank=config.max_lora_rank, ranks=LORA_RANKS),
        *(problem for adapter in adapters_of(artifacts) for problem in _check_kind(artifacts, adapter)),
    ]


def _check_kind(artifacts: ModelArtifacts, adapter: Adapter) -> Iterator[Problem]:
    for reason in beyond_lora(adapter, heads=_HEADS) if adapter.config else ():
        yield adapter_problem(
            "adapter.not-supported",
            artifacts,
            adapter,
            f"has {reason}, which vLLM does not take",
            "Merge it into the model (peft: merge_and_unload), or train a plain LoRA adapter",
        )
