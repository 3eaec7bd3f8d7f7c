# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits devices of a size, and how many sequences beside it."""

from __future__ import annotations

import msgspec

from lmi.api import Accelerator, ModelShape
from lmi.api.backend import MemoryOverhead
from lmi.planning.cache import CacheShape, layers_of_fullest
from lmi.planning.sizing import Sizing
from lmi.planning.weights import DTYPE_BYTES, ServedWeights

_LOGIT_BYTES = 4
_N_LOGIT_COPIES = 2
"""Logits are sampled in fp32, and sorted into a second tensor of their size."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """One way to split a model over devices. Bytes are those of one device.

    Args:
        degree: devices of a copy, the stages counted in.
        memory_bytes: of a device; 0 where that is not known, and then nothing is said of what fits.
        weight_bytes: of the weights.
        activation_bytes: what a step takes at most.
        overhead_bytes: what context, collectives and graphs take.
        reserve_bytes: what is left alone.
        cache_bytes: left for keys and values; negative where the rest does not fit.
        cache: what a sequence takes of it.
        max_model_len: tokens of a sequence.
        max_sequences: most sequences the configuration runs at a time.
        cache_parts: how many times this device's part of the cache all devices together keep.
        refusal: why a model cannot be split this way; empty where it can.
    """

    degree: int
    memory_bytes: int
    weight_bytes: int
    activation_bytes: int
    overhead_bytes: int
    reserve_bytes: int
    cache_bytes: int
    cache: CacheShape
    max_model_len: int
    max_sequences: int
    cache_parts: float = 1.0
    refusal: str = ""

    @property
    def needed_bytes(self) -> int:
        """What is needed before the first token, with what is left alone."""
        return self.weight_bytes + self.activation_bytes + self.overhead_bytes + self.reserve_bytes

    @property
    def holds_weights(self) -> bool:
        """Whether there is room for everything but the cache, and for some of that."""
        return not self.refusal and self.memory_bytes > 0 and self.cache_bytes > 0

    @property
    def most_tokens(self) -> int:
        """The longest sequence that fits, up to ``max_model_len``."""
        if self.cache_bytes <= 0:
            return 0
        most = self.cache.most_tokens(self.cache_bytes)
        return self.max_model_len if most is None else min(most, self.max_model_len)

    @property
    def n_sequences(self) -> int:
        """Whole sequences of ``max_model_len`` that fit, not more than the configuration runs."""
        return self.sequences_of(self.max_model_len)

    def sequences_of(self, n_tokens: int) -> int:
        """Sequences of so many tokens that fit, not more than the configuration runs."""
        if not self.holds_weights or n_tokens > self.max_model_len:
            return 0
        each = self.cache.bytes_of(n_tokens)
        return min(self.cache_bytes // each, self.max_sequences) if each else self.max_sequences

    @property
    def fits(self) -> bool:
        """Whether one whole sequence fits beside the weights."""
        return self.n_sequences > 0


def refused_degree(shape: ModelShape, degree: int, *, splits_layers: bool = False, takes_uneven: bool = False) -> str:
    """Why a model cannot be split over so many devices; empty where it can.

    Args:
        shape: of the model.
        degree: devices.
        splits_layers: whether they get whole layers; those that are left over stay empty.
        takes_uneven: whether some may get more heads than others.
    """
    if splits_layers:
        return ""
    if takes_uneven:
        too_many = 0 < shape.n_heads < degree
        return f"{shape.n_heads} attention heads are fewer than {degree} devices" if too_many else ""
    if shape.n_heads % degree:
        return f"{shape.n_heads} attention heads cannot be split over {degree} devices"
    few, many = sorted((shape.n_kv_heads or 1, degree))
    if not shape.is_latent and many % few:
        return f"{shape.n_kv_heads} key-value heads cannot be split over {degree} devices"
    return ""


def fits_at(
    degree: int,
    *,
    weights: ServedWeights,
    shape: ModelShape,
    sizing: Sizing,
    overhead: MemoryOverhead,
    accelerator: Accelerator,
    memory_bytes: int,
) -> Fit:
    """Split a model over devices.

    Args:
        degree: how many, not counting stages.
        weights: what they come to.
        shape: sizes of the model.
        sizing: what the configuration says.
        overhead: what the backend takes besides.
        accelerator: kind of the devices.
        memory_bytes: of one device; 0 where it is not known.
    """
    n_parts = degree * sizing.n_stages
    largest = _fullest_bytes(weights, shape, degree) // sizing.n_stages if overhead.splits_layers else (
        weights.n_bytes // n_parts
    )  # fmt: skip
    weight_bytes = max(0, largest - sizing.offload_bytes)
    activations = _activation_bytes(shape, sizing, 1 if overhead.splits_layers else degree)
    fixed = _overhead_bytes(overhead, sizing, accelerator, n_parts)
    reserve = round(memory_bytes * (1 - sizing.memory_share))
    left = memory_bytes - reserve - weight_bytes - activations - fixed
    cache_bytes = round(left * sizing.cache_share) if left > 0 else left
    if sizing.cache_bytes and left > 0:
        cache_bytes = min(sizing.cache_bytes, left)
    return Fit(
        degree=n_parts, memory_bytes=memory_bytes, weight_bytes=weight_bytes, activation_bytes=activations,
        overhead_bytes=fixed, reserve_bytes=reserve, cache_bytes=cache_bytes,
        cache=_cache_of(degree, shape, sizing, overhead),
        max_model_len=sizing.max_model_len, max_sequences=sizing.max_sequences,
        cache_parts=sizing.n_stages * _n_cache_parts(shape, degree, overhead),
        refusal=refused_degree(
            shape, degree, splits_layers=overhead.splits_layers, takes_uneven=overhead.takes_uneven
        ),
    )  # fmt: skip


def _fullest_bytes(weights: ServedWeights, shape: ModelShape, degree: int) -> int:
    """Weights of the fullest device where each gets whole layers: most of the layers, and the embedding or the head.

    Source: a device map of Accelerate's goes through the model's parts in their order; it may give one device a layer
    more than this while there is room, and gives it no more than it has room for.
    """
    if degree == 1 or not shape.n_layers:
        return weights.n_bytes
    tables = min(weights.n_tables * weights.table_bytes, weights.n_bytes)
    layers = (weights.n_bytes - tables) * layers_of_fullest(shape, degree) / shape.n_layers
    return min(weights.n_bytes, round(layers) + min(weights.table_bytes, tables))


def _n_cache_parts(shape: ModelShape, degree: int, overhead: MemoryOverhead) -> float:
    return shape.n_layers / layers_of_fullest(shape, degree) if overhead.splits_layers and shape.n_layers else degree


def _cache_of(degree: int, shape: ModelShape, sizing: Sizing, overhead: MemoryOverhead) -> CacheShape:
    """What one device of a stage keeps."""
    cache = CacheShape.of(
        shape, sizing.cache_dtype, degree=degree, keeps_latent=overhead.keeps_latent,
        ends_window=overhead.ends_window, splits_layers=overhead.splits_layers,
    )  # fmt: skip
    n = sizing.n_stages
    return msgspec.structs.replace(cache, full_bytes=cache.full_bytes / n, window_bytes=cache.window_bytes / n)


def _activation_bytes(shape: ModelShape, sizing: Sizing, degree: int) -> int:
    """The largest layer's numbers for a step's tokens, and the logits.

    A layer holds the stream and its normed copy, queries, keys and values, and the two inner products of its
    feed-forward part at one time, of which the last are split.
    """
    size = DTYPE_BYTES.get(sizing.dtype, 2.0)
    heads = (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim
    numbers = 3 * shape.hidden + (heads + 2 * shape.intermediate) / degree
    n_tokens = min(sizing.prefill_tokens, max(sizing.max_model_len, sizing.max_sequences))
    logits = sizing.max_sequences * shape.vocab * _LOGIT_BYTES * _N_LOGIT_COPIES
    return round(n_tokens * numbers * size + logits)


def _overhead_bytes(overhead: MemoryOverhead, sizing: Sizing, accelerator: Accelerator, n_parts: int) -> int:
    if accelerator is Accelerator.CPU:
        return overhead.host_bytes
    graphs = overhead.graph_bytes if sizing.has_graphs and accelerator is Accelerator.CUDA else 0
    return overhead.context_bytes + graphs + (overhead.parallel_bytes if n_parts > 1 else 0)
