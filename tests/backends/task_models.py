# SPDX-License-Identifier: Apache-2.0
"""Tiny models with heads for labels, masks and questions, and what transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_TEXT = (
    "what is the capital of france paris berlin germany rome italy ada lives in london and likes a city big old near "
    "river who where does live she he works at bank water boils it was not very"
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PIECES = ("##s", "##land", "##er", "##ing", ".", ",", "?", *_LETTERS, *(f"##{letter}" for letter in _LETTERS))
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
CONTEXT_TOKENS = 64

HEADS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "question-answering": "AutoModelForQuestionAnswering",
}


def write_word_tokenizer(folder: Path) -> int:
    """A tokenizer of words and pieces of words, as BERT's; returns how many ids it has."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocab = {piece: number for number, piece in enumerate(dict.fromkeys((*SPECIAL, *_TEXT.split(), *_PIECES)))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tokenizer.add_special_tokens(list(SPECIAL))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT_TOKENS, **names}
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocab)


def write_task_model(folder: Path, task: str, model_type: str = "bert", n_heads: int = 4, **config: Any) -> Path:
    """A model of random weights, large enough that answers differ.

    Args:
        folder: made if it does not exist.
        task: one of ``HEADS``.
        model_type: of transformers; one whose configuration has BERT's names.
        n_heads: of attention.
        config: further fields of the model's configuration.
    """
    import torch
    import transformers

    n_ids = write_word_tokenizer(folder)
    labels = {} if task in ("fill-mask", "question-answering") else {"id2label": dict(enumerate(LABELS))}
    fields: dict[str, Any] = {
        "vocab_size": n_ids, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": n_heads, "max_position_embeddings": CONTEXT_TOKENS, "pad_token_id": 0, **labels,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    torch.manual_seed(11)
    made = transformers.AutoConfig.for_model(model_type, **{**fields, **config})
    model = getattr(transformers, HEADS[task]).from_config(made)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


def from_pipeline(folder: Path, task: str, inputs: Any, **parameters: Any) -> Any:
    """What transformers' own pipeline answers."""
    import transformers

    made = transformers.pipeline(task, model=str(folder), device="cpu", dtype="float32")
    return made(inputs, **parameters)


def is_alike(left: Any, right: Any, far: float = 1e-4) -> bool:
    """Whether two answers are the same but for the last digits of their numbers."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(is_alike(left[key], right[key], far) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(is_alike, left, right, [far] * len(left)))
    if isinstance(left, float) or isinstance(right, float):
        return abs(float(left) - float(right)) < far
    return bool(left == right)
