# SPDX-License-Identifier: Apache-2.0
"""Options of the deepspeed backend: LMI's names for what DeepSpeed's inference engine calls otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lmi.api import BackendConfig, Conflict, Severity, dtype_name, option

Quantization = Literal["smoothquant", "dynamic_int8"]
Task = Literal[
    "text-generation",
    "text2text-generation",
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "conversational",
]

QUANTIZATIONS: tuple[Quantization, ...] = ("smoothquant", "dynamic_int8")
DEFAULT_MAX_TOKENS = 1024

_Int8 = Annotated[str, Field(pattern=r"^int8$")]
"""A type of earlier versions, taken here to be refused with what replaced it."""

_IN_GENERATED_CONFIG = (
    "max_tokens",
    "enable_cuda_graph",
    "triangular_masking",
    "return_tuple",
    "training_mp_size",
    "checkpoint",
    "save_mp_checkpoint_path",
)
"""What LMI writes into DeepSpeed's configuration, and what a configuration of the user's own replaces."""


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
    task: Task | None = option(
        None, description="What the model does; found from its architecture when unset. Set it where that fails."
    )
    quantize: Quantization | str | None = option(
        None,
        description=(
            "INT8 weights, made while the model loads. smoothquant keeps accuracy at the cost of a calibration "
            "(gpt2, gpt_neo, gptj, gpt_neox, bloom, llama only; not with bf16); dynamic_int8 needs none. Other names "
            "are left out with a warning."
        ),
    )
    smoothquant_alpha: float | None = option(
        None,
        description=(
            "With quantize=smoothquant: how much of the difficulty moves from activations to weights. Larger protects "
            "activations with large outliers. Unset: chosen by DeepSpeed."
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
        description="Load weights without a second copy in host memory. Leave it on unless a checkpoint fails with it.",
    )
    enable_cuda_graph: bool = option(
        False,
        description=(
            "Record the forward pass once and replay it. Turn it on for lower latency of small models on one CUDA "
            "device; it goes with tensor_parallel_degree=1 only."
        ),
    )
    triangular_masking: bool = option(
        True,
        description=(
            "Causal attention mask in injected kernels: right for models that continue a text. Turn off for encoders "
            "such as BERT."
        ),
    )
    return_tuple: bool = option(
        True,
        description=(
            "Whether injected layers give a tuple or a tensor. Turn off only for a model whose code takes a tensor."
        ),
    )
    training_mp_size: int = option(
        1,
        description="Tensor parallel degree the checkpoint was trained with. Set it for checkpoints stored in shards.",
        unit="devices",
        ge=1,
    )
    checkpoint: str | None = option(
        None,
        description=(
            "JSON file, relative to the model, that describes a DeepSpeed checkpoint stored in shards. Saves loading "
            "time; needs kernel injection and goes with no quantize."
        ),
    )
    save_mp_checkpoint_path: str | None = option(
        None,
        description=(
            "Folder or s3:// location that gets the model in shards, for the checkpoint option of later starts. Turn "
            "on once for a model that loads slowly."
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

    @field_validator("quantize", mode="before")
    @classmethod
    def _name_quantization(cls, value: Any) -> Any:
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
        yield from self._about_injection()
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

    def _about_injection(self) -> Iterator[Conflict]:
        if self.checkpoint is not None and self.quantization is not None:
            yield Conflict(
                fields=("checkpoint", "quantize"),
                message=f"checkpoint={self.checkpoint} does not go with quantize={self.quantization}: shards are "
                "loaded as they were stored",
                hint="Remove option.checkpoint and load the whole model, or remove option.quantize",
            )
        if self.enable_cuda_graph and self.tensor_parallel_degree > 1:
            yield Conflict(
                fields=("enable_cuda_graph", "tensor_parallel_degree"),
                message=f"enable_cuda_graph=true does not go with tensor_parallel_degree={self.tensor_parallel_degree}",
                hint="Remove option.enable_cuda_graph, or set option.tensor_parallel_degree=1",
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
