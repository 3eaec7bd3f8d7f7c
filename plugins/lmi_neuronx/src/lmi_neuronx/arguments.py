# SPDX-License-Identifier: Apache-2.0
"""Options as arguments of Transformers-NeuronX: its class, its constructor, its NeuronConfig and its variables."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.sizes import Sizes

CLASSES = {
    "bloom": "BloomForSampling",
    "code_llama": "LlamaForSampling",
    "gpt2": "GPT2ForSamplingWithContextBroadcasting",
    "gpt_bigcode": "GPT2ForSamplingWithContextBroadcasting",
    "gpt_neox": "GPTNeoXForSampling",
    "gptj": "GPTJForSampling",
    "llama": "LlamaForSampling",
    "mistral": "MistralForSampling",
    "mixtral": "MixtralForSampling",
    "opt": "OPTForSampling",
}
"""Family -> class of transformers_neuronx. Source: its auto class; GPT BigCode is written as GPT-2 first."""

ALIGNED_FAMILIES = frozenset({"gpt_neox", "gptj"})
"""Families whose classes read one id at a time: they have neither prompt lengths of their own, nor graphs to save."""

AMP = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""LMI's name of a number type -> the library's."""

FLAGS = "NEURON_CC_FLAGS"


def set_compiler_flags(config: NeuronxConfig, environ: MutableMapping[str, str] = os.environ) -> None:
    """Add what the options ask of the compiler to its variable; what is there already stays."""
    there = environ.get(FLAGS, "").split()
    added = [flag for flag in config.compiler_flags if flag not in there]
    if added:
        environ[FLAGS] = " ".join([*there, *added])


def constructor_arguments(family: str, config: NeuronxConfig, sizes: Sizes, library: Any) -> dict[str, Any]:
    """What the class of a family gets beside the model.

    Args:
        family: ``model_type`` of config.json.
        config: the options.
        sizes: that are compiled in.
        library: the module transformers_neuronx.
    """
    arguments: dict[str, Any] = {
        "batch_size": sizes.batch_size,
        "amp": AMP[sizes.dtype],
        "tp_degree": sizes.n_cores,
        "n_positions": sizes.n_positions,
        "neuron_config": neuron_config(family, config, sizes, library),
    }
    if config.unroll is not None:
        arguments["unroll"] = config.unroll
    if sizes.is_continuous:
        # As lists these are the very sizes; a number would stand for smaller ones too, and prompts beyond the largest
        # of those would be refused.
        arguments["n_positions"] = [sizes.n_positions]
        arguments["context_length_estimate"] = [sizes.n_positions]
    elif config.context_length_estimate is not None and family not in ALIGNED_FAMILIES:
        arguments["context_length_estimate"] = list(config.context_length_estimate)
    return arguments


def samples_on_device(family: str, config: NeuronxConfig) -> bool:
    """Whether a model of Transformers-NeuronX gives ids instead of logits."""
    return config.on_device_generation is not None and family not in ALIGNED_FAMILIES


def neuron_config(family: str, config: NeuronxConfig, sizes: Sizes, library: Any) -> Any:
    """The library's NeuronConfig for these options; what is not set is left to its defaults."""
    wanted: dict[str, Any] = {}
    if sizes.is_continuous:
        wanted["continuous_batching"] = library.config.ContinuousBatchingConfig(max_num_seqs=sizes.batch_size)
    if config.has_int8_weights:
        wanted["quant"] = library.config.QuantizationConfig(quant_dtype="s8", dequant_dtype=AMP[sizes.dtype])
    if config.group_query_attention is not None:
        wanted["group_query_attention"] = library.constants.GQA(config.group_query_attention)
    for name in ("attention_layout", "collectives_layout", "cache_layout"):
        if getattr(config, name) is not None:
            wanted[name] = library.constants.Layout(getattr(config, name))
    for name in ("all_reduce_dtype", "cast_logits_dtype"):
        if getattr(config, name) is not None:
            wanted[name] = getattr(config, name)
    for name in ("fuse_qkv", "on_device_embedding", "shard_over_sequence"):
        if getattr(config, name):
            wanted[name] = True
    if config.sequence_parallel:
        wanted["sequence_parallel_norm"] = True
    if samples_on_device(family, config):
        wanted["on_device_generation"] = library.config.GenerationConfig(**(config.on_device_generation or {}))
    return library.config.NeuronConfig(**wanted)


__all__ = [
    "ALIGNED_FAMILIES", "AMP", "CLASSES", "FLAGS", "constructor_arguments", "neuron_config", "samples_on_device",
    "set_compiler_flags",
]  # fmt: skip
