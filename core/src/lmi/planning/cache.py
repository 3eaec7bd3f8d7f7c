# SPDX-License-Identifier: Apache-2.0
"""What keys and values of a sequence take, by the kinds of layers a model has."""

from __future__ import annotations

import math

import msgspec

from lmi.api import ModelShape
from lmi.planning.weights import DTYPE_BYTES


def layers_of_fullest(shape: ModelShape, degree: int) -> int:
    """Layers of the device that gets most of them, where devices get whole ones."""
    return math.ceil(shape.n_layers / degree)


class CacheShape(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that sequences take of a cache: of the whole one, or of one device's part.

    Args:
        full_bytes: of a token, in the layers that keep the whole sequence.
        window_bytes: of a token, in the layers that keep the last ``window_tokens``.
        window_tokens: tokens of the window; 0 where there is none.
    """

    full_bytes: float
    window_bytes: float = 0.0
    window_tokens: int = 0

    @classmethod
    def of(
        cls,
        shape: ModelShape,
        dtype: str,
        *,
        degree: int = 1,
        keeps_latent: bool = True,
        ends_window: bool = True,
        splits_layers: bool = False,
    ) -> CacheShape:
        """What one device keeps.

        Args:
            shape: of the model.
            dtype: of the cache: ``bf16``, ``fp8``.
            degree: devices a copy is split over. A head is never split: where there are more devices than key-value
                heads, several keep the same one; a latent vector stands for all heads, so each device keeps it.
            keeps_latent: whether the backend keeps the latent vector instead of the keys and values made of it.
            ends_window: whether the backend frees what a layer's window has passed.
            splits_layers: whether devices get whole layers instead of a part of each; then the fullest counts.
        """
        if shape.is_latent and keeps_latent:
            n_numbers = shape.n_cached_numbers
        else:
            n_heads = shape.n_kv_heads if splits_layers else math.ceil(shape.n_kv_heads / degree)
            n_numbers = n_heads * (shape.head_dim + shape.v_head_dim)
        share = layers_of_fullest(shape, degree) / max(1, shape.n_layers) if splits_layers else 1.0
        layer_bytes = n_numbers * DTYPE_BYTES.get(dtype, 2.0) * share
        n_full, n_window = shape.n_full_layers, shape.n_window_layers
        if not ends_window:
            n_full, n_window = n_full + n_window, 0
        return cls(
            full_bytes=n_full * layer_bytes,
            window_bytes=n_window * layer_bytes,
            window_tokens=shape.window_tokens if n_window else 0,
        )

    @property
    def token_bytes(self) -> int:
        """Of one token while no window is full."""
        return math.ceil(self.full_bytes + self.window_bytes)

    def bytes_of(self, n_tokens: int) -> int:
        """What a sequence of so many tokens takes."""
        n_window = min(n_tokens, self.window_tokens)
        return math.ceil(self.full_bytes * n_tokens + self.window_bytes * n_window)

    def most_tokens(self, n_bytes: int) -> int | None:
        """The longest sequence that fits; None where a sequence never takes more, however long it gets."""
        until_window = self.full_bytes + self.window_bytes
        if not until_window:
            return None
        if not self.window_tokens or n_bytes < self.bytes_of(self.window_tokens):
            return int(n_bytes // until_window)
        if not self.full_bytes:
            return None
        return int((n_bytes - self.window_bytes * self.window_tokens) // self.full_bytes)
