# SPDX-License-Identifier: Apache-2.0
"""From options to the keywords of vLLM's engine. What nobody set is left out, so vLLM's own default holds."""

from __future__ import annotations

from typing import Any

from lmi.api import ModelArtifacts
from lmi_vllm.arguments import read_arguments
from lmi_vllm.config import VLLMConfig
from lmi_vllm.tasks import task_arguments

GPU_SHARE = 0.9
"""LMI's default of ``gpu_memory_utilization``; vLLM's is another one."""

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

OWN_NAMES = {
    "cpu_offload_gb_per_gpu": "cpu_offload_gb",
    "max_rolling_batch_prefill_tokens": "max_num_batched_tokens",
    "max_rolling_batch_size": "max_num_seqs",
    "pipeline_parallel_degree": "pipeline_parallel_size",
    "quantize": "quantization",
    "tensor_parallel_degree": "tensor_parallel_size",
    **{
        name: name
        for name in (
            "dtype", "enable_chunked_prefill", "enable_lora", "enable_prefix_caching", "enforce_eager",
            "fully_sharded_loras", "gpu_memory_utilization", "kv_cache_memory_bytes", "kv_transfer_config",
            "limit_mm_per_prompt", "load_format", "lora_dtype", "max_cpu_loras", "max_lora_rank", "max_loras",
            "max_model_len", "reasoning_parser", "seed", "speculative_config", "tokenizer_mode", "trust_remote_code",
        )
    },
}  # fmt: skip
"""Option that LMI declares itself -> argument of vLLM's engine."""

ELSEWHERE = {
    "compile_cache": "environment.py, as variables",
    "lmcache_config_file": "a variable, and kv_transfer_config",
    "lmcache_auto_config": "refused",
    "long_lora_scaling_factors": "refused",
    "lora_extra_vocab_size": "no effect any more",
    "enable_auto_tool_choice": "the server",
    "enable_reasoning": "the server; false keeps reasoning_parser from the engine",
    "task": "tasks.py, as runner and convert",
}
"""Option that is no argument of vLLM's engine -> where it acts."""

_REASONING = {"auto": None, "none": None, "think": "deepseek_r1"}
"""LMI's names of parsers of reasoning that vLLM does not have -> its own."""

_OF_ADAPTERS = ("max_loras", "max_lora_rank", "max_cpu_loras", "fully_sharded_loras", "lora_dtype")
_OF_REASONING = ("reasoning_parser", "reasoning_parser_plugin")
_ALWAYS = ("max_rolling_batch_size", "max_logprobs")
"""Options whose default is LMI's, not vLLM's."""

_LMCACHE = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}


def engine_arguments(artifacts: ModelArtifacts, config: VLLMConfig, cache_bytes: int | None = None) -> dict[str, Any]:
    """The keywords of ``vllm.engine.arg_utils.AsyncEngineArgs`` for a model.

    Args:
        artifacts: the model, on this machine.
        config: the options.
        cache_bytes: for the cache, where the options leave it open; as ``environment.prepare`` chose it.
    """
    names = {**OWN_NAMES, **{name: name for name in read_arguments()}}
    fields = type(config).model_fields
    # Its own statistics go nowhere here; those that LMI counts are kept nevertheless.
    arguments: dict[str, Any] = {"model": artifacts.folder, "disable_log_stats": True}
    for option, name in names.items():
        value = getattr(config, option)
        if option in _ALWAYS or value != fields[option].default:
            arguments[name] = value
    arguments.update(_sizes(config, cache_bytes))
    arguments.update(task_arguments(artifacts, config))
    for name in ("dtype", "lora_dtype"):
        if name in arguments:
            arguments[name] = _DTYPES[arguments[name]]
    if not arguments.get("max_model_len", 1):
        del arguments["max_model_len"]  # 0 is LMI's way to say nothing
    if config.enable_lora:
        arguments["max_loras"] = config.max_loras
    else:
        arguments = {name: value for name, value in arguments.items() if name not in _OF_ADAPTERS}
    _set_reasoning(arguments, config)
    if config.lmcache_config_file and config.kv_transfer_config is None:
        arguments["kv_transfer_config"] = dict(_LMCACHE)
    return arguments


def _set_reasoning(arguments: dict[str, Any], config: VLLMConfig) -> None:
    """Name the parser of reasoning as vLLM does.

    It stands where constraints are configured, if they are: vLLM takes both only in one piece.
    """
    name = arguments.pop("reasoning_parser", None)
    name = _REASONING.get(name, name)
    if name is not None and config.enable_reasoning is not False:
        arguments["reasoning_parser"] = name
    constraints = arguments.get("structured_outputs_config")
    if constraints is None:
        return
    moved = {name: arguments.pop(name) for name in _OF_REASONING if name in arguments}
    arguments["structured_outputs_config"] = {**moved, **constraints}


def _sizes(config: VLLMConfig, cache_bytes: int | None) -> dict[str, Any]:
    """What the cache gets: what the options say, else what was chosen for this machine, else LMI's share of a GPU."""
    if config.kv_cache_memory_bytes is not None or config.gpu_memory_utilization is not None:
        return {}
    return {"gpu_memory_utilization": GPU_SHARE} if cache_bytes is None else {"kv_cache_memory_bytes": cache_bytes}
