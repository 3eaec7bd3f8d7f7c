# SPDX-License-Identifier: Apache-2.0
"""Words that must not come, and prompts that are cut, as ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmi.api import SamplingParams
from lmi.serving.tokenizer import ByteTokenizer, FileTokenizer
from lmi.serving.words import forbid, last_tokens
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
    from tokenizers import Tokenizer, processors

    folder = write_tokenizer(tmp_path_factory.mktemp("framed"))
    rust = Tokenizer.from_file(str(folder / "tokenizer.json"))
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


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 6, 7, 100])
def test_a_prompt_is_cut_from_the_left_as_transformers_cuts_it(
    framed: FileTokenizer, tiny: FileTokenizer, n_tokens: int
) -> None:
    whole = framed.encode("abcde")
    assert whole == [BOS_ID, *tiny.encode("abcde"), EOS_ID]
    cut = last_tokens(framed, whole, n_tokens)
    assert len(cut) == min(n_tokens, len(whole))
    if n_tokens > 1:
        assert cut[0] == BOS_ID
        assert cut[1:] == whole[len(whole) - len(cut) + 1 :]
    assert last_tokens(tiny, tiny.encode("abcde"), n_tokens) == tiny.encode("abcde")[-n_tokens:]


def test_special_tokens_have_a_text_for_those_who_want_it(framed: FileTokenizer) -> None:
    ids = framed.encode("ab")
    for shows_special, text in ((False, "ab"), (True, "<s>ab</s>")):
        decoder = framed.decoder(shows_special=shows_special)
        assert "".join(decoder.push(ids)) + decoder.flush() == text
