# SPDX-License-Identifier: Apache-2.0
"""Sizes that graphs are compiled for."""

from __future__ import annotations

import bisect


def token_sizes(buckets_or_size: list[int] | int) -> list[int]:
    if isinstance(buckets_or_size, list):
        return sorted(buckets_or_size)
    sizes, size = [], 128
    while size < buckets_or_size:
        sizes.append(size)
        size *= 2
    return [*sizes, buckets_or_size]


def context_sizes(buckets_or_size: list[int] | int | None, token_buckets: list[int] | None = None) -> list[int]:
    if isinstance(buckets_or_size, list):
        return sorted(buckets_or_size)
    if isinstance(buckets_or_size, int):
        return [buckets_or_size] if buckets_or_size > 0 else []
    return [each // 2 for each in token_buckets or ()]


def batch_sizes(batch_size: list[int] | int) -> list[int]:
    return [batch_size] if isinstance(batch_size, int) else sorted(batch_size)


def find(buckets: list[int] | None, size: int) -> int | None:
    """The smallest that holds the size, or the largest there is."""
    if not buckets:
        return None
    return buckets[bisect.bisect_left(buckets, size, hi=len(buckets) - 1)]
