# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of every kind, and what models may write with them: whole texts, halves of characters, special tokens."""

from __future__ import annotations

import tempfile
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from hypothesis import settings, strategies as st

from lmi.serving.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer
from tests.core.scripted import Face, Script
from tests.core.tokenizer_folders import KINDS, write

TOKENIZERS = ["bytes", "byte-level", "sentencepiece-bpe", "unigram", "wordpiece"]
"""One of each kind of decoder."""
EOS = 2
"""``</s>`` in all of them but ``bytes``, which has no end."""

SETTINGS = settings(deadline=None, derandomize=True, database=None, max_examples=40)

SNIPPETS = (
    "a", " two", "  ", "three\n", "don't", "naïve", "e\u0301\u0323", "日本", "Привет", "🙂", "🇫🇷🇯🇵", "▁", "\r",
    "👩\u200d👩\u200d👧", "👍🏽", "\u2028", "\x85", "\u2029", "\ufeff", "\x00", "\ufffd", "<think>", "<s>", "</s>",
)  # fmt: skip
_STOPS = (
    "a", " t", "wo", "two  ", "\n", "'t", "\u0301", "\u0323日", "🇫", "🇷", "👩", "\u200d👧", "\ufffd", "<th", "s>", " ",
)  # fmt: skip


@cache
def tokenizer(kind: str) -> Tokenizer:
    """One of TOKENIZERS, loaded as a server loads it."""
    if kind == "bytes":
        return ByteTokenizer()
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / kind, KINDS[kind]()) / "tokenizer.json"
        return FileTokenizer(file, {"eos_token": "</s>"})


@cache
def face(kind: str, **options: Any) -> Face:
    """A model with this tokenizer."""
    return Face(tokenizer(kind), eos_ids=(EOS,), **options)


@cache
def _snippets(kind: str) -> list[tuple[int, ...]]:
    """The ids of texts, whole and cut off on either side."""
    whole = [tuple(tokenizer(kind).encode(text, adds_special=False)) for text in SNIPPETS]
    return [part for ids in whole for part in (ids, ids[:-1], ids[1:]) if part]


@st.composite
def scripts(draw: st.DrawFn, kind: str) -> Script:
    """What a model with this tokenizer writes, and in which chunks it comes."""
    any_id = st.integers(0, tokenizer(kind).vocab_size - 1).map(lambda token_id: (token_id,))
    parts = draw(st.lists(st.sampled_from(_snippets(kind)) | any_id, min_size=1, max_size=6))
    ids = tuple(token_id for part in parts for token_id in part)
    ends_of_parts = list(accumulate(map(len, parts)))
    cuts = draw(st.frozensets(st.integers(1, len(ids)) | st.sampled_from(ends_of_parts), max_size=8))
    return Script(ids, cuts)


@st.composite
def wishes(draw: st.DrawFn, script: Script) -> dict[str, Any]:
    """Parameters of a request that have a say in its text, under OpenAI's names."""
    n_ids = len(script.ids)
    return {
        "max_tokens": draw(st.integers(1, n_ids) | st.just(n_ids + 5)),  # more than it writes: the deadline ends it
        "stop": draw(st.lists(st.sampled_from(_STOPS), max_size=3, unique=True)),
        "stop_token_ids": draw(st.lists(st.sampled_from(script.ids), max_size=1)),
        "ignore_eos": draw(st.booleans()),
        "include_stop_str_in_output": draw(st.booleans()),
        "skip_special_tokens": draw(st.booleans()),
    }


_OF_LMI = {"max_tokens": "max_new_tokens", "stop": "stop_sequences", "ignore_eos": "ignore_eos_token"}


def of_lmi(asked: dict[str, Any]) -> dict[str, Any]:
    """The same under LMI's names."""
    return {_OF_LMI.get(name, name): value for name, value in asked.items()}
