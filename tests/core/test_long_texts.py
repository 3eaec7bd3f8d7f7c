# SPDX-License-Identifier: Apache-2.0
"""Texts that are much too long are told by their beginning; others are left to be encoded whole."""

from __future__ import annotations

import pytest

from lmi.api import RequestError
from lmi.serving.long_texts import refuse_hopeless


class Encoder:
    """A token a so many characters; what it was asked is kept."""

    def __init__(self, chars_per_token: int) -> None:
        self.lengths: list[int] = []
        self._chars_per_token = chars_per_token

    def __call__(self, text: str) -> list[int]:
        self.lengths.append(len(text))
        return [0] * (len(text) // self._chars_per_token)


def test_a_hopeless_text_is_refused_with_both_numbers_and_only_its_beginning_is_encoded() -> None:
    encode = Encoder(4)
    told = (
        r"request.too-long: prompt has 1000000 characters, and the first 65536 of them are 16384 tokens already; "
        r"this model takes 4096. Shorten it."
    )
    with pytest.raises(RequestError, match=told):
        refuse_hopeless(encode, "x" * 1_000_000, 4096)
    assert encode.lengths == [65536]


def test_a_text_that_is_not_much_longer_than_what_fits_is_not_encoded_twice() -> None:
    encode = Encoder(1)
    refuse_hopeless(encode, "x" * 131072, 4096)
    assert encode.lengths == []


def test_a_long_text_of_few_tokens_may_fit() -> None:
    refuse_hopeless(Encoder(1000), "x" * 1_000_000, 4096)
