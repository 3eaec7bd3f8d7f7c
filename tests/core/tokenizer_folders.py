# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers of every kind that language models come with, written into folders like those of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = (
    "The capital of France is Paris. It's the city we'll visit, don't you think?",
    "def f(x):\n    return x + 1\n\n\tprint('naïve café')",
    "日本語の文章も少し入れる。 Привет, мир! 12345 67,890.",
    "the then there these thing things think thought through",
) * 3
TEXTS = (
    "The capital of France is Paris.",
    "",
    " leading blank and  two,  then   three",
    "trailing blanks  ",
    "line\nbreaks\r\n\tand tabs",
    "don't we'll I'm 12345.678",
    "naïve café Привет 日本語 한국어 العربية",
    "🙂 👩‍👩‍👧 🇫🇷 e\u0301",
    "<s>special</s> <think>not special</think> <0x41>",
    "▁already a metaspace",
)
TIKTOKEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Llama 3's."""
_SPECIAL = ["<unk>", "<s>", "</s>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Tokenizer:
    """GPT-2, Llama 3, Qwen, SmolLM."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def tiktoken_like() -> Tokenizer:
    """What becomes of tiktoken's vocabularies: texts fall apart by a pattern, then into bytes."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(TIKTOKEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    """Llama 2, Mistral: blanks as a visible mark, unknown characters as bytes, a beginning-of-text token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=_SPECIAL + _BYTES, show_progress=False)
    tokenizer.train_from_iterator([line.split("日")[0] for line in CORPUS], trainer)
    written = json.loads(tokenizer.to_str())
    # The byte tokens belong to the vocabulary but are no special tokens.
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] in _SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(written))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def metaspace_first() -> Tokenizer:
    """The same as newer files have it: a blank before the text alone, and none behind a special token."""
    tokenizer = sentencepiece_bpe()
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def gemma_like() -> Tokenizer:
    """As before without the leading blank and its removal."""
    tokenizer = sentencepiece_bpe()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def unigram() -> Tokenizer:
    """T5 and its relatives: metaspace, no bytes."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False, n_sub_iterations=1
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """BERT: the text of a token depends on its neighbours."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


KINDS = {
    "byte-level": byte_level,
    "tiktoken-like": tiktoken_like,
    "sentencepiece-bpe": sentencepiece_bpe,
    "metaspace-first": metaspace_first,
    "gemma-like": gemma_like,
    "unigram": unigram,
    "wordpiece": wordpiece,
}


def write(folder: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    """Write tokenizer.json with one added token that is not special, and tokenizer_config.json."""
    folder.mkdir(parents=True)
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_vocabulary_only(folder: Path) -> Path:
    """Write a byte-level tokenizer the old way: vocab.json and merges.txt, no tokenizer.json."""
    folder.mkdir(parents=True)
    tokenizer = byte_level()
    tokenizer.model.save(str(folder))
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
