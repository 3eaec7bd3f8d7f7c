# SPDX-License-Identifier: Apache-2.0
"""Options of the lmi-dist backend, by the names of LMI's reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lmi.api import BackendConfig, Conflict, dtype_name, option
from lmi_hf.lmi_dist.conflicts import conflicts_of

Quantization = Literal["awq", "gptq"]

_Int8 = Annotated[str, Field(pattern=r"^int8$")]
_Removed = Annotated[str, Field(pattern=r"^(bitsandbytes8?|squeezellm)$")]
"""Values of earlier versions, taken here to be refused with what replaced them."""


class DistConfig(BackendConfig):
    """Options of the lmi-dist backend."""

    max_rolling_batch_size: int = option(
        256,
        description="Sequences that run at the same time in one copy of the model. Lower it where memory is short.",
        unit="sequences",
        ge=1,
        aliases=("max_num_seqs",),
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] | _Int8 = option(
        "auto",
        description="Number type of weights and cache. auto takes the checkpoint's; quantize goes with auto or fp16.",
        old_names=("data_type",),
    )
    quantize: Quantization | _Removed | None = option(
        None,
        description=(
            "How the checkpoint is compressed; found in its config.json when unset. Use such a checkpoint where whole "
            "weights do not fit. squeezellm, which LMI once had, is refused: no maintained library reads it."
        ),
        aliases=("quantization",),
    )
    max_model_len: int | None = option(
        None,
        description=(
            "Longest prompt plus output; unset takes the model's own limit. Lower it where the cache of a long context "
            "does not fit."
        ),
        unit="tokens",
        ge=1,
    )
    max_rolling_batch_prefill_tokens: int | None = option(
        None,
        description=(
            "Most prompt tokens read in one step; chosen by the backend when unset. Lower it where long prompts run "
            "out of memory."
        ),
        unit="tokens",
        ge=1,
        aliases=("max_num_batched_tokens",),
    )
    load_format: Literal["auto", "safetensors", "pt", "npcache", "dummy"] = option(
        "auto",
        description=(
            "Form of the weights that is read: auto takes safetensors, else PyTorch's (pt); dummy makes random ones, "
            "for measuring only. npcache, which LMI once had, is refused: no maintained library keeps such copies."
        ),
    )
    enforce_eager: bool = option(
        False,
        description="Run without CUDA graphs. Turn on to save memory or to find a fault; it is slower.",
    )
    gpu_memory_utilization: float = option(
        0.9,
        description=(
            "Part of a CUDA device's memory for weights and cache. Raise it for more sequences at the same time, lower "
            "it where something else uses the device, or a step runs out of memory."
        ),
        unit="share",
        gt=0,
        le=1,
    )

    # adapters
    enable_lora: bool = option(
        False, description="Take LoRA adapters that requests name; only false is offered here, vllm and hf have it."
    )
    max_loras: int = option(
        4, description="Adapters that one batch may use; each takes device memory.", unit="adapters", ge=1
    )
    max_lora_rank: int = option(16, description="Largest rank of an adapter.", unit="dimensions", ge=1)
    lora_extra_vocab_size: int = option(
        256, description="Tokens that an adapter may add to the vocabulary.", unit="tokens", ge=0
    )
    max_cpu_loras: int | None = option(
        None,
        description="Adapters kept in host memory; as many as max_loras when unset. Raise it to switch them faster.",
        unit="adapters",
        ge=1,
    )

    # speculative decoding
    speculative_draft_model: str | None = option(
        None,
        description=(
            "A small model with the same vocabulary that proposes tokens: a name on the hub, a folder or an s3:// "
            "location. Turn on for lower latency with few requests at a time; it takes memory of its own."
        ),
        aliases=("speculative_model",),
        old_names=("draft_model_id",),
        is_model=True,
    )
    draft_model_tp_size: int = option(
        1, description="Devices the draft model is split over: 1, or tensor_parallel_degree.", unit="devices", ge=1
    )
    speculative_length: int = option(
        5,
        description="Tokens the draft model proposes at a time; lower it where few are accepted. 0 turns it off.",
        unit="tokens",
        ge=0,
    )
    spec_length: int = option(
        0, description="Old name of speculative_length; at 0 that one holds.", unit="tokens", ge=0
    )
    record_acceptance_rate: bool = option(
        False, description="Log the share of proposed tokens that are accepted. Turn on to choose speculative_length."
    )

    # of later versions of LMI
    disable_sliding_window: bool = option(
        False, description="Part of later versions of LMI; only false is offered here, vllm has it."
    )
    max_logprobs: int = option(
        20, description="Most log probabilities a request may ask for; there is no limit of its own here.",
        unit="tokens", ge=0,
    )  # fmt: skip
    use_passive_workers: bool = option(
        True, description="Ranks that wait leave their processor to others; always so, only true is offered."
    )
    limit_mm_per_prompt: dict[str, int] | None = option(
        None, description="Images and videos a prompt may hold: image=2,video=1. Text only here, vllm has it."
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _name_dtype(cls, value: Any) -> Any:
        return dtype_name(value)

    @field_validator("quantize", mode="before")
    @classmethod
    def _in_lower_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("disable_sliding_window", "use_passive_workers", "limit_mm_per_prompt")
    @classmethod
    def _only_the_default(cls, value: Any, info: Any) -> Any:
        if value != cls.model_fields[info.field_name].default:
            raise ValueError("this is not supported by lmi-dist; remove it, or use option.rolling_batch=vllm")
        return value

    @property
    def n_proposed(self) -> int:
        """Tokens the draft model proposes at a time, by either name; 0 where there is no draft model."""
        return 0 if self.speculative_draft_model is None else self.spec_length or self.speculative_length

    def is_changed(self, name: str) -> bool:
        """Whether a field has another value than its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def conflicts(self) -> Iterator[Conflict]:
        """See BackendConfig."""
        yield from super().conflicts()
        yield from conflicts_of(self)
