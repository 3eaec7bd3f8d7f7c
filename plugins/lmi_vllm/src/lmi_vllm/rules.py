# SPDX-License-Identifier: Apache-2.0
"""Options that do not go together. A rule is a function in ``RULES``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from lmi.api import Conflict, Severity
from lmi_vllm.refused import NO_EFFECT, REFUSED, REFUSED_VALUES

if TYPE_CHECKING:
    from lmi_vllm.config import VLLMConfig

Rule = Callable[["VLLMConfig"], Iterator[Conflict]]

_NEEDS_LORA = (
    "max_loras", "max_lora_rank", "max_cpu_loras", "fully_sharded_loras", "lora_dtype", "default_mm_loras",
    "enable_mixed_moe_lora_format", "enable_moe_shared_loras", "enable_tower_connector_lora", "lora_target_modules",
    "max_lora_cls_labels", "specialize_active_lora",
)  # fmt: skip


def refused(config: VLLMConfig) -> Iterator[Conflict]:
    """Arguments of vLLM's engine that LMI decides itself, or that would break it."""
    for name, (reason, hint) in REFUSED.items():
        if _is_changed(config, name):
            yield Conflict(fields=(name,), message=f"{name}={shown(_value(config, name))}: {reason}", hint=hint)
    for name, values in REFUSED_VALUES.items():
        value = _value(config, name)
        if value in values:
            reason, hint = values[value]
            yield Conflict(fields=(name,), message=f"{name}={value}: {reason}", hint=hint)


def idle(config: VLLMConfig) -> Iterator[Conflict]:
    """Arguments of vLLM's engine that change nothing under LMI."""
    for name, reason in NO_EFFECT.items():
        if _is_changed(config, name):
            yield _no_effect(name, _value(config, name), reason)


def parts_of_a_copy(config: VLLMConfig) -> Iterator[Conflict]:
    """How the devices of a copy share what they do."""
    degree, n_parts = config.tensor_parallel_degree, _value(config, "decode_context_parallel_size")
    if degree % n_parts:
        yield Conflict(
            fields=("decode_context_parallel_size", "tensor_parallel_degree"),
            message=f"decode_context_parallel_size={n_parts} does not divide tensor_parallel_degree={degree}",
            hint="Set it to a number that does, or remove it",
        )
    if config.n_devices > 1 and _value(config, "distributed_executor_backend") == "uni":
        yield Conflict(
            fields=("distributed_executor_backend", "tensor_parallel_degree", "pipeline_parallel_degree"),
            message=f"distributed_executor_backend=uni is one process, and a copy has {config.n_devices} devices",
            hint="Remove it; vLLM then starts a process for each",
        )


def tokens_of_a_step(config: VLLMConfig) -> Iterator[Conflict]:
    """A step has room for a token of each sequence, and for a whole prompt where prompts are not cut."""
    n_tokens, n_sequences = config.max_rolling_batch_prefill_tokens, config.max_rolling_batch_size
    longest = config.max_model_len or 0
    if n_tokens is None:
        return
    if n_tokens < n_sequences:
        yield Conflict(
            fields=("max_rolling_batch_prefill_tokens", "max_rolling_batch_size"),
            message=(
                f"max_rolling_batch_prefill_tokens={n_tokens} is less than max_rolling_batch_size={n_sequences}; a "
                "step needs room for one token of each sequence"
            ),
            hint=f"Set option.max_rolling_batch_prefill_tokens={n_sequences} or more",
        )
    if config.enable_chunked_prefill is False and n_tokens < longest:
        yield Conflict(
            fields=("max_rolling_batch_prefill_tokens", "max_model_len", "enable_chunked_prefill"),
            message=(
                f"max_rolling_batch_prefill_tokens={n_tokens} is less than max_model_len={longest}, and "
                "enable_chunked_prefill=false reads each prompt at once"
            ),
            hint=f"Set option.max_rolling_batch_prefill_tokens={longest}, or leave enable_chunked_prefill out",
        )


def adapters(config: VLLMConfig) -> Iterator[Conflict]:
    """Options of adapters need adapters; some are gone from vLLM."""
    if config.long_lora_scaling_factors:
        yield Conflict(
            fields=("long_lora_scaling_factors",),
            message="long_lora_scaling_factors is set; vLLM does not support long-context adapters any more",
            hint="Remove it and use an adapter trained for the model's own context",
        )
    if config.lora_extra_vocab_size != _default(config, "lora_extra_vocab_size"):
        yield _no_effect(
            "lora_extra_vocab_size", config.lora_extra_vocab_size, "vLLM takes no adapters that add tokens any more"
        )
    if not config.enable_lora:
        for name in _NEEDS_LORA:
            if _is_changed(config, name):
                yield _no_effect(name, _value(config, name), "enable_lora is false", "enable_lora")
    elif config.max_cpu_loras is not None and config.max_cpu_loras < config.max_loras:
        yield Conflict(
            fields=("max_cpu_loras", "max_loras"),
            message=f"max_cpu_loras={config.max_cpu_loras} is less than max_loras={config.max_loras}",
            hint=f"Set option.max_cpu_loras={config.max_loras} or more, or lower max_loras",
        )


