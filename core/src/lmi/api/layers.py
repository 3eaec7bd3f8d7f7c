# SPDX-License-Identifier: Apache-2.0
"""Which layers of a model keep keys and values, and of how many tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MAX_LAYERS = 10_000
"""A configuration that says it has more is wrong."""

_FULL, _WINDOW, _NONE = "full", "window", "none"

_RECURRENT = ("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm")
"""Families with no attention at all."""

_TWICE = ("longcat_flash",)
"""Families with two attentions in a layer."""

_PATTERNS = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4}
"""Family -> of so many layers the last one sees everything, where its configuration does not say."""


class CacheLayers(NamedTuple):
    """How many layers keep what.

    Args:
        n_layers: all of them; some families tell only by listing them.
        n_full: keep keys and values of the whole sequence; a layer with two attentions counts twice.
        n_window: keep those of the last ``window_tokens``.
        window_tokens: tokens of the window; 0 where no layer has one.
    """

    n_layers: int
    n_full: int
    n_window: int
    window_tokens: int


def cache_layers(config: Mapping[str, Any], n_layers: int) -> CacheLayers:
    """Tell the kinds of layers.

    Args:
        config: of the model's language part.
        n_layers: layers it says it has, MAX_LAYERS at most; 0 if it does not say.
    """
    window_tokens = _window_tokens(config)
    kinds = _listed(config) or _hybrid(config, n_layers) or _windowed(config, n_layers, window_tokens)
    n_shared = config.get("num_kv_shared_layers")
    own = kinds[: len(kinds) - n_shared] if isinstance(n_shared, int) and 0 < n_shared < len(kinds) else kinds
    n_window = own.count(_WINDOW) if window_tokens else 0
    n_full = (own.count(_FULL) + own.count(_WINDOW) - n_window) * (2 if config.get("model_type") in _TWICE else 1)
    return CacheLayers(len(kinds), n_full, n_window, window_tokens if n_window else 0)


def _window_tokens(config: Mapping[str, Any]) -> int:
    for name in (
        "sliding_window",
        "attention_chunk_size",
        "attention_window_size",
        "window_size",
        "sliding_window_size",
    ):
        value = config.get(name)
        values = value if isinstance(value, list) else [value]
        found = [each for each in values if isinstance(each, int) and not isinstance(each, bool) and each > 0]
        if found:
            return max(found)
    return 0


def _listed(config: Mapping[str, Any]) -> list[str]:
    """The kinds of a configuration that lists its layers one by one."""
    for name in ("layer_types", "layers_block_type"):
        types = config.get(name)
        if isinstance(types, list) and types and all(isinstance(each, str) for each in types):
            return [_kind(each) for each in types]
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:  # M: state, -: feed-forward, E: experts, *: attention
        return [_FULL if each == "*" else _NONE for each in pattern]
    types = config.get("attn_type_list")
    if isinstance(types, list) and types:
        return [_FULL if each else _NONE for each in types]
    return []


def _kind(name: str) -> str:
    if any(word in name for word in ("linear", "mamba", "conv", "recurrent", "mlp", "moe")):
        return _NONE
    if any(word in name for word in ("sliding", "chunked", "local", "window")):
        return _WINDOW
    return _FULL


def _hybrid(config: Mapping[str, Any], n_layers: int) -> list[str]:
    """The kinds of a configuration that says which layers have attention, while the others have none."""
    if config.get("model_type") in _RECURRENT:
        return [_NONE] * n_layers
    numbers = _attention_numbers(config)
    if numbers:
        return [_FULL if number in numbers else _NONE for number in range(n_layers)]
    period, offset = config.get("attn_layer_period"), config.get("attn_layer_offset", 0)
    if isinstance(period, int) and period > 0:
        return [_FULL if number % period == offset else _NONE for number in range(n_layers)]
    interval = config.get("full_attention_interval")
    if isinstance(interval, int) and interval > 0:
        return [_FULL if (number + 1) % interval == 0 else _NONE for number in range(n_layers)]
    blocks = config.get("block_types") or config.get("_block_types")
    if isinstance(blocks, list) and blocks:
        return [_WINDOW if blocks[number % len(blocks)] == "attention" else _NONE for number in range(n_layers)]
    return []


def _attention_numbers(config: Mapping[str, Any]) -> Sequence[int]:
    """Numbers of the layers with attention, from 0."""
    for name in ("attn_layer_indices", "full_attn_idxs", "hybrid_layer_ids"):
        numbers = config.get(name)
        if isinstance(numbers, list) and numbers:
            return numbers
    linear = config.get("linear_attn_config")
    numbers = linear.get("full_attn_layers") if isinstance(linear, Mapping) else None
    return [each - 1 for each in numbers if isinstance(each, int)] if isinstance(numbers, list) else []


def _windowed(config: Mapping[str, Any], n_layers: int, window_tokens: int) -> list[str]:
    """The kinds of a model whose layers all have attention."""
    if not window_tokens or config.get("use_sliding_window") is False:
        return [_FULL] * n_layers
    given = config.get("sliding_window")
    if isinstance(given, list) and given:  # one for each layer, over and over; null sees everything
        return [_WINDOW if given[number % len(given)] else _FULL for number in range(n_layers)]
    alternation = _alternation(config)
    if alternation:
        return [alternation[number % len(alternation)] for number in range(n_layers)]
    if given is None and "attention_chunk_size" not in config:  # the window of another kind of layer
        return [_FULL] * n_layers
    without_rope = config.get("no_rope_layers")
    if isinstance(without_rope, list) and without_rope:  # those with a position see a chunk
        return [_WINDOW if each else _FULL for each in without_rope]
    first = config.get("max_window_layers") if config.get("use_sliding_window") else 0
    return [_WINDOW if number >= (first if isinstance(first, int) else 0) else _FULL for number in range(n_layers)]


def _alternation(config: Mapping[str, Any]) -> list[str]:
    """The kinds of layers that repeat, in order; empty where they do not."""
    types = config.get("attention_types")  # [[["global", "local"], 12]]
    if isinstance(types, list) and types and isinstance(types[0], list) and types[0] and isinstance(types[0][0], list):
        return [_kind(str(each)) for each in types[0][0]]
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern")
    if isinstance(pattern, str):
        return [_WINDOW if each == "L" else _FULL for each in pattern]
    if not isinstance(pattern, int):
        pattern = _PATTERNS.get(str(config.get("model_type")), 0)
    return [_WINDOW] * (pattern - 1) + [_FULL] if pattern > 0 else []


__all__ = ["MAX_LAYERS", "CacheLayers", "cache_layers"]
