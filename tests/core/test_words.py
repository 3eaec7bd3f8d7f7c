# SPDX-License-Identifier: Apache-2.0
"""Words that must not come, and prompts that are cut, as ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as RustTokenizer, models, pre_tokenizers, processors

from lmi.api import SamplingParams
from lmi.serving.tokenizer import ByteTokenizer, FileTokenizer
from lmi.serving.words import cut_prompt, forbid
from lmi.testing.shapes import BOS_ID, EOS_ID
from lmi.testing.tiny_tokenizer import write_tokenizer

PLAIN = SamplingParams(max_tokens=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> FileTokenizer:
    return FileTokenizer(folder / "tokenizer.json", {})


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    """A tokenizer that puts ids before and after every text."""
    folder = write_tokenizer(tmp_path_factory.mktemp("framed"))
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS_ID), ("</s>", EOS_ID)]
    )
    rust.save(str(folder / "tokenizer.json"))
    return FileTokenizer(folder / "tokenizer.json", {})


@pytest.mark.parametrize("word", ["bad", " bad", "  bad"])
def test_a_word_is_forbidden_with_a_blank_before_it_and_without(tiny: FileTokenizer, word: str) -> None:
    words = {tiny.decode(ids) for ids in forbid(PLAIN, [word], tiny).bad_word_ids}
    assert words == {"bad", " bad", word}


def test_words_of_one_id_are_bad_ids_and_longer_ones_are_words() -> None:
    sampling = forbid(SamplingParams(max_tokens=5, bad_token_ids=(7, 65)), ["A", "BC", "A"], ByteTokenizer())
    assert sampling.bad_token_ids == (7, 65)
    assert sampling.bad_word_ids == ((32, 65), (66, 67), (32, 66, 67))


def test_no_id_that_surrounds_a_text_is_part_of_a_word(framed: FileTokenizer) -> None:
    sampling = forbid(PLAIN, ["bad", "x"], framed)
    ids = {token_id for word in sampling.bad_word_ids for token_id in word} | set(sampling.bad_token_ids)
    assert not {BOS_ID, EOS_ID} & ids
    assert sampling.bad_token_ids == tuple(framed.encode("x", adds_special=False))


def test_a_blank_alone_can_be_a_bad_word() -> None:
    assert forbid(PLAIN, [" "], ByteTokenizer()).bad_token_ids == (32,)


def test_special_tokens_have_a_text_for_those_who_want_it(framed: FileTokenizer) -> None:
    ids = framed.encode("ab")
    for shows_special, text in ((False, "ab"), (True, "<s>ab</s>")):
        decoder = framed.decoder(shows_special=shows_special)
        assert "".join(decoder.push(ids)) + decoder.flush() == text


# --------------------------------------------------------------------------------------------------------- cutting


@pytest.fixture(params=["$A", "<b> $A", "$A <e>", "<b> $A <e>", "<b> <b> $A <e>"])
def tokenizer_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    vocab = {"<b>": 0, "<e>": 1, **{letter: 2 + index for index, letter in enumerate("abcdefghij")}}
    rust = RustTokenizer(models.WordLevel(vocab, unk_token="a"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.add_special_tokens(["<b>", "<e>"])
    rust.post_processor = processors.TemplateProcessing(
        single=request.param, pair="$A $B", special_tokens=[("<b>", 0), ("<e>", 1)]
    )
    rust.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


@pytest.mark.parametrize("direction", ["right", "left"])
@pytest.mark.parametrize("n_tokens", [3, 4, 5, 8, 100])
def test_a_cut_prompt_keeps_its_special_tokens_as_the_tokenizers_own_truncation_does(
    tokenizer_file: Path, n_tokens: int, direction: str
) -> None:
    text = "a b c d e f g h i j"
    own = RustTokenizer.from_file(str(tokenizer_file))
    own.enable_truncation(n_tokens, direction=direction)
    tokenizer = FileTokenizer(tokenizer_file, {})
    assert cut_prompt(tokenizer, tokenizer.encode(text), n_tokens, direction) == own.encode(text).ids


def test_special_tokens_that_find_no_room_are_cut_too(framed: FileTokenizer) -> None:
    whole = framed.encode("abcde")
    assert cut_prompt(framed, whole, 1) == whole[-1:] == [EOS_ID]
    assert cut_prompt(framed, whole, 1, "right") == whole[:1] == [BOS_ID]


def test_ids_that_no_tokenizer_made_are_cut_as_they_are(tokenizer_file: Path) -> None:
    tokenizer = FileTokenizer(tokenizer_file, {})
    assert cut_prompt(ByteTokenizer(), [5, 6, 7, 8], 2, "right") == [5, 6]
    assert cut_prompt(tokenizer, [5, 6, 7, 8, 9], 4, "right") == [5, 6, 7, 8]
    assert cut_prompt(tokenizer, [5, 6, 7, 8, 9], 4) == [6, 7, 8, 9]


def test_of_ids_that_have_some_of_the_special_tokens_those_stay(framed: FileTokenizer) -> None:
    assert cut_prompt(framed, [BOS_ID, 5, 6, 7, 8], 3) == [BOS_ID, 7, 8]
    assert cut_prompt(framed, [5, 6, 7, 8, EOS_ID], 3, "right") == [5, 6, EOS_ID]