def reasoning(config: VLLMConfig) -> Iterator[Conflict]:
    """The switch needs its parser."""
    if config.enable_reasoning and not config.reasoning_parser:
        yield _needs("enable_reasoning", "reasoning_parser", "deepseek_r1")
    if config.enable_reasoning is False and config.reasoning_parser:
        yield _no_effect("enable_reasoning", False, "reasoning_parser turns reasoning on", "reasoning_parser")


def shared_cache(config: VLLMConfig) -> Iterator[Conflict]:
    """LMCache is configured by a file."""
    if config.lmcache_auto_config:
        yield Conflict(
            fields=("lmcache_auto_config",),
            message="lmcache_auto_config=true is not supported",
            hint="Write LMCache's configuration into a file and name it in option.lmcache_config_file",
        )
    connector = str((config.kv_transfer_config or {}).get("kv_connector", ""))
    if config.lmcache_config_file and connector and not connector.startswith("LMCache"):
        reason = f"kv_transfer_config names the connector {connector}"
        yield _no_effect("lmcache_config_file", config.lmcache_config_file, reason, "kv_transfer_config")


def memory(config: VLLMConfig) -> Iterator[Conflict]:
    """Only one of them sizes the cache."""
    if config.kv_cache_memory_bytes and _is_changed(config, "gpu_memory_utilization"):
        yield _no_effect(
            "gpu_memory_utilization",
            config.gpu_memory_utilization,
            f"kv_cache_memory_bytes={config.kv_cache_memory_bytes} sizes the cache",
            "kv_cache_memory_bytes",
        )
    if config.enforce_eager:
        for name in ("cudagraph_capture_sizes", "max_cudagraph_capture_size"):
            if _is_changed(config, name):
                yield _no_effect(name, _value(config, name), "enforce_eager=true captures no graphs", "enforce_eager")


def speculation(config: VLLMConfig) -> Iterator[Conflict]:
    """The short forms and the long one exclude each other; a number of tokens alone says no way to guess them."""
    short = [name for name in ("spec_method", "spec_model", "spec_tokens") if _is_changed(config, name)]
    if short == ["spec_tokens"] and config.speculative_config is None:
        yield _needs("spec_tokens", "spec_method", "ngram")
    if config.speculative_config is not None and short:
        yield Conflict(
            fields=("speculative_config", *short),
            message=f"speculative_config and its short forms ({', '.join(short)}) are both set",
            hint="Keep one of them",
        )


def measurements(config: VLLMConfig) -> Iterator[Conflict]:
    """Traces need a place to go; log probabilities are promised raw."""
    if _value(config, "collect_detailed_traces") and not _value(config, "otlp_traces_endpoint"):
        yield _needs("collect_detailed_traces", "otlp_traces_endpoint", "http://localhost:4317")
    mode = _value(config, "logprobs_mode")
    if mode != "raw_logprobs":
        yield Conflict(
            fields=("logprobs_mode",),
            message=f"logprobs_mode is {mode}; answers then hold other numbers than the raw log probabilities of LMI",
            hint="Remove it unless your clients expect that",
            severity=Severity.WARNING,
        )


RULES: tuple[Rule, ...] = (
    refused,
    idle,
    parts_of_a_copy,
    tokens_of_a_step,
    adapters,
    reasoning,
    shared_cache,
    memory,
    speculation,
    measurements,
)


def _value(config: VLLMConfig, name: str) -> Any:
    return getattr(config, name)


def _default(config: VLLMConfig, name: str) -> Any:
    return type(config).model_fields[name].default


def _is_changed(config: VLLMConfig, name: str) -> bool:
    return bool(_value(config, name) != _default(config, name))


def shown(value: Any) -> str:
    """A value as people write it in a configuration."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _needs(name: str, other: str, example: str) -> Conflict:
    return Conflict(
        fields=(name, other),
        message=f"{name} is set, and {other} is not",
        hint=f"Set option.{other} (for example {example}), or remove option.{name}",
    )


def _no_effect(name: str, value: Any, reason: str, other: str = "") -> Conflict:
    return Conflict(
        fields=(name, other) if other else (name,),
        message=f"{name}={shown(value)} changes nothing: {reason}",
        hint=f"Remove option.{name}" + (f", or change option.{other}" if other else ""),
        severity=Severity.WARNING,
        code="config.no-effect",
    )
