# SPDX-License-Identifier: Apache-2.0
"""Load one rank's part of a model: each tensor split as transformers' own plan for the architecture says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmi.api import ArtifactFormat, Draft, ModelArtifacts, Progress, Ranks, Stepper, StepperLimits
from lmi_hf.engine import (
    Wishes,
    choose_dtype,
    config_of,
    context_limit,
    load_pretrained,
    model_of,
    read_config,
    stepper_of,
)
from lmi_hf.lmi_dist.weights import merged_model, random_model

if TYPE_CHECKING:
    from lmi_hf.lmi_dist.config import DistConfig


def load_stepper(
    artifacts: ModelArtifacts, config: DistConfig, ranks: Ranks, n_threads: int, progress: Progress
) -> Stepper:
    """Load this rank's part of the weights and return what steps it; all ranks must be stepped alike.

    Args:
        artifacts: the model; for an adapter, its base model is loaded and the adapter merged into it.
        config: options.
        ranks: which part this is.
        n_threads: processor threads of this process.
        progress: told the stages.
    Raises:
        EngineLoadError: transformers refused the model; the cause is kept.
        OutOfMemoryError: it does not fit.
    """
    draft = None
    if config.n_proposed and (ranks.rank == 0 or config.draft_model_tp_size > 1):
        draft = _load_draft(artifacts, config, ranks, progress)
    wishes = Wishes(
        max_slots=config.max_rolling_batch_size,
        max_context_tokens=config.max_model_len or 0,
        chunk_tokens=config.max_rolling_batch_prefill_tokens or 0,
        memory_share=config.gpu_memory_utilization,
        token_bytes_beside=_token_bytes(draft),
    )
    stepper = stepper_of(
        artifacts, lambda: _load_model(artifacts, config, ranks, progress), wishes, n_threads, progress
    )
    if draft is not None:
        stepper.draft = _draft_of(draft, config, stepper.limits, progress)
    return stepper


def _load_draft(artifacts: ModelArtifacts, config: DistConfig, ranks: Ranks, progress: Progress) -> Any:
    """The model that guesses: whole, on rank 0, or split over all ranks. Its weights are there before a cache is."""
    found = artifacts.further.get("speculative_draft_model")
    name = str(config.speculative_draft_model) if found is None else found.folder  # else it is a name on the hub
    progress("load draft model")
    is_split = config.draft_model_tp_size > 1
    model_config = config_of(name, trust_remote_code=config.trust_remote_code)
    return model_of(name, _arguments(config, model_config, ranks if is_split else Ranks()))


def _token_bytes(draft: Any) -> int:
    from lmi_hf.stepping import cache_token_bytes

    return 0 if draft is None else cache_token_bytes(draft)


def _draft_of(model: Any, config: DistConfig, limits: StepperLimits, progress: Progress) -> Draft:
    """What steps the model that guesses, with room for the tokens that the other one has room for."""
    from lmi_hf.stepping import StepperOptions, build_stepper

    options = StepperOptions(
        max_slots=limits.max_slots,
        max_context_tokens=min(limits.max_context_tokens, context_limit(model) or limits.max_context_tokens),
        cache_bytes=limits.kv_capacity_tokens * _token_bytes(model),
        prefill_chunk_tokens=limits.prefill_chunk_tokens or 512,
    )
    stepper = build_stepper(model, options, progress)
    return Draft(stepper=stepper, n_tokens=config.n_proposed, is_logged=config.record_acceptance_rate)


def _load_model(artifacts: ModelArtifacts, config: DistConfig, ranks: Ranks, progress: Progress) -> Any:
    model_config = read_config(artifacts, progress, trust_remote_code=config.trust_remote_code)
    arguments = _arguments(config, model_config, ranks)
    if config.load_format == "dummy":
        return random_model(arguments, progress)
    arguments["use_safetensors"] = {"safetensors": True, "pt": False}.get(config.load_format)
    if artifacts.format is ArtifactFormat.ADAPTER and ranks.size > 1:
        return merged_model(artifacts, arguments, progress)
    is_quantized = getattr(model_config, "quantization_config", None) is not None
    return load_pretrained(artifacts, arguments, progress, is_quantized=is_quantized)


def _arguments(config: DistConfig, model_config: Any, ranks: Ranks) -> dict[str, Any]:
    """Of transformers' ``from_pretrained``, for this rank's part of a model."""
    import torch
    from transformers.distributed.configuration_utils import DistributedConfig

    arguments: dict[str, Any] = {
        "config": model_config,
        "dtype": choose_dtype(config.dtype, model_config),
        "trust_remote_code": config.trust_remote_code,
    }
    if ranks.size > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(ranks.local_rank)
        arguments["distributed_config"] = DistributedConfig(tp_size=ranks.size)
    elif torch.cuda.is_available():
        arguments["device_map"] = "cuda:0"
    return arguments
