# SPDX-License-Identifier: Apache-2.0
"""What a request says in text and an engine takes as ids: the prompt's end, and words that must not come."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lmi.api.requests import SamplingParams
from lmi.serving.tokenizer import Tokenizer


def last_tokens(tokenizer: Tokenizer, ids: list[int], n_tokens: int) -> list[int]:
    """A prompt cut to so many tokens from its left; what the tokenizer puts before every text stays.

    Args:
        tokenizer: the one that made the ids.
        ids: the whole prompt.
        n_tokens: most that are left, at least 1.
    Source: transformers' ``truncation_side="left"``.
    """
    if len(ids) <= n_tokens:
        return ids
    n_kept = 0
    for special, token_id in zip(tokenizer.encode(""), ids, strict=False):
        if special != token_id:
            break
        n_kept += 1
    if n_kept >= n_tokens:
        return ids[-n_tokens:]
    return [*ids[:n_kept], *ids[len(ids) - (n_tokens - n_kept) :]]


def forbid(sampling: SamplingParams, words: Sequence[str], tokenizer: Tokenizer) -> SamplingParams:
    """Sampling that does not produce these words, neither after a blank nor without one.

    A word is found where it falls into the tokens that the tokenizer gives it; in other tokens a model may still spell
    it.
    """
    sequences: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip() or word
        for text in dict.fromkeys((bare, f" {bare}", word)):
            ids = tuple(tokenizer.encode(text, adds_special=False))
            if ids:
                sequences[ids] = None
    alone = [ids[0] for ids in sequences if len(ids) == 1]
    return msgspec.structs.replace(
        sampling,
        bad_token_ids=(*sampling.bad_token_ids, *(each for each in alone if each not in sampling.bad_token_ids)),
        bad_word_ids=(*sampling.bad_word_ids, *(ids for ids in sequences if len(ids) > 1)),
    )
