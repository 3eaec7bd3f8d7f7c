# SPDX-License-Identifier: Apache-2.0
"""Options of the trtllm backend, under LMI's names. Others are in family_options and adapter_options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator, model_validator

from lmi.api import Conflict, dtype_name, option
from lmi_trtllm.adapter_options import AdapterOptions
from lmi_trtllm.family_options import FamilyOptions

BATCH_WITH_TOKEN_LIMIT = 256
TOKENS_WITH_TOKEN_LIMIT = 4096
"""With max_num_tokens the engine is made at least so wide, and takes at least so long prompts and outputs."""


class TrtllmConfig(FamilyOptions, AdapterOptions):
    """Options of the trtllm backend."""

    rolling_batch: Literal["auto", "trtllm", "tensorrtllm", "disable"] = option(
        "auto",
        description=(
            "auto and trtllm are the same here: batching is always in flight. disable was for T5, which this backend "
            "does not serve."
        ),
    )
    max_rolling_batch_size: int = option(
        32,
        description="Sequences that run at the same time in one copy of the model. 256 where max_num_tokens is set.",
        unit="sequences",
        ge=1,
    )
    pipeline_parallel_degree: int = option(
        1, description="Groups of layers the model is split into, each on devices of its own.", unit="stages", ge=1
    )
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = option(
        "fp16", description="Number type of the weights; auto takes the checkpoint's.", old_names=("data_type",)
    )
    backend: Literal["auto", "pytorch", "tensorrt"] = option(
        "auto",
        description=(
            "Which of the library's ways runs the model: pytorch loads weights as they are, tensorrt builds engines "
            "first (in versions before 1.3). auto takes pytorch, or tensorrt where an option or a built model needs it."
        ),
    )

    # ------------------------------------------------------------------------------------- sizes
    max_input_len: int = option(
        1024,
        description=(
            "Longest prompt, fixed when the model is built. Too low, and long prompts are refused. At least the "
            "smaller of 4096 and max_num_tokens where that is set."
        ),
        unit="tokens",
        ge=1,
    )
    max_output_len: int = option(
        512,
        description=(
            "Longest output, fixed when the model is built. Too low, and answers end there. At least the smaller of "
            "4096 and max_num_tokens where that is set."
        ),
        unit="tokens",
        ge=1,
    )
    max_num_tokens: int | None = option(
        None,
        description=(
            "Most tokens of all running requests that one step computes. Set it for mixed traffic: prompts, outputs "
            "and batch may then be larger. Unset: the engine's own, which follows from the sizes above."
        ),
        unit="tokens",
        ge=1,
    )
    max_num_sequences: int | None = option(
        None,
        description=(
            "Sequences in the engine's batch. Unset: max_rolling_batch_size, which is right unless the model is to be "
            "built for another batch than the server runs."
        ),
        unit="sequences",
        ge=1,
    )
    max_draft_len: int | None = option(
        None, description="Draft tokens a step that the engine is built for; unset or 0: none.", unit="tokens", ge=0
    )
    gather_context_logits: bool = option(
        False,
        description=(
            "Build engines that give log probabilities of the prompt, too. They keep a row of the vocabulary for each "
            "of its tokens, so it costs memory and time; weights that are taken as they are need no such build."
        ),
    )

    # ------------------------------------------------------------------------------------- cache and scheduler
    kv_cache_free_gpu_mem_fraction: float = option(
        0.95,
        description=(
            "Share of the GPU memory left after loading that the cache of keys and values takes. More allows longer "
            "sequences or a larger batch; lower it when other things need the GPU."
        ),
        unit="share",
        gt=0,
        le=1,
        aliases=("free_gpu_memory_fraction",),
    )
    enable_kv_cache_reuse: bool = option(
        False,
        description=(
            "Keep the cache of earlier prompts and reuse equal beginnings: the first token comes much sooner for chats "
            "and questions about one document. Costs GPU memory. For GPT-like (decoder-only) models; an engine built "
            "before needs use_paged_context_fmha."
        ),
        aliases=("enable_block_reuse",),
    )
    tokens_per_block: int | None = option(
        None,
        description=(
            "Tokens in one block of the cache, a power of two. Unset: the engine's own choice (32 today, 64 in 0.7.1, "
            "128 in 0.8.0)."
        ),
        unit="tokens",
        ge=1,
    )
    batch_scheduler_policy: Literal["max_utilization", "guaranteed_no_evict"] = option(
        "max_utilization",
        description=(
            "max_utilization starts as many requests as fit now and may have to pause one later; guaranteed_no_evict "
            "starts one only when it can run to its end."
        ),
    )
    enable_trt_overlap: bool = option(
        False,
        description=(
            "Prepare the next batch while one runs. It slows a server with few requests, and usually did more harm "
            "than good; measure before keeping it."
        ),
    )
    use_custom_all_reduce: bool = option(
        False,
        description=(
            "Use the engine's own all-reduce between GPUs. Turn it on where NVLink connects them: P4d, P4de, P5 and "
            "their like."
        ),
    )

    # ------------------------------------------------------------------------------------- compressing weights
    quantize: Literal["smoothquant", "awq", "fp8", "gptq"] | None = option(
        None,
        description=(
            "Compress the weights while the model is built, that is, when it is loaded from HuggingFace's format: "
            "smoothquant for Llama, Mistral, InternLM and Baichuan, awq for Llama and Mistral, fp8. gptq only says how "
            "a built model was compressed."
        ),
    )
    smoothquant_alpha: float = option(
        0.8,
        description="With quantize=smoothquant: how much of the activations' range moves into the weights.",
        unit="share",
        ge=0,
        le=1,
    )
    smoothquant_per_token: bool = option(
        False,
        description=(
            "With quantize=smoothquant: a scale for each token, chosen at run time. Usually a little slower and more "
            "accurate."
        ),
    )
    smoothquant_per_channel: bool = option(
        False,
        description=(
            "With quantize=smoothquant: a scale for each channel, chosen at run time. Usually a little slower and more "
            "accurate."
        ),
    )
    multi_query_mode: bool = option(
        False,
        description=(
            "With quantize=smoothquant: set it for models with grouped or multi-query attention, Llama 70B for example."
        ),
    )
    q_format: Literal["int4_awq"] = option(
        "int4_awq", description="Number format of quantize=awq; there is this one only.", old_names=("awq_format",)
    )
    calib_size: int = option(
        32,
        description="Samples that awq and fp8 are calibrated with.",
        unit="samples",
        ge=1,
        old_names=("awq_calib_size",),
    )
    calib_batch_size: int | None = option(
        None, description="Samples calibrated at a time. Unset: the engine's own.", unit="samples", ge=1
    )
    awq_block_size: int = option(
        128, description="Weights that share one scale under quantize=awq.", unit="weights", ge=1
    )
    use_fp8_context_fmha: bool = option(
        False, description="Read prompts with fp8 attention under quantize=fp8: faster on Hopper and later GPUs."
    )

    # ------------------------------------------------------------------------------------- of the original's build
    num_checkpoint_workers: int | None = option(
        None, description="Processes of the original's conversion; there is none here.", unit="processes", ge=1
    )
    num_engine_workers: int | None = option(
        None, description="Processes of the original's build; the engine chooses.", unit="processes", ge=1
    )
    load_by_shard: bool = option(False, description="How the original read Falcon 40B; always by shard now.")
    trtllm_checkpoint_path: str | None = option(
        None,
        description="Where the original kept a converted checkpoint; name a converted one with option.model_id.",
    )
    logits_dtype: Literal["fp16", "fp32"] = option(
        "fp32", description="Number type of T5's logits in the original; this backend does not serve T5."
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _name_dtype(cls, value: Any) -> Any:
        return dtype_name(value)

    @field_validator("rolling_batch", mode="before")
    @classmethod
    def _name_rolling_batch(cls, value: Any) -> Any:
        return value.lower() or "auto" if isinstance(value, str) else value

    @field_validator("quantize", mode="before")
    @classmethod
    def _name_quantization(cls, value: Any) -> Any:
        return value.lower() or None if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _wider_with_token_limit(cls, values: Any) -> Any:
        """max_num_tokens alone means a batch of 256."""
        if isinstance(values, dict) and "max_rolling_batch_size" not in values:
            limit = values.get("max_num_tokens")
            if limit is not None:
                return {**values, "max_rolling_batch_size": BATCH_WITH_TOKEN_LIMIT}
        return values

    @property
    def engine_batch_size(self) -> int:
        """The batch the engine is made for."""
        if self.max_num_sequences is not None:
            return self.max_num_sequences
        least = BATCH_WITH_TOKEN_LIMIT if self.max_num_tokens is not None else 1
        return max(least, self.max_rolling_batch_size)

    @property
    def engine_input_len(self) -> int:
        """The longest prompt the engine is made for."""
        return self._at_least(self.max_input_len)

    @property
    def engine_output_len(self) -> int:
        """The longest output the engine is made for."""
        return self._at_least(self.max_output_len)

    @property
    def engine_seq_len(self) -> int:
        """Prompt and output together that the engine is made for."""
        return self.engine_input_len + self.engine_output_len

    def _at_least(self, n_tokens: int) -> int:
        if self.max_num_tokens is None:
            return n_tokens
        return max(min(TOKENS_WITH_TOKEN_LIMIT, self.max_num_tokens), n_tokens)

    def conflicts(self) -> Iterator[Conflict]:
        """What does not go together, and what has no effect as the rest stands."""
        from lmi_trtllm.conflicts import conflicts_of

        return conflicts_of(self)
