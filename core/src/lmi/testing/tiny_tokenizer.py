# SPDX-License-Identifier: Apache-2.0
"""A byte-level tokenizer of 300 ids that writes and reads any text, made in a moment."""

from __future__ import annotations

import json
from pathlib import Path

from lmi.testing.shapes import BOS_ID, CONTEXT_TOKENS, EOS_ID, PAD_ID

_PAIRS = (  # merged in this order, after the single bytes
    "Ġt Ġa he in re on er Ġs at is Ġw an ou en Ġc Ġb ed or es Ġm "
    "it al Ġf Ġp Ġo ar Ġd ing Ġthe Ġof Ġan Ġto Ġin Ġis Ġy th Ġh ll ic ro ti"
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path | str) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``: 256 bytes, <s>, </s>, <pad> and 41 pieces of words.

    Args:
        folder: made if it does not exist.
    Returns:
        The folder.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)}
    vocab.update({"<s>": BOS_ID, "</s>": EOS_ID, "<pad>": PAD_ID})
    merges = [_halves(piece, vocab) for piece in _PAIRS.split() if not vocab.update({piece: len(vocab)})]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>"])
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": CONTEXT_TOKENS,
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), "utf-8")
    return path


def _halves(piece: str, vocab: dict[str, int]) -> tuple[str, str]:
    """Split a piece into two pieces that are in the vocabulary already."""
    cuts = [(piece[:n], piece[n:]) for n in range(len(piece) - 1, 0, -1)]
    return next((left, right) for left, right in cuts if left in vocab and right in vocab)
