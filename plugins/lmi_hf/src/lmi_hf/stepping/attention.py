# SPDX-License-Identifier: Apache-2.0
"""Attention over the arena: each chunk and each run of slots is one call on a view, nothing is gathered or repeated."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from lmi_hf.stepping.arena import LayerRows
from lmi_hf.stepping.plan import Chunk, Plan, Run

NAME = "lmi_slots"
"""Under this name transformers' models call ``_attend_slots``. No mask function is registered with it, which tells
transformers that none is needed."""

_HARMLESS = frozenset({"dropout", "is_causal", "position_ids", "use_cache", "cache_position", "layer_idx"})


def attend(query: torch.Tensor, layer: LayerRows, plan: Plan, scale: float, window: int = 0) -> torch.Tensor:
    """Attend the step's rows to the slots' tokens.

    Args:
        query: [n_rows, n_query_heads, key_size]; query heads that share a key head are neighbours.
        layer: holds the step's own keys and values already.
        plan: the step.
        scale: of the products before the softmax.
        window: most tokens a row attends to, itself included; 0 for all.
    Returns:
        [n_rows, n_query_heads * value_size].
    """
    shape = layer.shape
    query = query.view(len(query), shape.n_heads, -1, shape.key_size)
    if not plan.chunks and len(plan.runs) == 1:
        return _attend_run(query, layer, plan, plan.runs[0], scale, window).flatten(1)
    out = query.new_empty(plan.n_rows, shape.n_heads, query.shape[2], shape.value_size)
    for chunk in plan.chunks:
        rows = slice(chunk.row, chunk.row + chunk.n)
        out[rows] = _attend_chunk(query[rows], layer, plan, chunk, scale, window)
    for run in plan.runs:
        rows = slice(run.row, run.row + run.n)
        out[rows] = _attend_run(query[rows], layer, plan, run, scale, window)
    return out.flatten(1)


def _attend_chunk(
    query: torch.Tensor, layer: LayerRows, plan: Plan, chunk: Chunk, scale: float, window: int
) -> torch.Tensor:
    """One slot, many rows: key heads are the batch, the query heads of a group see the same keys by stride 0."""
    n_groups = query.shape[2]
    keys = layer.keys[chunk.slot, : chunk.end].transpose(0, 1)[:, None].expand(-1, n_groups, -1, -1)
    values = layer.values[chunk.slot, : chunk.end].transpose(0, 1)[:, None].expand(-1, n_groups, -1, -1)
    mask = plan.chunk_mask(chunk, window, query)
    out = scaled_dot_product_attention(
        query.permute(1, 2, 0, 3), keys, values, attn_mask=mask, is_causal=mask is None, scale=scale
    )
    return out.permute(2, 0, 1, 3)


def _attend_run(query: torch.Tensor, layer: LayerRows, plan: Plan, run: Run, scale: float, window: int) -> torch.Tensor:
    """Many slots, one row each: slots are the batch, the query heads of a group stand where query positions would."""
    first, last = plan.run_span(run, window)
    slots = slice(run.first_slot, run.last_slot)
    keys = layer.keys[slots, first:last].transpose(1, 2)
    values = layer.values[slots, first:last].transpose(1, 2)
    mask = plan.run_mask(run, window, query)
    if not run.has_holes:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    filled = query.index_select(0, plan.run_rows(run, query.device))
    out = scaled_dot_product_attention(filled, keys, values, attn_mask=mask, scale=scale)
    return out.index_select(0, plan.run_places(run, query.device))


class SlotCache(Cache):
    """A cache in transformers' sense that writes to the arena; made anew each step.

    Its ``update`` returns the layer instead of tensors: whatever is not ``_attend_slots`` fails on it at once, so an
    architecture that goes around the attention interface is noticed by the self-check.
    """

    def __init__(self, layers: list[LayerRows], plan: Plan) -> None:
        super().__init__(layers=[])
        self.arena_layers = layers
        self.plan = plan

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Write keys and values [1, n_heads, n_rows, size] of the step; the returned pair is for _attend_slots."""
        layer = self.arena_layers[layer_idx]
        rows = torch.cat([key_states[0].transpose(0, 1).flatten(1), value_states[0].transpose(0, 1).flatten(1)], dim=1)
        layer.rows.index_copy_(0, self.plan.index_on(rows.device), rows)
        return (layer, self.plan), layer

    def get_seq_length(self, layer_idx: int = 0, *args: Any) -> int:
        return 0


def _attend_slots(
    module: torch.nn.Module, query: torch.Tensor, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """The function transformers' attention modules call; query is [1, n_query_heads, n_rows, key_size]."""
    scaling, window = kwargs.pop("scaling", None), kwargs.pop("sliding_window", None)
    asked = {name for name, given in kwargs.items() if given is not None and given is not False}
    unknown = sorted(asked - _HARMLESS)
    if unknown or attention_mask is not None:
        raise NotImplementedError(f"attention with {', '.join(unknown) or 'a mask of its own'}")
    layer, plan = key
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = attend(query[0].transpose(0, 1), layer, plan, scale, window or 0)
    return out.view(1, plan.n_rows, query.shape[1], layer.shape.value_size), None


cast(Any, AttentionInterface).register(NAME, _attend_slots)
