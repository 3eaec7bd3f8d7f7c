# SPDX-License-Identifier: Apache-2.0
"""From options to the keywords of one of the library's LLM classes, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lmi.api import ModelArtifacts
from lmi_trtllm.adapters import MODULES, adapted_modules, largest_rank
from lmi_trtllm.built import BuiltEngines, is_built, joined, read_built
from lmi_trtllm.calls import Call, Member
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.paths import PYTORCH, way_of
from lmi_trtllm.translation import ROWS, is_called

_KEYWORD_OF = {
    "BuildConfig": "build_config",
    "CalibConfig": "calib_config",
    "ExtendedRuntimePerfKnobConfig": "extended_runtime_perf_knob_config",
    "KvCacheConfig": "kv_cache_config",
    "LoraConfig": "lora_config",
    "QuantConfig": "quant_config",
    "SchedulerConfig": "scheduler_config",
}
"""Class -> the keyword of the LLM class that takes one."""

USUAL_NUM_TOKENS = 8192
"""The library's own default of max_num_tokens."""

OF_THE_BUILD = ("build_config", "quant_config", "calib_config", "model_kwargs")
"""Keywords that say how engines are built, and nothing once they are."""


@dataclass(frozen=True, kw_only=True)
class EngineArguments:
    """What the library is called with.

    Args:
        way: PYTORCH or TENSORRT.
        model: folder of the weights, or of the built engines.
        tokenizer: folder of the tokenizer.
        keywords: all others; Call and Member stand for objects of the library's.
        is_built: whether ``model`` holds engines.
        max_prompt_tokens: longest prompt that a client may send.
        max_context_tokens: prompt and output together.
        max_batch_size: sequences that run at the same time.
        takes_prompt_logits: whether the logits of a prompt can be had.
        n_adapters: different adapters that running requests may have between them; 0: none are served.
    """

    way: str
    model: str
    tokenizer: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    is_built: bool = False
    max_prompt_tokens: int
    max_context_tokens: int
    max_batch_size: int
    takes_prompt_logits: bool = True
    n_adapters: int = 0

    def once_built(self, folder: str) -> EngineArguments:
        """The same for the engines that were built by them."""
        kept = {name: value for name, value in self.keywords.items() if name not in OF_THE_BUILD}
        return replace(self, model=folder, keywords=kept, is_built=True)


def engine_arguments(artifacts: ModelArtifacts, config: TrtllmConfig) -> EngineArguments:
    """What a model is started with.

    Args:
        artifacts: the model, on this machine.
        config: the options.
    """
    way = way_of(artifacts, config).name
    n_context = _context(artifacts, config)
    keywords = _translated(artifacts, config, way, n_context)
    keywords.update(_always(config, way, n_context))
    given = EngineArguments(
        way=way,
        model=artifacts.folder,
        tokenizer=joined(artifacts.folder, artifacts.inner) if artifacts.inner else artifacts.folder,
        keywords=keywords,
        max_prompt_tokens=min(config.engine_input_len, n_context),
        max_context_tokens=n_context,
        max_batch_size=config.engine_batch_size,
        takes_prompt_logits=way == PYTORCH or config.gather_context_logits,
        n_adapters=config.n_adapter_places if config.enable_lora else 0,
    )
    return _for_engines(given, read_built(artifacts), artifacts, config) if is_built(artifacts) else given


def _context(artifacts: ModelArtifacts, config: TrtllmConfig) -> int:
    """Prompt and output together: what the options add up to, and not more than the model was trained on."""
    n_context = config.engine_seq_len
    is_stretched = config.rotary_scaling_factor is not None
    if artifacts.max_context_tokens and not is_stretched:
        return min(n_context, artifacts.max_context_tokens)
    return n_context


