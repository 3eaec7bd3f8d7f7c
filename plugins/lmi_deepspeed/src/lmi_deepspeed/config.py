# SPDX-License-Identifier: Apache-2.0
"""Options of the deepspeed backend: LMI's names for what DeepSpeed's inference engine calls otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lmi.api import BackendConfig, Conflict, Severity, dtype_name, option

Quantization = Literal["smoothquant", "dynamic_int8"]
QUANTIZATIONS: tuple[Quantization, ...] = ("smoothquant", "dynamic_int8")
DEFAULT_MAX_TOKENS = 1024

_Int8 = Annotated[str, Field(pattern=r"^int8$")]
"""A type of earlier versions, taken here to be refused with what replaced it."""

_IN_GENERATED_CONFIG = (
    "max_tokens",
    "checkpoint",
    "save_mp_checkpoint_path",
)
"""What LMI writes into DeepSpeed's configuration, and what a configuration of the user's own replaces."""


_OF_KERNELS = ("triangular_masking", "return_tuple", "training_mp_size")


class DeepSpeedConfig(BackendConfig):
    """Options of the deepspeed backend."""

    max_rolling_batch_size: int = option(
        4,
        description=(
            "Sequences that run at the same time in one copy of the model. Raise it for throughput while memory lasts."
        ),
        unit="sequences",
        ge=1,
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] | _Int8 = option(
        "auto",
        description=(
            "Number type of the weights. auto takes bf16 where the device computes it, else fp16, else fp32. Set fp16 "
            "or fp32 for quantize=smoothquant."
        ),
        old_names=("data_type",),
    )
    task: str | None = option(
        None,
        description=(
            "What the model does: text-generation (or conversational), text-classification, token-classification, "
            "fill-mask or question-answering. Unset or auto: what it was made for, as its files say."
        ),
    )
    quantize: Quantization | str | None = option(
        None,
        description=(
            "Linear layers in 8 bits, made by torchao while the model loads. smoothquant stays nearer to the whole "
            "model, at the cost of a calibration (gpt2, gpt_neo, gptj, gpt_neox, bloom, llama only; not with bf16); "
            "dynamic_int8 needs none. Use it where memory is short. Other names are left out with a warning."
        ),
    )
    smoothquant_alpha: float | None = option(
        None,
        description=(
            "With quantize=smoothquant: how much of the difficulty moves from activations to weights. Larger protects "
            "activations with large outliers. 0.5 when unset."
        ),
        unit="share",
        ge=0,
        le=1,
    )
    max_tokens: int = option(
        DEFAULT_MAX_TOKENS,
        description=(
            "Longest prompt plus output that memory is set aside for. Raise it for long outputs, lower it where memory "
            "is short; the model's own limit holds where that is smaller."
        ),
        unit="tokens",
        ge=1,
        aliases=("max_out_tokens",),
    )
    low_cpu_mem_usage: bool = option(
        True,
        description="Load weights without a second copy in host memory; always so, only true has an effect.",
    )
    enable_cuda_graph: bool = option(
        False,
        description=(
            "Record the forward pass once and replay it. Not to be had with continuous batching here; vllm has it."
        ),
    )
    triangular_masking: bool = option(
        True,
        description=("Causal attention mask in DeepSpeed's injected kernels, which are not used: it does nothing."),
    )
    return_tuple: bool = option(
        True,
        description=(
            "Whether DeepSpeed's injected layers give a tuple or a tensor. They are not used: it does nothing."
        ),
    )
    training_mp_size: int = option(
        1,
        description="Tensor parallel degree of Megatron shards, which only injected kernels join: it does nothing.",
        unit="devices",
        ge=1,
    )
    checkpoint: str | None = option(
        None,
        description=(
            "JSON file, relative to the model, that lists a model's shards. Saves loading time and memory, since each "
            "rank reads its own part; goes with no quantize and with the degree that the shards were made for."
        ),
    )
    save_mp_checkpoint_path: str | None = option(
        None,
        description=(
            "Folder that gets the model in shards, for the checkpoint option of later starts. Turn on once for a model "
            "that loads slowly."
        ),
    )
    deepspeed_config_path: str | None = option(
        None,
        description=(
            "JSON file with a DeepSpeed inference configuration, used instead of the one made from these options. For "
            "settings that have no option."
        ),
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _name_dtype(cls, value: Any) -> Any:
        return dtype_name(value)

    @field_validator("quantize", "task", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @property
    def quantization(self) -> Quantization | None:
        """``quantize`` where it names a method of this backend, else None."""
        return next((each for each in QUANTIZATIONS if each == self.quantize), None)

    def is_changed(self, name: str) -> bool:
        """Whether a field has another value than its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def conflicts(self) -> Iterator[Conflict]:
        """See BackendConfig."""
        yield from super().conflicts()
        yield from self._about_numbers()
        yield from self._about_shards_and_kernels()
        yield from self._without_effect()

    def _about_numbers(self) -> Iterator[Conflict]:
        if self.dtype == "int8":
            yield Conflict(
                fields=("dtype",),
                message="dtype is int8, which is not a type that weights are loaded in",
                hint="Write option.quantize=dynamic_int8 for 8-bit weights; dtype takes auto, bf16, fp16 or fp32",
            )
        if self.quantization == "smoothquant" and self.dtype == "bf16":
            yield Conflict(
                fields=("dtype", "quantize"),
                message="quantize=smoothquant does not go with dtype=bf16",
                hint="Set option.dtype=fp16 or fp32, or use option.quantize=dynamic_int8",
            )
        if self.quantize is not None and self.quantization is None:
            near = difflib.get_close_matches(self.quantize, QUANTIZATIONS, n=1)
            question = f"Did you mean '{near[0]}'? " if near else ""
            yield Conflict(
                fields=("quantize",),
                message=f"quantize={self.quantize} is no method of deepspeed and is left out: nothing is quantized",
                hint=f"{question}Choices: {', '.join(QUANTIZATIONS)}. Leave it out for weights as they are",
                severity=Severity.WARNING,
                code="config.no-effect",
            )

    def _about_shards_and_kernels(self) -> Iterator[Conflict]:
        if self.checkpoint is not None and self.quantization is not None:
            yield Conflict(
                fields=("checkpoint", "quantize"),
                message=f"checkpoint={self.checkpoint} does not go with quantize={self.quantization}: shards are "
                "loaded as they were stored",
                hint="Remove option.checkpoint and load the whole model, or remove option.quantize",
            )
        if self.enable_cuda_graph:
            yield Conflict(
                fields=("enable_cuda_graph",),
                message="enable_cuda_graph=true cannot be had: a recorded graph has one number of sequences, and here "
                "they come and go one by one",
                hint="Remove option.enable_cuda_graph, or use option.rolling_batch=vllm, which records many graphs",
            )
        for name in filter(self.is_changed, _OF_KERNELS):
            yield Conflict(
                fields=(name,),
                message=f"{name}={getattr(self, name)} does nothing: it is for DeepSpeed's injected kernels, which "
                "keep one cache for a whole batch and are not used",
                hint=f"Remove option.{name}",
                severity=Severity.WARNING,
                code="config.no-effect",
            )
        if (self.save_mp_checkpoint_path or "").startswith("s3://"):
            yield Conflict(
                fields=("save_mp_checkpoint_path",),
                message=f"save_mp_checkpoint_path={self.save_mp_checkpoint_path} is not a folder, and shards are not "
                "uploaded",
                hint="Name a folder, and copy it: aws s3 sync FOLDER s3://...",
            )

    def _without_effect(self) -> Iterator[Conflict]:
        if self.smoothquant_alpha is not None and self.quantization != "smoothquant":
            yield Conflict(
                fields=("smoothquant_alpha", "quantize"),
                message=f"smoothquant_alpha={self.smoothquant_alpha:g} does nothing: quantize is "
                f"{self.quantize or 'unset'}, not smoothquant",
                hint="Remove it, or set option.quantize=smoothquant",
                severity=Severity.WARNING,
                code="config.no-effect",
            )
        if not self.low_cpu_mem_usage:
            yield Conflict(
                fields=("low_cpu_mem_usage",),
                message="low_cpu_mem_usage=false does nothing: transformers 5 never makes a second copy of the weights",
                hint="Remove option.low_cpu_mem_usage",
                severity=Severity.WARNING,
                code="config.no-effect",
            )
        if self.deepspeed_config_path is None:
            return
        for name in filter(self.is_changed, _IN_GENERATED_CONFIG):
            yield Conflict(
                fields=(name, "deepspeed_config_path"),
                message=f"{name} does nothing: deepspeed_config_path={self.deepspeed_config_path} replaces the "
                "configuration it is written to",
                hint=f"Put it into that file, and remove option.{name}",
                severity=Severity.WARNING,
                code="config.no-effect",
            )
