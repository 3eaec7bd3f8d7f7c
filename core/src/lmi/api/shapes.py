# SPDX-License-Identifier: Apache-2.0
"""The sizes of a model, whatever names its family gives them in config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from lmi.api.artifacts import ModelArtifacts
from lmi.api.layers import MAX_LAYERS, cache_layers

_LANGUAGE_PARTS = (
    "thinker_config", "text_config", "llm_config", "language_config", "language_model_config", "decoder",
    "pretrained_config",
)  # fmt: skip
"""Where a multimodal model keeps the configuration of the part that speaks, and built engines that of their model."""

_NESTED = ("attn_config", "ffn_config", "moe")
"""Sections of some families; what stands in them counts like the rest."""

_NAMES = {
    "n_layers": (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers", "layers",
    ),
    "n_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "attention_heads"),
    "n_kv_heads": ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_head_kv", "kv_n_heads"),
    "head_dim": ("attention_head_dim", "head_dim", "kv_channels", "d_kv"),
    "hidden": ("hidden_size", "n_embd", "n_embed", "d_model", "dim", "embed_dim"),
    "intermediate": (
        "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "hidden_dim", "decoder_ffn_dim",
    ),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "n_experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "kv_lora_rank": ("kv_lora_rank",),
    "qk_rope_head_dim": ("qk_rope_head_dim",),
    "qk_nope_head_dim": ("qk_nope_head_dim",),
    "v_head_dim": ("v_head_dim",),
}  # fmt: skip
"""Size -> its names, the usual one first."""

_FOUR_TIMES = ("gpt2", "gptj", "codegen", "gpt_neo", "gpt_bigcode", "bloom", "falcon", "RefinedWeb", "RefinedWebModel")
"""Families whose inner layer is four times as wide as the hidden one unless they say otherwise."""

_LEFT_OUT: dict[str, dict[str, int]] = {
    "llama": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008,
        "vocab_size": 32000, "max_position_embeddings": 2048,
    },
    "mistral": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336,
        "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 131072,
    },
    "qwen2": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 22016,
        "num_key_value_heads": 32, "vocab_size": 151936, "max_position_embeddings": 32768,
    },
    "gemma": {
        "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 24576,
        "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256000, "max_position_embeddings": 8192,
    },
    "gemma2": {
        "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "intermediate_size": 9216,
        "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000, "sliding_window": 4096,
        "max_position_embeddings": 8192,
    },
    "gemma3_text": {
        "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "intermediate_size": 9216,
        "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208, "sliding_window": 4096,
        "max_position_embeddings": 131072,
    },
}  # fmt: skip
"""What transformers leaves out of the language part of a multimodal model, since its family has it by default."""


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of a model; 0 where its configuration does not tell.

    Args:
        n_layers: layers of the part that makes tokens.
        n_heads: query heads of an attention layer.
        n_kv_heads: key-value heads of one; the most, where layers differ.
        head_dim: numbers of a query or key head.
        v_head_dim: numbers of a value head.
        hidden: numbers of a token between layers.
        intermediate: numbers inside a layer's feed-forward part; of one expert where there are several sizes.
        vocab: tokens there are.
        n_experts: experts of a layer; 0 for a model without.
        kv_lora_rank: latent numbers that stand for keys and values (multi-head latent attention).
        qk_rope_head_dim: numbers beside them that carry the position.
        n_full_layers: layers that keep keys and values of the whole sequence.
        n_window_layers: layers that keep those of the last ``window_tokens``; what is left of ``n_layers`` keeps a
            state whose size does not grow, shares the cache of another layer, or keeps nothing.
        window_tokens: tokens of the window.
    """

    n_layers: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    hidden: int = 0
    intermediate: int = 0
    vocab: int = 0
    n_experts: int = 0
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    n_full_layers: int = 0
    n_window_layers: int = 0
    window_tokens: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read a configuration.

        Args:
            config: ``config.json`` or ``params.json`` as it stands; that of a multimodal model gives the shape of its
                language part.
        """
        text = _language_part(config)
        sizes = {name: _size(text, names) for name, names in _NAMES.items()}
        sizes["n_layers"] *= sizes["n_layers"] <= MAX_LAYERS
        n_heads, hidden, layers = sizes["n_heads"], sizes["hidden"], cache_layers(text, sizes["n_layers"])
        nope = sizes.pop("qk_nope_head_dim")
        sizes["head_dim"] = sizes["head_dim"] or (hidden // n_heads if n_heads else 0)
        if sizes["kv_lora_rank"] and nope:
            sizes["head_dim"] = nope + sizes["qk_rope_head_dim"]
        sizes["v_head_dim"] = sizes["v_head_dim"] or sizes["head_dim"]
        sizes["n_kv_heads"] = _n_kv_heads(text, sizes["n_kv_heads"], n_heads)
        sizes["intermediate"] = _intermediate(text, sizes["intermediate"], hidden)
        return cls(
            **{**sizes, "n_layers": sizes["n_layers"] or layers.n_layers},
            n_full_layers=layers.n_full,
            n_window_layers=layers.n_window,
            window_tokens=layers.window_tokens,
        )

    @property
    def is_latent(self) -> bool:
        """Whether one latent vector can stand for the keys and values of all heads."""
        return self.kv_lora_rank > 0

    @property
    def n_cached_numbers(self) -> int:
        """Numbers that one layer keeps of one token: keys and values, or the latent vector where there is one."""
        if self.is_latent:
            return self.kv_lora_rank + self.qk_rope_head_dim
        return self.n_kv_heads * (self.head_dim + self.v_head_dim)


def shape_of(artifacts: ModelArtifacts) -> ModelShape:
    """The sizes of the model in a folder; of one in Mistral's form, as its ``params.json`` has them."""
    return ModelShape.of(artifacts.config or artifacts.document("params.json"))


