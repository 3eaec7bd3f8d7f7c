# SPDX-License-Identifier: Apache-2.0
"""Vocabularies of sentencepiece that come without a tokenizer.json: what is made of them gives sentencepiece's ids."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi.serving.convert_tokenizer import convert
from lmi.serving.tokenizer import FileTokenizer, load_tokenizer
from tests.core.tokenizer_folders import CORPUS

pytest.importorskip("transformers")
pytest.importorskip("google.protobuf")

TEXTS = (
    "The capital of France is Paris.",
    " a blank before",
    "  two before",
    "a  b   c ",
    "one\ntwo\n\n\tthree",
    "x",
    "",
    "12345.67 naïve café 日本語 🙂 👩\u200d👩\u200d👧",
)


def trained(**changes: Any) -> bytes:
    """A vocabulary like Llama's, in sentencepiece's own form."""
    written = io.BytesIO()
    usual = {
        "model_type": "bpe", "vocab_size": 450, "byte_fallback": True, "remove_extra_whitespaces": False,
        "character_coverage": 0.98, "normalization_rule_name": "identity", "unk_id": 0, "bos_id": 1, "eos_id": 2,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, minloglevel=2, **{**usual, **changes}
    )
    return written.getvalue()


def folder_of(path: Path, vocabulary: bytes, **settings: Any) -> Path:
    path.mkdir()
    (path / "tokenizer.model").write_bytes(vocabulary)
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **named, **settings}))
    return path


def converted(folder: Path) -> FileTokenizer:
    convert(str(folder), str(folder / "made.json"))
    return FileTokenizer(folder / "made.json", {})


def assert_same(found: Any, vocabulary: bytes, texts: tuple[str, ...] = TEXTS) -> None:
    """The ids and the texts of sentencepiece."""
    library = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    for text in texts:
        ids = library.encode(text)
        assert found.encode(text, adds_special=False) == ids, text
        assert found.decode(ids) == library.decode(ids), text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"add_dummy_prefix": False},
        {"remove_extra_whitespaces": True, "normalization_rule_name": "nmt_nfkc"},
    ],
    ids=["a blank before texts", "no blank before texts", "texts are normalized"],
)
@pytest.mark.parametrize("settings", [{}, {"legacy": True}, {"tokenizer_class": "PreTrainedTokenizerFast"}])
def test_texts_fall_into_the_pieces_of_sentencepiece(
    tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    vocabulary = trained(**changes)
    assert_same(converted(folder_of(tmp_path / "model", vocabulary, **settings)), vocabulary)


def test_settings_that_want_no_blank_behind_special_tokens_are_kept(tmp_path: Path) -> None:
    vocabulary = trained()
    found = converted(folder_of(tmp_path / "model", vocabulary, legacy=False))
    assert_same(found, vocabulary, tuple(text for text in TEXTS if not text.startswith(" ")))
    before, behind = found.encode("x", adds_special=False), found.encode("</s>x", adds_special=False)
    assert len(before) == 1 and behind[0] == 2 and behind[1:] != before
    usual = converted(folder_of(tmp_path / "usual", vocabulary))
    assert usual.encode("</s>x", adds_special=False) == [2, *before]


def test_the_settings_say_what_stands_around_a_text(tmp_path: Path) -> None:
    found = converted(folder_of(tmp_path / "model", trained(), add_eos_token=True))
    assert (found.encode("x")[0], found.encode("x")[-1]) == (1, 2)


def test_the_server_converts_a_vocabulary_in_a_process_of_its_own(tmp_path: Path) -> None:
    vocabulary = trained(add_dummy_prefix=False)
    folder = folder_of(tmp_path / "model", vocabulary)
    artifacts = ModelArtifacts(folder=str(folder), format=ArtifactFormat.PRETRAINED)
    assert_same(load_tokenizer(artifacts, cache=tmp_path / "cache"), vocabulary)


def test_what_no_tokenizer_json_can_say_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", trained(treat_whitespace_as_suffix=True))
    with pytest.raises(ValueError, match=r"sentencepiece makes .* of 'The capital of France is Paris\.', a tokenizer"):
        convert(str(folder), str(tmp_path / "made.json"))
    assert not (tmp_path / "made.json").exists()
