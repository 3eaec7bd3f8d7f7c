# SPDX-License-Identifier: Apache-2.0
"""LMI's options in today's words of TensorRT-LLM: one table for both of its ways.

A cell is a keyword of the LLM class (``max_batch_size``), a field of a class that goes with one
(``KvCacheConfig.tokens_per_block``), or in brackets why there is nothing to say. An empty cell is an option that this
way does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmi_trtllm.calls import Member
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.conflicts import differs

_DTYPES = {"auto": "auto", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_SMOOTHQUANT = {
    (False, False): "W8A8_SQ_PER_TENSOR_PLUGIN",
    (False, True): "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    (True, False): "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    (True, True): "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
}
"""Whether there is a scale for each channel, and for each token -> the library's name."""

NOTHING = "(nothing: "
"""How a cell begins whose option changes nothing, which is told where nothing else tells it."""

_IN_CONFIG = "(in config.json)"
_OF_THE_ORIGINAL = "(it was the original's)"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One option.

    Args:
        option: its name.
        pytorch, tensorrt: the cells.
        value: what is passed on; None passes nothing.
    """

    option: str
    pytorch: str
    tensorrt: str
    value: Callable[[TrtllmConfig], Any]


def _row(option: str, pytorch: str, tensorrt: str, value: Callable[[TrtllmConfig], Any] | None = None) -> Row:
    return Row(option=option, pytorch=pytorch, tensorrt=tensorrt, value=value or (lambda c: getattr(c, option)))


def _changed(option: str) -> Callable[[TrtllmConfig], Any]:
    """The value where it is not LMI's default; otherwise the library's own default holds."""
    return lambda config: getattr(config, option) if differs(config, option) else None


def _policy(config: TrtllmConfig) -> Member:
    return Member(name="CapacitySchedulerPolicy", member=config.batch_scheduler_policy.upper())


def _algorithm(config: TrtllmConfig) -> Member | None:
    scales = (config.smoothquant_per_channel, config.smoothquant_per_token)
    names = {"smoothquant": _SMOOTHQUANT[scales], "awq": "W4A16_AWQ", "fp8": "FP8"}
    name = names.get(config.quantize or "")
    return None if name is None else Member(name="QuantAlgo", member=name)


def _under(method: str, value: Callable[[TrtllmConfig], Any]) -> Callable[[TrtllmConfig], Any]:
    return lambda config: value(config) if config.quantize == method else None


def _with_adapters(value: Callable[[TrtllmConfig], Any]) -> Callable[[TrtllmConfig], Any]:
    return lambda config: value(config) if config.enable_lora else None


def _calibration_batches(config: TrtllmConfig) -> int | None:
    is_calibrated = config.quantize in ("awq", "fp8")
    return math.ceil(config.calib_size / (config.calib_batch_size or 1)) if is_calibrated else None


ROWS: tuple[Row, ...] = (
    _row("tensor_parallel_degree", "tensor_parallel_size", "tensor_parallel_size"),
    _row("pipeline_parallel_degree", "pipeline_parallel_size", "pipeline_parallel_size"),
    _row("trust_remote_code", "trust_remote_code", "trust_remote_code"),
    _row("dtype", "dtype", "dtype", lambda c: _DTYPES[c.dtype]),
    _row("max_rolling_batch_size", "max_batch_size", "BuildConfig.max_batch_size", lambda c: c.engine_batch_size),
    _row("max_num_sequences", "max_batch_size", "BuildConfig.max_batch_size", lambda c: c.engine_batch_size),
    # A request that goes on after a death has more in its prompt than the client sent: LMI itself looks at the prompt.
    _row("max_input_len", "max_input_len", "BuildConfig.max_input_len", lambda c: c.engine_seq_len),
    _row("max_output_len", "max_seq_len", "BuildConfig.max_seq_len", lambda c: c.engine_seq_len),
    _row("max_num_tokens", "max_num_tokens", "BuildConfig.max_num_tokens"),
    _row("max_draft_len", "", "BuildConfig.max_draft_len", lambda c: c.max_draft_len or None),
    _row(
        "gather_context_logits", "(always there)", "BuildConfig.gather_context_logits",
        _changed("gather_context_logits"),
    ),
    _row("enable_lora", "(lora_config is there)", "enable_lora", lambda c: c.enable_lora or None),
    _row("max_loras", "LoraConfig.max_loras", "LoraConfig.max_loras", _with_adapters(lambda c: c.max_loras)),
    _row(
        "max_lora_rank", "LoraConfig.max_lora_rank", "LoraConfig.max_lora_rank",
        _with_adapters(lambda c: c.max_lora_rank),
    ),
    _row(
        "max_cpu_loras", "LoraConfig.max_cpu_loras", "LoraConfig.max_cpu_loras",
        _with_adapters(lambda c: c.n_adapter_places),
    ),
    _row(
        "kv_cache_free_gpu_mem_fraction", "KvCacheConfig.free_gpu_memory_fraction",
        "KvCacheConfig.free_gpu_memory_fraction",
    ),
    _row("enable_kv_cache_reuse", "KvCacheConfig.enable_block_reuse", "KvCacheConfig.enable_block_reuse"),
    _row("tokens_per_block", "KvCacheConfig.tokens_per_block", "PluginConfig.tokens_per_block"),
    _row(
        "batch_scheduler_policy", "SchedulerConfig.capacity_scheduler_policy",
        "SchedulerConfig.capacity_scheduler_policy", _policy,
    ),
    _row(
        "enable_trt_overlap", "disable_overlap_scheduler", "(nothing: the runtime decides)",
        lambda c: not c.enable_trt_overlap,
    ),
    _row(
        "use_custom_all_reduce", "allreduce_strategy", "(nothing: the build decides)",
        lambda c: "AUTO" if c.use_custom_all_reduce else None,
    ),
    _row("multi_block_mode", "", "ExtendedRuntimePerfKnobConfig.multi_block_mode", _changed("multi_block_mode")),
    _row("use_fused_mlp", "(always fused)", "PluginConfig.use_fused_mlp", _changed("use_fused_mlp")),
    _row("rotary_base", "model_kwargs.rope_theta", "model_kwargs.rope_theta"),
    _row("rotary_dim", "model_kwargs.rotary_dim", "model_kwargs.rotary_dim"),
    _row(
        "rotary_scaling_type", "model_kwargs.rope_scaling", "model_kwargs.rope_scaling",
        lambda c: {"type": c.rotary_scaling_type, "factor": c.rotary_scaling_factor} if c.rotary_scaling_type else None,
    ),
    _row(
        "rotary_scaling_factor", "model_kwargs.rope_scaling", "model_kwargs.rope_scaling",
        lambda c: {"type": c.rotary_scaling_type, "factor": c.rotary_scaling_factor} if c.rotary_scaling_type else None,
    ),
    _row("quantize", "(in the compressed checkpoint)", "QuantConfig.quant_algo", _algorithm),
    _row(
        "smoothquant_alpha", "", "QuantConfig.smoothquant_val", _under("smoothquant", lambda c: c.smoothquant_alpha)
    ),
    _row("smoothquant_per_token", "", "QuantConfig.quant_algo", _algorithm),
    _row("smoothquant_per_channel", "", "QuantConfig.quant_algo", _algorithm),
    _row("multi_query_mode", _IN_CONFIG, _IN_CONFIG),
    _row("q_format", "(in the compressed checkpoint)", "QuantConfig.quant_algo", _algorithm),
    _row("calib_size", "", "CalibConfig.calib_batches", _calibration_batches),
    _row("calib_batch_size", "", "CalibConfig.calib_batch_size"),
    _row("awq_block_size", "", "QuantConfig.group_size", _under("awq", lambda c: c.awq_block_size)),
    _row(
        "use_fp8_context_fmha", "", "PluginConfig.use_fp8_context_fmha",
        _under("fp8", _changed("use_fp8_context_fmha")),
    ),
    *(_row(f"{name}_model_version", _IN_CONFIG, _IN_CONFIG) for name in ("baichuan", "chatglm", "gpt")),
    *(
        _row(name, _OF_THE_ORIGINAL, _OF_THE_ORIGINAL)
        for name in (
            "num_checkpoint_workers", "num_engine_workers", "load_by_shard", "trtllm_checkpoint_path", "logits_dtype",
        )
    ),
    _row("backend", "(chooses the way)", "(chooses the way)"),
    _row("rolling_batch", "(always in flight)", "(always in flight)"),
)  # fmt: skip
"""Every option of the backend."""


def is_called(cell: str) -> bool:
    """Whether a cell names something that is passed on."""
    return bool(cell) and not cell.startswith("(")
