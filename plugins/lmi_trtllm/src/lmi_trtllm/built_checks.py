# SPDX-License-Identifier: Apache-2.0
"""What would stop a model that was built before: its engines against the options and the machine."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Severity, Target
from lmi_trtllm.built import BuiltEngines, joined, read_built, section
from lmi_trtllm.config import BATCH_WITH_TOKEN_LIMIT, TrtllmConfig
from lmi_trtllm.conflicts import differs, said
from lmi_trtllm.portability import check_portability
from lmi_trtllm.triton import check_triton

_LIMIT_OF = {
    "max_rolling_batch_size": "max_batch_size",
    "max_num_sequences": "max_batch_size",
    "max_input_len": "max_input_len",
    "max_output_len": "max_output_len",
    "max_num_tokens": "max_num_tokens",
    "max_draft_len": "max_draft_len",
}
"""Option -> the limit of the engines that it may not exceed."""

_FOR_BATCHING = ("paged_kv_cache", "remove_input_padding")
"""Plugins of the build without which engines cannot take requests in flight."""


def find_built_problems(artifacts: ModelArtifacts, config: TrtllmConfig, target: Target) -> Iterator[Problem]:
    """Everything about built engines."""
    engines = read_built(artifacts)
    yield from _check_files(artifacts, engines)
    yield from _check_degrees(artifacts, engines, config, target)
    yield from _check_limits(artifacts, engines, config)
    yield from _check_plugins(artifacts, engines, config)
    yield from _check_build_options(artifacts, engines, config)
    if artifacts.format is ArtifactFormat.TRITON_REPOSITORY:
        yield from check_triton(artifacts, engines, config)
    yield from check_portability(artifacts, engines, target)


def _check_files(artifacts: ModelArtifacts, engines: BuiltEngines) -> Iterator[Problem]:
    place = joined(artifacts.folder, engines.folder) if engines.folder else artifacts.folder
    content = artifacts.documents.get(engines.config_name)
    is_told = artifacts.format is ArtifactFormat.ENGINES and not isinstance(content, dict)  # by the core
    if not engines.has_config and not is_told:
        is_there = engines.config_name in artifacts.files
        yield Problem(
            code="config.unreadable" if is_there else "config.missing",
            message=f"{engines.config_name} " + ("says nothing of engines" if is_there else "is not there"),
            hint="The build writes it beside the engines; copy it from there",
            path=joined(artifacts.folder, engines.config_name),
        )
    n_ranks = engines.n_ranks or max(engines.ranks, default=0) + 1
    missing = [str(rank) for rank in range(n_ranks) if rank not in engines.ranks]
    if missing and artifacts.weight_files:  # no engine at all is told by the core
        yield Problem(
            code="weights.rank-missing",
            message=f"the model was built for {n_ranks} ranks, and there is no engine of rank {', '.join(missing)}",
            hint="Copy every *_rank<N>.engine or rank<N>.engine of the build into this folder",
            path=place,
        )
    extra = [str(rank) for rank in engines.ranks if engines.n_ranks and rank >= engines.n_ranks]
    if extra:
        yield Problem(
            code="weights.rank-extra",
            message=f"the model was built for {engines.n_ranks} ranks, and there are engines of rank "
            f"{', '.join(extra)} besides; they are of another build",
            hint="Remove what is not of this build",
            path=place,
            severity=Severity.WARNING,
        )


def _check_degrees(
    artifacts: ModelArtifacts, engines: BuiltEngines, config: TrtllmConfig, target: Target
) -> Iterator[Problem]:
    built, degree = engines.tensor_parallel, config.tensor_parallel_degree
    if built and built != degree:
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {degree}, the engines were built for {built}",
            hint=f"Set option.tensor_parallel_degree={built}, or build the engines anew",
            path=artifacts.folder,
            fields=("tensor_parallel_degree",),
        )
    stages, name = engines.pipeline_parallel or 1, "pipeline_parallel_degree"
    if engines.has_config and config.pipeline_parallel_degree != stages and name in config.model_fields_set:
        yield Problem(
            code="model.compiled-otherwise",
            message=f"the engines were built for {stages} pipeline stage{'s' * (stages > 1)}, {said(config, name)}",
            hint=f"Set option.{name}={stages} or leave it out, or build the engines anew",
            path=artifacts.folder,
            severity=Severity.ERROR if differs(config, name) else Severity.WARNING,
            fields=(name,),
        )
    is_told = degree > target.n_devices
    if target.accelerator is Accelerator.CUDA and 0 < target.n_devices < engines.n_ranks and not is_told:
        yield Problem(
            code="device.too-few",
            message=f"the engines were built for {engines.n_ranks} GPUs, and there {_are(target.n_devices)}",
            hint=f"Serve them on a machine with {engines.n_ranks}, or build them for {target.n_devices}",
            path=artifacts.folder,
        )


def _check_limits(artifacts: ModelArtifacts, engines: BuiltEngines, config: TrtllmConfig) -> Iterator[Problem]:
    """An option left out takes what the engines have; one that says its default stops nothing."""
    for name, limit_name in _LIMIT_OF.items():
        limit, asked = engines.limits.get(limit_name, 0), getattr(config, name)
        if limit and asked is not None and asked > limit and name in config.model_fields_set:
            yield Problem(
                code="model.compiled-otherwise",
                message=f"the engines were built with {limit_name}={limit}, {said(config, name)}",
                hint=f"Set option.{name}={limit} or leave it out, or build the engines anew",
                path=artifacts.folder,
                severity=_severity(config, name),
                fields=tuple(dict.fromkeys((name, limit_name))) if limit_name in _LIMIT_OF else (name,),
            )
    limit = engines.limits.get("max_seq_len", 0)
    names = [name for name in ("max_input_len", "max_output_len") if name in config.model_fields_set]
    n_tokens = sum(getattr(config, name) for name in names)
    trained_for = section(artifacts.document(engines.config_name), "pretrained_config").get("max_position_embeddings")
    is_models_own = limit == trained_for  # no build would have more
    if limit and "max_output_len" not in engines.limits and n_tokens > limit and not is_models_own:
        yield Problem(
            code="model.compiled-otherwise",
            message=f"the engines were built with max_seq_len={limit} for prompt and output, "
            f"{' and '.join(said(config, name) for name in names)}",
            hint=f"Lower them to {limit} together, or build the engines anew",
            path=artifacts.folder,
            severity=Severity.ERROR if any(differs(config, name) for name in names) else Severity.WARNING,
            fields=tuple(names),
        )


def _severity(config: TrtllmConfig, name: str) -> Severity:
    follows = config.max_num_tokens is not None and getattr(config, name) == BATCH_WITH_TOKEN_LIMIT
    return Severity.ERROR if differs(config, name) and not follows else Severity.WARNING


def _check_plugins(artifacts: ModelArtifacts, engines: BuiltEngines, config: TrtllmConfig) -> Iterator[Problem]:
    lacking = [name for name in _FOR_BATCHING if engines.plugins.get(name) is False]
    if lacking:
        yield Problem(
            code="model.compiled-otherwise",
            message=f"the engines were built without {' and '.join(lacking)}, so they cannot batch requests in flight",
            hint=f"Build them anew with {' '.join(f'--{name} enable' for name in lacking)}",
            path=joined(artifacts.folder, engines.config_name),
        )
    if config.enable_kv_cache_reuse and engines.plugins.get("use_paged_context_fmha") is False:
        yield Problem(
            code="config.conflict",
            message="enable_kv_cache_reuse=true, but the engines were built without use_paged_context_fmha",
            hint="Remove option.enable_kv_cache_reuse, or build the engines with --use_paged_context_fmha enable",
            path=artifacts.folder,
            fields=("enable_kv_cache_reuse",),
        )


def _check_build_options(artifacts: ModelArtifacts, engines: BuiltEngines, config: TrtllmConfig) -> Iterator[Problem]:
    """Options of the build, which is over."""
    if config.backend == "pytorch":
        yield Problem(
            code="config.conflict",
            message="backend=pytorch loads weights, and this model is built engines",
            hint="Remove option.backend, or name the model that the engines were built from",
            path=artifacts.folder,
            fields=("backend",),
        )
    if config.quantize is not None:
        how = f" ({engines.quantization})" if engines.quantization else ""
        yield _of_no_effect(
            artifacts, config, "quantize", f"applied while a model is built; this one is built already{how}"
        )
    if config.dtype != "auto" and differs(config, "dtype") and engines.dtype not in ("", config.dtype):
        yield _of_no_effect(
            artifacts, config, "dtype", f"chosen while a model is built; these engines compute in {engines.dtype}"
        )
    if config.gather_context_logits and not engines.gathers_prompt_logits:
        yield Problem(
            code="model.compiled-otherwise",
            message="gather_context_logits=true, but the engines were built without it",
            hint="Remove option.gather_context_logits, or build the engines anew with it",
            path=artifacts.folder,
            fields=("gather_context_logits",),
        )
    built = engines.plugins.get("tokens_per_block")
    if config.tokens_per_block is not None and isinstance(built, int) and built != config.tokens_per_block:
        yield _of_no_effect(
            artifacts, config, "tokens_per_block", f"chosen while a model is built; these engines have {built}"
        )


def _of_no_effect(artifacts: ModelArtifacts, config: TrtllmConfig, name: str, reason: str) -> Problem:
    return Problem(
        code="config.no-effect",
        message=f"{said(config, name)} is {reason}",
        hint=f"Remove option.{name}, unless the model is to be built anew",
        path=artifacts.folder,
        severity=Severity.WARNING,
        fields=(name,),
    )


def _are(n_devices: int) -> str:
    return "is 1" if n_devices == 1 else f"are {n_devices}"
