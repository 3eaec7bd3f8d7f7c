# SPDX-License-Identifier: Apache-2.0
"""What a request says in text and an engine takes as ids: a prompt and its pieces, and words that must not come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

import msgspec

from lmi.api.requests import SamplingParams
from lmi.api.texts import TextRequest
from lmi.serving.tokenizer import Tokenizer


def cut_prompt(tokenizer: Tokenizer, prompt: list[int], n_tokens: int, direction: str = "left") -> list[int]:
    """A prompt of at most so many tokens; what its tokenizer puts before and behind every text stays.

    Args:
        tokenizer: what made the prompt; ids that none made are cut as they are.
        prompt: the whole of it.
        n_tokens: most that are left, at least 1. Where not even the special tokens find room, they are cut, too.
        direction: the side that is cut off, ``left`` or ``right``.
    Source: the truncation of HuggingFace's tokenizers.
    """
    if len(prompt) <= n_tokens:
        return prompt
    n_before, n_behind = _n_around(tokenizer, prompt)
    end = len(prompt) - n_behind
    n_kept = n_tokens - n_before - n_behind
    if n_kept < 0:
        n_before, end, n_kept = 0, len(prompt), n_tokens
    text = prompt[n_before:end]
    kept = text[:n_kept] if direction == "right" else text[len(text) - n_kept :]
    return [*prompt[:n_before], *kept, *prompt[end:]]


def prompt_pieces(tokenizer: Tokenizer, request: TextRequest, ids: Sequence[int]) -> list[str]:
    """Where a prompt's text falls into its tokens: one piece a token, "" for those that are not in the text.

    Args:
        tokenizer: of the model.
        request: whose prompt it is.
        ids: of the prompt.
    """
    if request.prompt_ids is not None:  # which its text was made of, without special tokens
        return tokenizer.decoder().push(ids)
    n_before, n_behind = _n_around(tokenizer, ids) if request.adds_special else (0, 0)
    written = ids[n_before : len(ids) - n_behind]
    return [*[""] * n_before, *tokenizer.decoder(shows_special=True).push(written), *[""] * n_behind]


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


def _n_around(tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, int]:
    """How many ids of a prompt its tokenizer puts before and behind every text."""
    special = tokenizer.encode("")
    n_before = _n_alike(special, prompt)
    return n_before, _n_alike(reversed(special[n_before:]), reversed(prompt[n_before:]))


def _n_alike(ids: Iterable[int], others: Iterable[int]) -> int:
    """How many ids are the same from the first one on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, others, strict=False)))
