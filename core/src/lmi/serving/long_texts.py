# SPDX-License-Identifier: Apache-2.0
"""Texts that are much too long: told by their beginning, because the ids of the whole take 30 times its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmi.api.errors import RequestError

_CHARS_PER_TOKEN = 16
"""More than texts have; one that has more in its beginning is encoded whole."""
_LEAST_CHARS = 1 << 16


def refuse_hopeless(encode: Callable[[str], Sequence[int]], text: str, limit: int, named: str = "prompt") -> None:
    """Refuse a text whose beginning alone has more than twice the tokens that fit.

    Twice, because the last tokens of a beginning are others than those of the whole text.

    Args:
        encode: gives the ids of a text.
        text: to be encoded.
        limit: tokens that the model takes.
        named: what its caller calls it.
    Raises:
        RequestError: with both numbers.
    """
    n_looked_at = max(_LEAST_CHARS, limit * _CHARS_PER_TOKEN)
    if len(text) <= 2 * n_looked_at:
        return
    n_tokens = len(encode(text[:n_looked_at]))
    if n_tokens > 2 * limit:
        raise RequestError(
            "request.too-long",
            f"{named} has {len(text)} characters, and the first {n_looked_at} of them are {n_tokens} tokens already; "
            f"this model takes {limit}",
            "Shorten it",
        )
