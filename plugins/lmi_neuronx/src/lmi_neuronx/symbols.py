# SPDX-License-Identifier: Apache-2.0
"""Everything of Neuron's libraries that this plugin calls or reads; nothing else of them may be used.

Written against transformers-neuronx 0.13 and optimum-neuron 0.4.5. ``guard`` looks for each in what is installed.
"""

from __future__ import annotations

from collections.abc import Collection

from lmi.api import Symbol
from lmi_neuronx.arguments import ALIGNED_FAMILIES, CLASSES
from lmi_neuronx.families import TNX_FAMILIES

TNX = "transformers_neuronx"
OPTIMUM = "optimum.neuron"
_MODELING = "optimum.neuron.models.inference"

_CONSTRUCTOR = ("amp", "batch_size", "n_positions", "neuron_config", "tp_degree", "unroll")
_NEURON_CONFIG = (
    "all_reduce_dtype", "attention_layout", "cache_layout", "cast_logits_dtype", "collectives_layout",
    "continuous_batching", "fuse_qkv", "group_query_attention", "on_device_embedding", "on_device_generation", "quant",
    "sequence_parallel_norm", "shard_over_sequence",
)  # fmt: skip
_GENERATION = (
    "deterministic", "do_sample", "dynamic", "eos_token_id", "global_top_k", "max_length", "per_batch_line",
    "temperature", "top_k", "top_p", "top_p_min_tokens",
)  # fmt: skip


def _call(
    module: str, name: str, passed: tuple[str, ...] = (), keywords: tuple[str, ...] = (), members: tuple[str, ...] = ()
) -> Symbol:
    return Symbol(module=module, name=name, passed=passed, keywords=keywords, called=True, members=members)


_TNX_COMMON = (
    _call(f"{TNX}.config", "NeuronConfig", keywords=_NEURON_CONFIG),
    _call(f"{TNX}.config", "ContinuousBatchingConfig", keywords=("max_num_seqs",)),
    _call(f"{TNX}.config", "QuantizationConfig", keywords=("dequant_dtype", "quant_dtype")),
    _call(f"{TNX}.config", "GenerationConfig", keywords=_GENERATION),
    Symbol(module=f"{TNX}.constants", name="Layout", members=("BSH", "HSB", "SBH")),
    Symbol(
        module=f"{TNX}.constants",
        name="GQA",
        members=("ALL_GATHER_HEADS", "REPLICATED_HEADS", "SHARD_OVER_BATCH", "SHARD_OVER_HEADS"),
    ),
    _call(f"{TNX}.module", "save_pretrained_split", ("model", "save_directory")),
)

OPTIMUM_SYMBOLS = (
    _call(
        OPTIMUM,
        "NeuronModelForCausalLM.get_neuron_config",
        ("model_name_or_path",),
        ("batch_size", "sequence_length", "tensor_parallel_size"),
    ),
    _call(
        OPTIMUM, "NeuronModelForCausalLM.export", ("model_id", "neuron_config"), ("load_weights", "trust_remote_code")
    ),
    _call(OPTIMUM, "NeuronModelForCausalLM.from_pretrained", ("model_id",)),
    _call(OPTIMUM, "NeuronModelForCausalLM.save_pretrained", ("save_directory",)),
    Symbol(
        module=f"{_MODELING}.backend.config",
        name="NxDNeuronConfig",
        members=(
            "batch_size", "continuous_batching", "ctx_batch_size", "on_device_sampling", "sequence_length",
            "torch_dtype", "tp_degree",
        ),
    ),
    _call(
        f"{_MODELING}.backend.modules.decoder.modeling_decoder",
        "NxDModelForCausalLM.forward",
        ("input_ids", "position_ids"),
        ("sampling_params", "seq_ids"),
    ),
    _call(f"{_MODELING}.backend.modules.generation.sampling", "prepare_sampling_params", ("batch_size",)),
)  # fmt: skip


def tnx_symbols(families: Collection[str] = TNX_FAMILIES) -> list[Symbol]:
    """What Transformers-NeuronX must have for models of these families."""
    found = list(_TNX_COMMON)
    for family in sorted(families):
        found += _of_class(CLASSES[family], is_aligned=family in ALIGNED_FAMILIES)
    return list(dict.fromkeys(found))


def _of_class(name: str, *, is_aligned: bool) -> list[Symbol]:
    # What from_pretrained gets by name goes to the constructor, which takes the model's configuration first.
    keywords = _CONSTRUCTOR if is_aligned else (*_CONSTRUCTOR, "context_length_estimate")
    places = ("input_ids", "cache_offset") if is_aligned else ("input_ids", "cache_ids", "start_ids")
    members = ("to_neuron",) if is_aligned else ("load", "save", "to_neuron")
    return [
        _call(TNX, name, ("config",), keywords, members),
        _call(TNX, f"{name}.from_pretrained", ("pretrained_model_path",), keywords),
        _call(TNX, f"{name}.forward", places),
    ]


__all__ = ["OPTIMUM", "OPTIMUM_SYMBOLS", "TNX", "tnx_symbols"]
