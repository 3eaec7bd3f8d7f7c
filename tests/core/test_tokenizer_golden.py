# SPDX-License-Identifier: Apache-2.0
"""Texts and ids as sentencepiece and tiktoken have them, the libraries that most models' vocabularies are from."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer as RustTokenizer, decoders, models, normalizers, pre_tokenizers

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi.serving.token_decoder import Spelling, spelling_of
from lmi.serving.tokenizer import load_tokenizer
from tests.core.tokenizer_folders import CORPUS, TIKTOKEN_PATTERN, tiktoken_like

SETTINGS = settings(deadline=None, derandomize=True, database=None)
UNICODE = (
    "e\u0301 e\u0323\u0301 a\u0308\u0304",
    "🇫🇷🇯🇵 🏳️\u200d🌈",
    "👩\u200d👩\u200d👧 👍🏽 🧑🏿\u200d🚀",
    "日本語の文章 한국어 العربية עברית ไทย हिन्दी",
    "\u2028\u2029\x85\u00a0\u3000\ufeff|",
    "\ufb01 ½ \uff21 \u210c",
)
TEXTS = (
    "The capital of France is Paris.",
    "line\nbreaks\r\n\tand tabs, don't",
    "one  two   three ",
    "12345.67 naïve café",
    *UNICODE,
)
WRITTEN = st.lists(st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"])), max_size=3).map("".join)


def text_of(spelling: Spelling, ids: Iterable[int]) -> str:
    """The text of ids that come one by one."""
    decoder = spelling.decoder()
    return "".join(piece for token_id in ids for piece in decoder.push([token_id])) + decoder.flush()


# ------------------------------------------------------------------------------------------------------ sentencepiece


@cache
def trained(*, has_blank: bool) -> sentencepiece.SentencePieceProcessor:
    """A vocabulary that puts a blank before every text, or none."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, model_type="bpe", vocab_size=450, minloglevel=2,
        byte_fallback=True, add_dummy_prefix=has_blank, remove_extra_whitespaces=False, character_coverage=0.98,
        normalization_rule_name="identity", unk_id=0, bos_id=1, eos_id=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


@cache
def spelled(form: str) -> tuple[sentencepiece.SentencePieceProcessor, RustTokenizer, Spelling]:
    """A vocabulary, the tokenizer.json that models come with for it, and what is read from that."""
    processor = trained(has_blank=form != "no-blank")
    vocabulary = {processor.id_to_piece(index): index for index in range(processor.vocab_size())}
    merges = [
        (piece[:at], piece[at:])
        for piece, index in vocabulary.items()
        if not processor.is_byte(index)
        for at in sorted(range(1, len(piece)), key=lambda at: vocabulary.get(piece[:at], 0))
        if piece[:at] in vocabulary and piece[at:] in vocabulary
    ]
    rust = RustTokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if form == "no-blank":
        rust.normalizer = normalizers.Replace(" ", "▁")
    elif form == "blank-by-normalizer":
        rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    rust.decoder = decoders.Sequence(steps if form == "no-blank" else [*steps, decoders.Strip(" ", 1, 0)])
    return processor, rust, spelling_of(rust)


FORMS = ["blank-by-normalizer", "blank-by-metaspace", "no-blank"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_those_of_sentencepiece(form: str, text: str) -> None:
    processor, rust, spelling = spelled(form)
    ids = processor.encode(text)
    assert rust.encode(text).ids == ids
    assert text_of(spelling, ids) == processor.decode(ids) == text


@pytest.mark.parametrize("form", FORMS)
@given(first=WRITTEN, second=WRITTEN)
@SETTINGS
def test_text_behind_other_text_is_what_sentencepiece_adds_to_it(form: str, first: str, second: str) -> None:
    processor, _, spelling = spelled(form)
    before, ids = processor.encode("A" + first), processor.encode(second)
    decoder = spelling.decoder(before)
    pieces = [piece for token_id in ids for piece in decoder.push([token_id])]
    assert processor.decode(before) + "".join(pieces) + decoder.flush() == processor.decode(before + ids)
    assert b"".join(map(spelling.data, ids)) == "".join(pieces).encode()


# ----------------------------------------------------------------------------------------------------------- tiktoken


@cache
def encoding() -> tuple[tiktoken.Encoding, RustTokenizer, Spelling]:
    """A vocabulary, its tokenizer.json and what is read from that; special tokens have the lowest ids."""
    rust = tiktoken_like()
    spelling = spelling_of(rust, shows_special=True)
    special = {token.content: index for index, token in rust.get_added_tokens_decoder().items()}
    ranks = {spelling.data(index): index for index in rust.get_vocab().values() if index not in special.values()}
    return (
        tiktoken.Encoding("test", pat_str=TIKTOKEN_PATTERN, mergeable_ranks=ranks, special_tokens=special),
        rust,
        spelling,
    )


@given(text=WRITTEN)
@SETTINGS
def test_ids_and_text_are_those_of_tiktoken(text: str) -> None:
    library, rust, spelling = encoding()
    text = f"{text}</s>{text}"
    ids = library.encode(text, allowed_special="all")
    assert rust.encode(text).ids == ids
    assert text_of(spelling, ids) == library.decode(ids) == text


@given(data=st.data())
@SETTINGS
def test_any_ids_have_the_bytes_and_the_text_that_tiktoken_gives_them(data: st.DataObject) -> None:
    library, _, spelling = encoding()
    ids = data.draw(st.lists(st.integers(0, library.n_vocab - 1), max_size=20))
    assert [spelling.data(token_id) for token_id in ids] == library.decode_tokens_bytes(ids)
    assert text_of(spelling, ids) == library.decode(ids)


def test_a_vocabulary_of_tiktoken_is_converted(tmp_path: Path) -> None:
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    rust = tiktoken_like()
    spelling = spelling_of(rust)
    n_special = 3
    ranks = {spelling.data(index): index - n_special for index in rust.get_vocab().values() if index >= n_special}
    library = tiktoken.Encoding("test", pat_str=TIKTOKEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
    lines = [
        f"{base64.b64encode(data).decode()} {rank}" for data, rank in sorted(ranks.items(), key=lambda pair: pair[1])
    ]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.model").write_text("\n".join(lines))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    model = ModelArtifacts(folder=str(folder), format=ArtifactFormat.PRETRAINED)
    tokenizer = load_tokenizer(model, cache=tmp_path / "cache")
    assert [tokenizer.encode(text) for text in TEXTS] == library.encode_batch(list(TEXTS))
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == list(TEXTS)
