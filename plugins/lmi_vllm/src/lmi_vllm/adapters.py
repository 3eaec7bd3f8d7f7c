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
from lmi_vllm.architectures import takes_adapters
from lmi_vllm.config import VLLMConfig
from lmi_vllm.names import LORA_RANKS

_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Ways to draw the first weights that leave the base model as it is."""

_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "a bias of its own (lora_bias)",
    "alora_invocation_tokens": "invocation tokens (activated LoRA)",
    "layer_replication": "replicated layers (layer_replication)",
    "use_bdlora": "block-diagonal matrices (use_bdlora)",
    "use_qalora": "QALoRA",
}
"""Settings of PEFT that vLLM's loader refuses, and what they mean."""


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
    for reason in _refusals(adapter) if adapter.config else ():
        yield adapter_problem(
            "adapter.not-supported",
            artifacts,
            adapter,
            f"has {reason}, which vLLM does not take",
            "Merge it into the model (peft: merge_and_unload), or train a plain LoRA adapter",
        )


def _refusals(adapter: Adapter) -> Iterator[str]:
    config = adapter.config
    if adapter.method != "LORA":
        yield f"the method {adapter.method}"
        return
    yield from (meaning for name, meaning in _REFUSED.items() if config.get(name))
    if config.get("bias", "none") != "none":
        yield f"a trained bias (bias={config['bias']})"
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        yield f"a start that changes the base model (init_lora_weights={start})"
    saved = config.get("modules_to_save")
    whole = [str(each) for each in saved if each not in ("classifier", "score")] if isinstance(saved, list) else []
    if whole:
        yield f"whole matrices (modules_to_save: {', '.join(whole)})"
