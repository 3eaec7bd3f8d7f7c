# SPDX-License-Identifier: Apache-2.0
"""Everything of vLLM that this plugin calls, reads or derives from; nothing else of it may be used.

Written against vLLM 0.32. ``guard`` looks for each of these in the vLLM that is installed.
"""

from __future__ import annotations

from lmi.api import Symbol


def _call(
    module: str, name: str, passed: tuple[str, ...] = (), keywords: tuple[str, ...] = (), members: tuple[str, ...] = ()
) -> Symbol:
    return Symbol(module=module, name=name, passed=passed, keywords=keywords, called=True, members=members)


def _read(module: str, name: str, *members: str) -> Symbol:
    return Symbol(module=module, name=name, members=members)


ARGUMENTS = ("vllm.engine.arg_utils", "AsyncEngineArgs")
"""What takes the arguments of the engine, which are many, and of which each configuration gives its own."""

_ENGINE = "vllm.v1.engine.async_llm"

_SAMPLING = (
    "_bad_words_token_ids", "detokenize", "frequency_penalty", "ignore_eos", "logit_bias", "logprobs",
    "max_tokens", "min_p", "min_tokens", "output_kind", "presence_penalty", "prompt_logprobs",
    "repetition_penalty", "seed", "skip_clone", "stop_token_ids", "structured_outputs", "temperature", "top_k", "top_p",
)  # fmt: skip

SYMBOLS: tuple[Symbol, ...] = (
    _call(*ARGUMENTS, keywords=("disable_log_stats", "max_logprobs", "max_num_seqs", "model")),
    # ------------------------------------------------------------------------------------------------- the engine
    _read(_ENGINE, "AsyncLLM", "errored", "model_config", "vllm_config"),
    _call(_ENGINE, "AsyncLLM.from_engine_args", ("engine_args",), ("stat_loggers",)),
    _call(
        _ENGINE, "AsyncLLM.generate", ("prompt", "sampling_params", "request_id"), ("lora_request", "reasoning_ended"),
    ),
    _call(_ENGINE, "AsyncLLM.encode", ("prompt", "pooling_params", "request_id")),
    _call(_ENGINE, "AsyncLLM.abort", ("request_id",)),
    _call(_ENGINE, "AsyncLLM.check_health"),
    _call(_ENGINE, "AsyncLLM.add_lora", ("lora_request",)),
    _call(_ENGINE, "AsyncLLM.remove_lora", ("lora_id",)),
    _call(_ENGINE, "AsyncLLM.pin_lora", ("lora_id",)),
    _call(_ENGINE, "AsyncLLM.shutdown", keywords=("timeout",)),
    _read("vllm.config", "VllmConfig", "cache_config", "lora_config", "scheduler_config", "structured_outputs_config"),
    _read("vllm.config", "LoRAConfig", "max_loras"),
    _read("vllm.config", "ModelConfig", "max_model_len"),
    _call("vllm.config", "ModelConfig.get_vocab_size"),
    _read("vllm.config", "SchedulerConfig", "max_num_seqs"),
    _read("vllm.config", "StructuredOutputsConfig", "enable_in_reasoning", "reasoning_parser"),
    _read("vllm.config", "CacheConfig", "block_size", "num_gpu_blocks"),
    # ------------------------------------------------------------------------------------------------ requests
    _call("vllm", "SamplingParams", keywords=_SAMPLING),
    _read("vllm.envs", "VLLM_MAX_BAD_WORDS_TOTAL_TOKENS"),
    _read("vllm.envs", "VLLM_MAX_NUM_BAD_WORDS"),
    _read("vllm.sampling_params", "RequestOutputKind", "DELTA"),
    _call(
        "vllm.sampling_params", "StructuredOutputsParams",
        keywords=("choice", "grammar", "json", "regex"),
    ),
    _call("vllm.pooling_params", "PoolingParams", keywords=("dimensions", "task", "use_activation")),
    _call(
        "vllm.lora.request", "LoRARequest", keywords=("lora_int_id", "lora_name", "lora_path"),
        members=("lora_int_id", "lora_path"),
    ),
    _call("vllm.inputs", "tokens_input", ("prompt_token_ids",)),
    _read("vllm.inputs", "TokensPrompt", "prompt_token_ids"),
    # -------------------------------------------------------------------------------------------------- outputs
    _read("vllm.outputs", "RequestOutput", "num_cached_tokens", "outputs", "prompt_logprobs"),
    _read("vllm.outputs", "CompletionOutput", "finish_reason", "logprobs", "stop_reason", "token_ids"),
    _read("vllm.outputs", "PoolingRequestOutput", "finished", "outputs"),
    _read("vllm.outputs", "PoolingOutput", "data"),
    _read("vllm.logprobs", "Logprob", "logprob", "rank"),
    # -------------------------------------------------------------------------------------------------- failures
    _read("vllm.v1.engine.exceptions", "EngineDeadError"),
    _read("vllm.v1.engine.exceptions", "EngineGenerateError"),
    _read("vllm.exceptions", "VLLMClientError"),
    _read("vllm.exceptions", "VLLMValidationError"),
    # ----------------------------------------------------------------------------------------- counts of each step
    Symbol(
        module="vllm.v1.metrics.loggers",
        name="PrometheusStatLogger",
        written=(("record", ("scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx")),),
    ),
    _read("vllm.v1.metrics.stats", "SchedulerStats", "kv_cache_usage", "num_running_reqs", "num_waiting_reqs"),
)  # fmt: skip
