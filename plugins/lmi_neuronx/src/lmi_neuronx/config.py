# SPDX-License-Identifier: Apache-2.0
"""Options of the neuronx backend, under LMI's names. What they mean together is in ``rules.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lmi.api import BackendConfig, Conflict, option

DEFAULT_N_POSITIONS = 128

Layout = Literal["BSH", "HSB", "SBH"]
Float = Literal["float32", "float16", "bfloat16"]
Tokens = Annotated[int, Field(ge=1)]

_SHORT = {
    "float32": "fp32", "float": "fp32", "f32": "fp32",
    "float16": "fp16", "half": "fp16", "f16": "fp16",
    "bfloat16": "bf16",
}  # fmt: skip
_LONG = {
    "fp32": "float32", "float": "float32", "f32": "float32",
    "fp16": "float16", "half": "float16", "f16": "float16",
    "bf16": "bfloat16",
}  # fmt: skip

_LOADERS = ("tnx", "optimum")
_NO_LOADERS = {
    "vllm": "vllm is a backend of its own here: set option.rolling_batch=vllm and leave option.model_loader out",
    "nxdi": "nxdi is not a loader here; optimum drives the same library: set option.model_loader=optimum",
}
_SCHEMAS = ("legacy", "optimum", "compile_only")
_NO_SCHEMAS = {
    "safetensors": "safetensors was never implemented in LMI and is not here: use legacy, optimum or compile_only"
}
_ON_DEVICE_GENERATION = frozenset({
    "max_length", "do_sample", "top_k", "top_p", "top_p_min_tokens", "global_top_k", "eos_token_id", "temperature",
    "dynamic", "deterministic", "per_batch_line",
})  # fmt: skip
"""Source: GenerationConfig of transformers-neuronx 0.13."""


class NeuronxConfig(BackendConfig):
    """Options of the neuronx backend."""

    # sizes that the model is compiled for
    n_positions: int = option(
        DEFAULT_N_POSITIONS,
        description="Longest prompt plus output that the model is compiled for. Raise it to what requests need; "
        "compile time and memory grow with it.",
        unit="tokens",
        ge=1,
    )
    context_length_estimate: tuple[Tokens, ...] | None = option(
        None,
        description="Prompt lengths to compile besides: a,b,c. Turn on without continuous batching, where prompts are "
        "much shorter than n_positions and their first token should come sooner. With continuous batching only "
        "n_positions itself is taken.",
        unit="tokens",
    )
    batch_size: int = option(
        1,
        description="Requests that are answered together without continuous batching, and the batch that is compiled "
        "then. Above 1 it needs option.rolling_batch=disable, or rolling_batch unset.",
        unit="requests",
        ge=1,
    )
    rolling_batch: str | None = option(
        None,
        description="neuronx, tnx or auto for continuous batching, which compiles max_rolling_batch_size sequences; "
        "disable for whole batches. Unset: continuous batching where batch_size is 1.",
    )
    rolling_batch_strategy: Literal["continuous_batching", "naive_rolling_batch"] | None = option(
        None,
        description="How sequences come and go. continuous_batching is for Llama and Mistral, naive_rolling_batch for "
        "the others; unset chooses by the model.",
    )
    dtype: Literal["fp32", "fp16", "bf16"] = option(
        "fp16",
        description="Number type of weights and arithmetic; also float32, float16, bfloat16.",
        old_names=("data_type", "amp"),
    )
    entryPoint: str | None = option(
        None, description="The original LMI module, djl_python.transformers_neuronx, which selects this backend."
    )

    # weights
    quantize: Literal["static_int8"] | None = option(
        None,
        description="static_int8 keeps weights in 8 bits. Turn it on where the model does not fit, or memory bounds "
        "decoding.",
    )
    load_in_8bit: bool = option(False, description="Keep weights in 8 bits, as quantize=static_int8 does.")
    low_cpu_mem_usage: bool = option(
        False, description="Load weights without a second copy in host memory. Turn it on where loading runs out of it."
    )
    load_split_model: bool = option(
        False,
        description="The weights are already split: a folder pytorch_model.bin with one file a tensor. It must be said "
        "for such a model.",
    )
    model_loader: str | None = option(
        None,
        description="The library that loads: tnx (Transformers-NeuronX) or optimum (optimum-neuron). Unset chooses; "
        "options that tnx alone has, such as fuse_qkv or quantize, always mean tnx.",
    )

    # compilation
    compiled_graph_path: str | None = option(
        None,
        description="The compiled graph: a folder of .neff files or of a compiler cache, or an s3:// prefix. It must "
        "come from the same compiler version and the same options. A relative path starts at the model's folder.",
        is_folder=True,
    )
    save_mp_checkpoint_path: str | None = option(
        None, description="Where compiling ahead of time writes to: a folder or an s3:// prefix."
    )
    partition_schema: str = option(
        "legacy",
        description="What compiling ahead of time writes: legacy (checkpoint and compiled graph) or optimum (a folder "
        "of optimum-neuron). compile_only, a graph without a model, is not written: take the folder compiled/ that "
        "legacy has.",
    )
    neuron_optimize_level: int | None = option(
        None,
        description="The compiler's -O: 1 compiles soonest, 3 runs fastest. Unset: the compiler's own default, 2.",
        unit="level",
        ge=1,
        le=3,
    )
    enable_mixed_precision_accumulation: bool = option(
        False, description="Let the compiler accumulate in fp32. Turn it on where 16 bits cost accuracy."
    )
    enable_saturate_infinity: bool = option(
        False, description="Let the compiler turn infinities into the largest number. Turn it on against NaN outputs."
    )
    unroll: int | None = option(
        None, description="Layers that are compiled into one graph. Unset: all of them.", unit="layers", ge=1
    )

    # how the compiled model computes
    group_query_attention: (
        Literal["shard-over-heads", "shard-over-batch", "replicated-heads", "all-gather-heads"] | None
    ) = option(
        None,
        description="How the key and value heads of models with grouped-query attention are spread over the cores. "
        "Unset: the engine's choice.",
    )
    fuse_qkv: bool = option(False, description="Compute query, key and value in one product.")
    on_device_embedding: bool = option(False, description="Look embeddings up on the device instead of the host.")
    attention_layout: Layout | None = option(None, description="Order of the axes in attention. Unset: the engine's.")
    collectives_layout: Layout | None = option(
        None, description="Order of the axes in exchanges between cores. Unset: the engine's."
    )
    cache_layout: Layout | None = option(
        None, description="Order of the axes in the cache of keys and values. Unset: the engine's."
    )
    all_reduce_dtype: Float | None = option(
        None, description="Number type of sums over cores; also fp32, fp16, bf16. Unset: that of the arithmetic."
    )
    cast_logits_dtype: Float | None = option(
        None, description="Number type of logits; also fp32, fp16, bf16. Unset: the engine's, float32."
    )
    shard_over_sequence: bool = option(
        False, description="Spread the cache over cores by position. Turn it on for long contexts and few key heads."
    )
    sequence_parallel: bool = option(False, description="Spread normalisation of long prompts over cores by position.")
    on_device_generation: dict[str, int | float | bool] | None = option(
        None,
        description="Sample on the device: do_sample, top_k, top_p, temperature and the like as K=V,K2=V2 or JSON. The "
        "compiled values hold for every request, and one that asks for others is refused.",
    )

    # speculation
    speculative_draft_model: str | None = option(
        None, description="A small model with the same vocabulary that proposes tokens: a folder, a hub name or s3://."
    )
    draft_model_compiled_path: str | None = option(
        None, description="The compiled graph of speculative_draft_model: a folder or an s3:// prefix."
    )
    speculative_length: int = option(
        5, description="Tokens that the draft model proposes at a time.", unit="tokens", ge=1
    )

    # pictures, which the original served on Neuron
    use_stable_diffusion: bool = option(
        False, description="Serve a diffusion model. This version serves language models only, so it stays false."
    )
    height: int = option(512, description="Height of a picture; language models have none.", unit="pixels", ge=1)
    width: int = option(512, description="Width of a picture; language models have none.", unit="pixels", ge=1)
    num_images_per_prompt: int = option(
        1, description="Pictures for one prompt; language models have none.", unit="pictures", ge=1
    )
    use_auth_token: str | None = option(
        None, description="Access to gated diffusion models; for language models set HF_TOKEN.", repr=False
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _short_float(cls, value: Any) -> Any:
        return _SHORT.get(value.lower(), value.lower()) if isinstance(value, str) else value

    @field_validator("all_reduce_dtype", "cast_logits_dtype", mode="before")
    @classmethod
    def _long_float(cls, value: Any) -> Any:
        return _LONG.get(value.lower(), value.lower()) if isinstance(value, str) else value

    @field_validator("context_length_estimate", "on_device_generation")
    @classmethod
    def _unset_if_empty(cls, value: Any) -> Any:
        return value or None

    @field_validator("model_loader")
    @classmethod
    def _known_loader(cls, value: str | None) -> str | None:
        return value if value is None else _one_of(value, _LOADERS, _NO_LOADERS)

    @field_validator("partition_schema")
    @classmethod
    def _known_schema(cls, value: str) -> str:
        return _one_of(value, _SCHEMAS, _NO_SCHEMAS)

    @field_validator("compiled_graph_path", "save_mp_checkpoint_path", "draft_model_compiled_path")
    @classmethod
    def _path_or_s3(cls, value: str | None) -> str | None:
        if value and "://" in value and not (value.startswith("s3://") and value[5:].partition("/")[2]):
            raise ValueError("it takes a folder, or an object prefix as s3://BUCKET/PREFIX")
        return value or None

    @field_validator("on_device_generation")
    @classmethod
    def _known_parameters(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        unknown = sorted(value.keys() - _ON_DEVICE_GENERATION) if value else []
        if unknown:
            raise ValueError(f"it has no {', '.join(unknown)}; it takes {', '.join(sorted(_ON_DEVICE_GENERATION))}")
        return value

    @field_validator("use_stable_diffusion")
    @classmethod
    def _no_pictures(cls, value: bool) -> bool:
        if value:
            raise ValueError("diffusion models are not served; serve a language model, or use the original's images")
        return value

    @property
    def is_static(self) -> bool:
        """Whether whole batches are answered, without continuous batching."""
        wanted = (self.rolling_batch or "").lower()
        return wanted == "disable" or (not wanted and self.batch_size > 1)

    @property
    def compiled_batch_size(self) -> int:
        """Sequences that the model is compiled for."""
        return self.batch_size if self.is_static else self.max_rolling_batch_size

    @property
    def has_int8_weights(self) -> bool:
        return self.load_in_8bit or self.quantize == "static_int8"

    @property
    def compiler_flags(self) -> tuple[str, ...]:
        """What these options add to NEURON_CC_FLAGS; a switch adds its flag only when it is true."""
        level = self.neuron_optimize_level
        return (
            *((f"-O{level}",) if level else ()),
            *(("--enable-mixed-precision-accumulation",) if self.enable_mixed_precision_accumulation else ()),
            *(("--enable-saturate-infinity",) if self.enable_saturate_infinity else ()),
        )

    @property
    def loader(self) -> str | None:
        """The library that loads, as far as the options say; None leaves it to the model."""
        from lmi_neuronx.rules import options_of_tnx

        if options_of_tnx(self):
            return "tnx"
        return self.model_loader or ("optimum" if self.partition_schema == "optimum" else None)

    def conflicts(self) -> Iterator[Conflict]:
        """Everything that is wrong with these options together."""
        from lmi_neuronx.rules import find_conflicts

        return find_conflicts(self)


def _one_of(value: str, choices: tuple[str, ...], refused: dict[str, str]) -> str:
    name = value.lower()
    if name not in choices:
        raise ValueError(refused.get(name) or f"there is no such choice; it takes {', '.join(choices)}")
    return name
