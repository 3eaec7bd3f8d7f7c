# SPDX-License-Identifier: Apache-2.0
"""Adapters: what would stop those that requests name, and where the base model of one is loaded from."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lmi.api import (
    Adapter,
    ArtifactFormat,
    ModelArtifacts,
    Problem,
    adapter_problem,
    adapter_problems,
    adapters_of,
    task_of,
    unserved_adapters,
)
from lmi.api.adapters import beyond_lora
from lmi.api.merging import base_of
from lmi_hf.config import HFConfig
from lmi_hf.needs import check_peft
from lmi_hf.tasks.checks import HEADS

_ENDS = frozenset({"embed_tokens", "lm_head"})
"""The first and the last matrix, which take no adapter here."""


def check_adapters(artifacts: ModelArtifacts, config: HFConfig) -> Iterator[Problem]:
    """Judge ``adapters/`` by the options of adapters and by what can be added to a step."""
    if not config.enable_lora:
        hint = "Set option.enable_lora=true"
        yield from unserved_adapters(artifacts, "enable_lora is false", hint, "enable_lora")
        return
    task = task_of(artifacts, config.task)
    if task in HEADS:
        yield Problem(
            code="adapter.not-supported",
            message=f"enable_lora is true, and hf takes no adapters for {task.value}",
            hint="Remove option.enable_lora and serve a model the adapter was merged into",
            path=artifacts.folder,
            fields=("enable_lora",),
        )
        return
    yield from check_peft("enable_lora=true", "enable_lora")
    if artifacts.format is not ArtifactFormat.ADAPTER:  # that one becomes a part of the model
        yield from adapter_problems(artifacts, max_rank=config.max_lora_rank or 0)
        for adapter in adapters_of(artifacts):
            yield from _check_kind(artifacts, adapter)


def _check_kind(artifacts: ModelArtifacts, adapter: Adapter) -> Iterator[Problem]:
    if not adapter.config:
        return
    reasons = list(beyond_lora(adapter))
    modules = adapter.config.get("target_modules")
    ends = sorted(_ENDS.intersection(modules)) if isinstance(modules, list) else []
    if ends:
        reasons.append(f"a part for {' and '.join(ends)}")
    for reason in reasons:
        yield adapter_problem(
            "adapter.not-supported",
            artifacts,
            adapter,
            f"has {reason}, which hf does not take",
            "Merge it into the model (peft: merge_and_unload), or train a plain LoRA adapter",
        )


def base_location(artifacts: ModelArtifacts) -> str:
    """Where an adapter's base model is loaded from: an absolute folder, or the name on the hub as it stands.

    Args:
        artifacts: an adapter on this machine; its file is read where the description lacks it.
    """
    start = base_of(artifacts) or _read_base(artifacts)
    folder = artifacts.path / start  # an absolute start stays as it is
    return str(folder) if folder.is_dir() else start


def _read_base(artifacts: ModelArtifacts) -> str:
    try:
        content = json.loads((artifacts.path / "adapter_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(content.get("base_model_name_or_path") or "") if isinstance(content, dict) else ""
