# SPDX-License-Identifier: Apache-2.0
"""Options under LMI's names, and those of vLLM's that LMI's users know best."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from lmi.api import BackendConfig, dtype_name, option
from lmi_vllm.names import LORA_RANKS, quantization_name


class WeightOptions(BackendConfig):
    """How the model is loaded, and what it may take."""

    dtype: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto",
        description=(
            "Number type of weights and cache. auto takes the checkpoint's, but 16 bits for a checkpoint in fp32. Set "
            "fp16 on devices older than Ampere, which do not compute bf16."
        ),
        old_names=("data_type",),
    )
    quantize: str | None = option(
        None,
        description=(
            "awq, gptq and so on say how the checkpoint was compressed, and are best left unset, since config.json "
            "says so; fp8, int8_per_channel_weight_only and others compress 16-bit weights while they load, when the "
            "model does not fit or should be faster."
        ),
        aliases=("quantization",),
    )
    load_format: str = option(
        "auto",
        description=(
            "How weights are read: auto, safetensors, pt, dummy (random, to measure without weights), or a loader of "
            "vLLM's such as runai_streamer."
        ),
    )
    tokenizer_mode: str = option(
        "auto", description="vLLM's tokenizer: auto, hf, mistral or one for a model family. Constraints need it."
    )
    max_model_len: int | None = option(
        None,
        description=(
            "Longest prompt plus output. Unset or 0: the model's own; -1: as much as the cache can hold. Lower it when "
            "the start says that the cache is too small."
        ),
        unit="tokens",
        ge=-1,
    )
    seed: int = option(0, description="Seed of requests that bring none; LMI draws one for each.", unit="seed")
    cpu_offload_gb_per_gpu: float = option(
        0,
        description=(
            "Weights that stay in the host's memory, for each device. Turn on when the model does not fit otherwise; "
            "each step reads them over the bus, which is slow."
        ),
        unit="GiB",
        ge=0,
        aliases=("cpu_offload_gb",),
    )
    limit_mm_per_prompt: dict[str, int | dict[str, int]] | None = option(
        None, description="Most images, videos and so on in one prompt: image=2,video=1 or JSON. Unset: vLLM's limits."
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _name_dtype(cls, value: Any) -> Any:
        return dtype_name(value)

    @field_validator("quantize", mode="before")
    @classmethod
    def _name_quantization(cls, value: Any) -> Any:
        return quantization_name(value)

    @field_validator("load_format", "tokenizer_mode", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class BatchOptions(WeightOptions):
    """How sequences share the device."""

    max_rolling_batch_prefill_tokens: int | None = option(
        None,
        description=(
            "Tokens of one step, prompts included. Higher reads prompts faster, lower keeps the pace of running "
            "streams and takes less memory. Unset: vLLM's choice, at least the model's length where prompts are not "
            "read in pieces."
        ),
        unit="tokens",
        ge=1,
        aliases=("max_num_batched_tokens",),
    )
    pipeline_parallel_degree: int = option(
        1,
        description=(
            "Stages one copy of the model is split into, layer after layer; each takes tensor_parallel_degree devices. "
            "For models that no other split fits, or devices without a fast connection."
        ),
        unit="stages",
        ge=1,
        aliases=("pipeline_parallel_size",),
    )
    gpu_memory_utilization: float | None = option(
        None,
        description=(
            "Share of each device's memory for weights and cache; on CPU, of the machine's. Lower it when other "
            "programs use the device, raise it when the cache is too small. Unset: 0.9; on CPU the cache takes half of "
            "what is free, or what it can use."
        ),
        unit="share",
        gt=0,
        le=1,
    )
    kv_cache_memory_bytes: int | None = option(
        None,
        description=(
            "Memory of each device for the cache of keys and values, instead of what gpu_memory_utilization leaves."
        ),
        unit="bytes",
        ge=1,
    )
    enforce_eager: bool = option(
        False,
        description=(
            "Run without CUDA graphs and compilation. Turn on to start sooner and to save memory; each token is slower."
        ),
    )
    compile_cache: str | None = option(
        None,
        description=(
            "Folder that keeps what is compiled, so that the next start is quicker. Name one on a disk that outlives "
            "the container. Unset: vllm in LMI's cache folder (LMI_CACHE_DIR)."
        ),
    )
    enable_prefix_caching: bool | None = option(
        None,
        description=(
            "Keep the cache of prompts that begin alike. Good for chats and shared instructions. Unset: vLLM decides, "
            "usually on."
        ),
    )
    enable_chunked_prefill: bool | None = option(
        None,
        description=(
            "Read long prompts in pieces beside running streams. Turn off only if prompts are short. Unset: vLLM "
            "decides, usually on."
        ),
    )
    speculative_config: dict[str, Any] | None = option(
        None,
        description=(
            "Speculation as JSON: method, model, num_speculative_tokens. Turn on for few concurrent streams; under "
            "full load it costs throughput."
        ),
    )
    kv_transfer_config: dict[str, Any] | None = option(
        None, description="Connector that moves the cache between engines or stores, as JSON."
    )
    lmcache_config_file: str | None = option(
        None, description="LMCache's configuration file; the cache is then shared by LMCache's connector."
    )
    lmcache_auto_config: bool = option(
        False, description="LMCache configured by LMI; not offered, write a file and name it in lmcache_config_file."
    )


class AdapterOptions(BatchOptions):
    """LoRA adapters."""

    enable_lora: bool = option(
        False, description="Serve LoRA adapters. Turn on only where there are some: it takes memory and some speed."
    )
    max_loras: int = option(
        4,
        description="Different adapters in one batch; more take more memory of the device.",
        unit="adapters",
        ge=1,
    )
    max_lora_rank: int = option(
        16,
        description=f"Largest rank of an adapter: {', '.join(map(str, LORA_RANKS))}. As small as your adapters allow.",
        unit="rank",
        ge=1,
        le=512,
    )
    lora_extra_vocab_size: int = option(
        256,
        description="Tokens an adapter may add; vLLM takes none any more.",
        unit="tokens",
        ge=0,
    )
    max_cpu_loras: int | None = option(
        None,
        description="Adapters kept in the host's memory, at least max_loras. Unset: max_loras.",
        unit="adapters",
        ge=1,
    )
    fully_sharded_loras: bool = option(
        False,
        description="Split adapters fully over devices. Faster for high ranks, long prompts or many devices.",
    )
    long_lora_scaling_factors: list[float] | None = option(
        None, description="Scaling factors of long-context adapters; vLLM has none any more."
    )
    lora_dtype: Literal["auto", "bf16", "fp16"] = option(
        "auto", description="Number type of adapters; auto takes the model's."
    )

    @field_validator("lora_dtype", mode="before")
    @classmethod
    def _name_lora_dtype(cls, value: Any) -> Any:
        return dtype_name(value)

    @field_validator("max_lora_rank", mode="after")
    @classmethod
    def _known_rank(cls, value: int) -> int:
        if value not in LORA_RANKS:
            larger = next(rank for rank in LORA_RANKS if rank > value)
            raise ValueError(f"vLLM takes {', '.join(map(str, LORA_RANKS))}; {larger} holds adapters of rank {value}")
        return value


class AnswerOptions(AdapterOptions):
    """What is done with prompts and answers."""

    enable_auto_tool_choice: bool = option(
        False,
        description="LMI's switch, which is not needed: models may call the tools of a request on their own accord. "
        "tool_call_parser=none leaves calls in the text.",
    )
    enable_reasoning: bool | None = option(
        None, description="Tell reasoning from answer. Needs reasoning_parser, which alone does it, too."
    )
    reasoning_parser: str | None = option(
        None,
        description="How reasoning is told from the answer, for every backend; here the engine learns it, too, so that "
        "constraints begin with the answer.",
    )
    task: str | None = option(
        None,
        description=(
            "What the model does: text-generation, text-embedding (or feature-extraction) or text-classification. "
            "Unset or auto: what it was made for, as its files say."
        ),
    )
