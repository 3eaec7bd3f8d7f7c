# SPDX-License-Identifier: Apache-2.0
"""Tiny models that make vectors or labels, written without torch, and what transformers makes of the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lmi.testing.shapes import CONTEXT_TOKENS, EOS_ID, PAD_ID, VOCAB_SIZE
from lmi.testing.tiny_tokenizer import write_tokenizer

_HIDDEN, _MLP, _N_LAYERS, _N_HEADS = 64, 128, 2, 2
LABELS = ("calm", "glad", "sad")


def write_bert(folder: Path, *, labels: tuple[str, ...] = (), pooling: str = "") -> Path:
    """A BERT: without labels a model for vectors, with them one for labels; its tokenizer puts ``</s>`` behind a text.

    Args:
        folder: made if it does not exist.
        labels: names of the labels.
        pooling: ``mean`` writes the files that sentence-transformers has beside a model of mean pooling.
    """
    path = write_tokenizer(folder)
    _put_end_behind_texts(path / "tokenizer.json")
    start = "bert." if labels else ""
    shapes = _bert_shapes(start, len(labels))
    random = np.random.RandomState(7)
    weights = {name: random.standard_normal(shape).astype(np.float32) * 0.2 for name, shape in shapes.items()}
    weights.update({name: weights[name] + 1 for name in weights if name.endswith("LayerNorm.weight")})
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {
        "architectures": ["BertForSequenceClassification" if labels else "BertModel"], "model_type": "bert",
        "vocab_size": VOCAB_SIZE, "hidden_size": _HIDDEN, "intermediate_size": _MLP, "num_hidden_layers": _N_LAYERS,
        "num_attention_heads": _N_HEADS, "max_position_embeddings": CONTEXT_TOKENS, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "hidden_act": "gelu", "pad_token_id": PAD_ID, "torch_dtype": "float32",
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "position_embedding_type": "absolute",
    }  # fmt: skip
    if labels:
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
        config["label2id"] = {label: index for index, label in enumerate(labels)}
    (path / "config.json").write_text(json.dumps(config))
    if pooling:
        _write_modules(path, pooling)
    return path


def _put_end_behind_texts(file: Path) -> None:
    tokenizer = json.loads(file.read_text("utf-8"))
    piece = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, piece],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [EOS_ID], "tokens": ["</s>"]}},
    }
    file.write_text(json.dumps(tokenizer), "utf-8")


def _bert_shapes(start: str, n_labels: int) -> dict[str, tuple[int, ...]]:
    def linear(name: str, n_out: int, n_in: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (_HIDDEN,), f"{name}.bias": (_HIDDEN,)}

    tables = {"word": VOCAB_SIZE, "position": CONTEXT_TOKENS, "token_type": 2}
    shapes: dict[str, tuple[int, ...]] = {
        f"{start}embeddings.{name}_embeddings.weight": (rows, _HIDDEN) for name, rows in tables.items()
    }
    shapes.update(norm(f"{start}embeddings.LayerNorm"))
    for layer in range(_N_LAYERS):
        at = f"{start}encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            shapes.update(linear(f"{at}.attention.self.{name}", _HIDDEN, _HIDDEN))
        shapes.update(linear(f"{at}.attention.output.dense", _HIDDEN, _HIDDEN))
        shapes.update(norm(f"{at}.attention.output.LayerNorm"))
        shapes.update(linear(f"{at}.intermediate.dense", _MLP, _HIDDEN))
        shapes.update(linear(f"{at}.output.dense", _HIDDEN, _MLP))
        shapes.update(norm(f"{at}.output.LayerNorm"))
    shapes.update(linear(f"{start}pooler.dense", _HIDDEN, _HIDDEN))
    if n_labels:
        shapes.update(linear("classifier", n_labels, _HIDDEN))
    return shapes


def _write_modules(folder: Path, pooling: str) -> None:
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": _HIDDEN, f"pooling_mode_{pooling}_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


def hidden_states(folder: Path, prompts: list[list[int]]) -> list[Any]:
    """The last hidden states of transformers' model, one array of [tokens, hidden] a prompt."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return [model(torch.tensor([prompt])).last_hidden_state[0].numpy() for prompt in prompts]


def probabilities(folder: Path, prompts: list[list[int]]) -> list[list[float]]:
    """The probabilities of the labels that transformers' model gives, one list a prompt."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = [model(torch.tensor([prompt])).logits[0] for prompt in prompts]
    return [each.softmax(-1).tolist() for each in logits]


def cosine(left: Any, right: Any) -> float:
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))