def language_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the part of a model that speaks, over what stands around it.

    Args:
        config: ``config.json`` as it stands.
    """
    for part in _LANGUAGE_PARTS:
        inner = config.get(part)
        if isinstance(inner, Mapping):
            return language_part({**{key: config[key] for key in config if key != part}, **inner})
    return config


def left_out(config: Mapping[str, Any]) -> Mapping[str, int]:
    """What a multimodal model does not say of its language part, because the family has it by default.

    Args:
        config: ``config.json`` as it stands; of a model that is all language it is complete, and nothing is added.
    """
    text = language_part(config)
    return _LEFT_OUT.get(str(text.get("model_type") or ""), {}) if text is not config else {}


def _language_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with sections flattened, and with what the family leaves out of a part."""
    text = language_part(config)
    sections = [section for name in _NESTED if isinstance(section := text.get(name), Mapping)]
    merged: dict[str, Any] = dict(left_out(config))
    for section in sections:
        merged.update(section)
    merged.update({key: value for key, value in text.items() if value is not None})
    return merged


def _numbers(value: Any) -> Iterator[int]:
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, int) and not isinstance(each, bool) and each > 0:
            yield each


def _size(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The first of these names that is a positive number; the largest of a list with one for each layer."""
    return next((found for name in names if (found := max(_numbers(config.get(name)), default=0))), 0)


def _n_kv_heads(config: Mapping[str, Any], given: int, n_heads: int) -> int:
    """As many as query heads unless the family says otherwise, each in its own way."""
    if "new_decoder_architecture" in config or config.get("model_type") in ("falcon", "RefinedWeb", "RefinedWebModel"):
        # num_kv_heads counts in the new architecture alone; the older one has one head or all of them.
        if config.get("new_decoder_architecture") or config.get("model_type") == "RefinedWeb":
            return given or n_heads
        return 1 if config.get("multi_query", True) else n_heads
    if config.get("multi_query_attention"):
        return _size(config, ("multi_query_group_num",)) or given or n_heads
    if config.get("model_type") == "gpt_bigcode" and config.get("multi_query", True):
        return 1
    return given or n_heads


def _intermediate(config: Mapping[str, Any], given: int, hidden: int) -> int:
    model_type = config.get("model_type")
    if model_type == "qwen":  # it counts two matrices that lie side by side
        return given // 2
    if model_type == "mpt" and not given:
        ratio = config.get("expansion_ratio")
        return hidden * (ratio if isinstance(ratio, int) else 4)
    return given or (4 * hidden if model_type in _FOUR_TIMES else 0)


__all__ = ["ModelShape", "language_part", "left_out", "shape_of"]
