# SPDX-License-Identifier: Apache-2.0
"""Options of the hf backend: LMI's names for what Transformers and Accelerate call otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from lmi.api import BackendConfig, Conflict, dtype_name, option

Quantization = Literal["bitsandbytes4", "bitsandbytes8", "gptq", "awq"]

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

_BitsAndBytes = Annotated[str, Field(pattern=r"^bitsandbytes$")]
"""A name of earlier versions, taken here to be told what replaced it."""


class HFConfig(BackendConfig):
    """Options of the hf backend."""

    adapters_switch: ClassVar[str] = "enable_lora"

    dtype: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto",
        description=(
            "Number type of weights and cache. auto takes the checkpoint's, but fp32 instead of a 16-bit type on a "
            "processor that does not compute bf16."
        ),
        old_names=("data_type",),
    )
    task: str | None = option(
        None,
        description=(
            "What the model does: text-generation, text-classification, token-classification, fill-mask or "
            "question-answering. Unset or auto: what it was made for, as its files say."
        ),
    )
    max_model_len: int = option(
        0, description="Longest prompt plus output; 0 takes the model's own limit.", unit="tokens", ge=0
    )
    kv_cache_memory_bytes: int = option(
        0,
        description="Memory for the cache of keys and values; 0 takes half of what the weights leave.",
        unit="bytes",
        ge=0,
    )
    max_rolling_batch_prefill_tokens: int = option(
        0,
        description="Most prompt tokens read in one step, longer prompts in pieces. 0: 512 on CPU, 2048 on CUDA.",
        unit="tokens",
        ge=0,
    )
    prefill_tokens_beside_decodes: int = option(
        0,
        description=(
            "Prompt tokens a step, on average, while eight or more requests produce tokens for each prompt that waits; "
            "with fewer it grows in proportion. Small keeps their pace, large gives a new prompt its first token "
            "sooner. 0: 16 on CPU, 512 on CUDA."
        ),
        unit="tokens",
        ge=0,
    )
    n_threads: int = option(
        0,
        description="Processor threads of one copy; 0 takes OMP_NUM_THREADS, else one a core.",
        unit="threads",
        ge=0,
        le=1024,
        aliases=("threads",),
    )
    omp_wait_policy: Literal["auto", "active", "passive"] = option(
        "auto",
        description=(
            "How threads wait for each other: auto and active spin, which is fastest on cores of one's own; passive "
            "sleeps, which keeps the pace beside a process that is always busy. OMP_WAIT_POLICY, if set, wins."
        ),
    )
    device_map: str | None = option(
        None,
        description=(
            "How Accelerate spreads layers over devices: auto, balanced, balanced_low_0, sequential or a device (cpu, "
            "cuda, cuda:N). It overrides what tensor_parallel_degree would choose. Unset: one device, or auto where "
            "tensor_parallel_degree is above 1."
        ),
    )
    quantize: Quantization | _BitsAndBytes | None = option(
        None,
        description=(
            "bitsandbytes4 and bitsandbytes8 compress the weights while they load: turn it on where the model does not "
            "fit. gptq and awq say that the checkpoint is compressed that way, and are best left out: its config.json "
            "says so."
        ),
    )
    load_in_8bit: bool = option(False, description="Old form of quantize=bitsandbytes8.")
    load_in_4bit: bool = option(False, description="Old form of quantize=bitsandbytes4.")
    is_peft_model: bool | None = option(
        None, description="Whether the folder holds an adapter for another model; found by its files when unset."
    )
    enable_lora: bool = option(
        False,
        description="Serve LoRA adapters that requests name. Turn on only where there are some: it needs peft.",
    )
    max_loras: int | None = option(
        None,
        description=(
            "Different adapters that the requests of one step name; requests for others wait. Unset: no limit. Each "
            "takes calls of its own; all that are loaded stay in the memory of the device."
        ),
        unit="adapters",
        ge=1,
    )
    max_lora_rank: int | None = option(
        None, description="Largest rank of an adapter that is taken. Unset: any.", unit="rank", ge=1
    )
    low_cpu_mem_usage: bool = option(True, description="Load weights without a second copy; always so.")
    disable_flash_attn: bool = option(
        True, description="Do not use the flash-attn package; always so, PyTorch's own kernels are used."
    )
    decoding_strategy: Literal["greedy", "sample", "contrastive"] = option(
        "greedy", description="What requests get that do not ask for sampling; only greedy is offered."
    )
    max_sparsity: float = option(
        0.33,
        description="Padding allowed in a batch of the original scheduler; there is none here.",
        unit="share",
        ge=0,
        le=1,
    )
    max_splits: int = option(
        3, description="Splits of a batch in the original scheduler; there are none here.", unit="splits", ge=1
    )
    multi_gpu: str | None = option(None, description="Deprecated in LMI; use device_map or tensor_parallel_degree.")

    @field_validator("dtype", mode="before")
    @classmethod
    def _name_dtype(cls, value: Any) -> Any:
        return dtype_name(value)

    @field_validator("quantize", mode="before")
    @classmethod
    def _name_quantization(cls, value: Any) -> Any:
        return value.lower() or None if isinstance(value, str) else value

    @field_validator("device_map")
    @classmethod
    def _known_device_map(cls, value: str | None) -> str | None:
        name = (value or "").lower()
        kind = name.partition(":")[0]
        if not name or name in DEVICE_MAPS or kind in ("cpu", "cuda") or name.isdigit():
            return name or None
        near = difflib.get_close_matches(name, [*DEVICE_MAPS, "cpu", "cuda"], n=1)
        guess = f". Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"it takes {', '.join(DEVICE_MAPS)}, cpu, cuda or cuda:N{guess}")

    @property
    def quantization(self) -> Quantization | None:
        """``quantize``, or what its old forms say."""
        if self.quantize == "bitsandbytes" or (self.quantize is None and self.load_in_8bit):
            return "bitsandbytes8"
        if self.quantize is None and self.load_in_4bit:
            return "bitsandbytes4"
        return next((name for name in get_args(Quantization) if name == self.quantize), None)

    @property
    def quantization_asked(self) -> tuple[str, str]:
        """The option that asks for ``quantization``, and its value as a user writes it."""
        old = next((name for name in ("load_in_8bit", "load_in_4bit") if getattr(self, name)), "")
        return (old, "true") if old and self.quantize is None else ("quantize", str(self.quantize).lower())

    def conflicts(self) -> Iterator[Conflict]:
        """What does not go together, and what is old or has no effect."""
        from lmi_hf.conflicts import conflicts_of

        return conflicts_of(self)