def _translated(artifacts: ModelArtifacts, config: TrtllmConfig, way: str, n_context: int) -> dict[str, Any]:
    """The table of options, filled in."""
    flat: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for row in ROWS:
        cell, value = getattr(row, way), row.value(config)
        if row.option == "max_num_tokens" and value is None and n_context > USUAL_NUM_TOKENS:
            value = n_context  # a prompt is read in one step
        if not is_called(cell) or value is None:
            continue
        owner, _, name = cell.rpartition(".")
        if name in ("max_input_len", "max_seq_len"):
            value = n_context
        if owner:
            nested.setdefault(owner, {})[name] = value
        else:
            flat[name] = value
    if "model_kwargs" in nested:
        flat["model_kwargs"] = nested.pop("model_kwargs")
    if config.enable_lora:
        _adapt(artifacts, config, way, nested)
    if way != PYTORCH:
        nested["BuildConfig"]["plugin_config"] = Call(name="PluginConfig", keywords=_plugins(config, nested, n_context))
    return {**flat, **{_KEYWORD_OF[owner]: Call(name=owner, keywords=given) for owner, given in nested.items()}}


def _adapt(artifacts: ModelArtifacts, config: TrtllmConfig, way: str, nested: dict[str, dict[str, Any]]) -> None:
    """Room for adapters: in each matrix that one may change, of the largest rank."""
    shape = {
        "max_lora_rank": largest_rank(artifacts, config),
        "lora_target_modules": [MODULES[name] for name in adapted_modules(artifacts, config)],
    }
    nested["LoraConfig"].update(shape)
    if way != PYTORCH:
        nested["BuildConfig"]["lora_config"] = Call(name="LoraConfig", keywords=shape)
        nested.setdefault("PluginConfig", {})["lora_plugin"] = "auto"


def _plugins(config: TrtllmConfig, nested: dict[str, dict[str, Any]], n_context: int) -> dict[str, Any]:
    plugins = nested.pop("PluginConfig", {})
    if config.enable_kv_cache_reuse or _reads_in_pieces(config, n_context):
        plugins["use_paged_context_fmha"] = True  # both read a prompt beside what is cached of it
    return plugins


def _reads_in_pieces(config: TrtllmConfig, n_context: int) -> bool:
    return config.max_num_tokens is not None and config.max_num_tokens < n_context


def _always(config: TrtllmConfig, way: str, n_context: int) -> dict[str, Any]:
    """What no option says."""
    given: dict[str, Any] = {
        "guided_decoding_backend": "xgrammar",
        # Log probabilities are computed from the model's own logits: those that the sampler gives are of the draw.
        "gather_generation_logits": True,
    }
    if _reads_in_pieces(config, n_context):
        given["enable_chunked_prefill"] = True
    if way == PYTORCH:
        graphs = {"max_batch_size": config.engine_batch_size, "enable_padding": True}
        # What was captured without an adapter must never answer for one: not every release keeps them apart.
        given["cuda_graph_config"] = None if config.enable_lora else Call(name="CudaGraphConfig", keywords=graphs)
        # The other one ignores penalties, bad ids and seeds in silence.
        given["sampler_type"] = "TRTLLMSampler"
        return given
    given["max_batch_size"] = config.engine_batch_size
    given["batching_type"] = Member(name="BatchingType", member="INFLIGHT")
    return given


def _for_engines(
    given: EngineArguments, engines: BuiltEngines, artifacts: ModelArtifacts, config: TrtllmConfig
) -> EngineArguments:
    """The same for engines that were built before: their sizes hold, where the options do not ask for less."""
    limits, fields = engines.limits, TrtllmConfig.model_fields

    def size(option: str, asked: int, limit: int) -> int:
        is_default = getattr(config, option) == fields[option].default
        return min(asked, limit) if limit and not is_default else limit or asked

    n_input = size("max_input_len", config.engine_input_len, limits.get("max_input_len", 0))
    n_output = size("max_output_len", config.engine_output_len, limits.get("max_output_len", 0))
    n_context = limits.get("max_seq_len") or n_input + n_output
    n_batch = size("max_rolling_batch_size", config.engine_batch_size, limits.get("max_batch_size", 0))
    keywords = {**given.keywords, "max_batch_size": n_batch}
    if engines.pipeline_parallel:
        keywords["pipeline_parallel_size"] = engines.pipeline_parallel
    return replace(
        given,
        keywords=keywords,
        max_prompt_tokens=min(n_input, n_context),
        max_context_tokens=n_context,
        max_batch_size=n_batch,
        takes_prompt_logits=engines.gathers_prompt_logits,
    ).once_built(joined(artifacts.folder, engines.folder) if engines.folder else artifacts.folder)
