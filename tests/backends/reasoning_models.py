# SPDX-License-Identifier: Apache-2.0
"""Tiny models whose tokenizer has marks of reasoning, and whose template opens it, closes it or leaves it open."""

from __future__ import annotations

import json
from pathlib import Path

MARKS = ("<think>", "</think>")
START_ID, END_ID = 298, 299
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    "{% if reasoning is not defined %}{% elif reasoning %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
)


def add_marks(folder: Path) -> Path:
    """Put the marks in the place of the last two pieces of the tokenizer of ``write_tiny``; return the folder.

    As in Qwen3 they are added tokens, and no special ones.
    """
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    model = tokenizer["model"]
    pieces = {token_id: piece for piece, token_id in model["vocab"].items()}
    for token_id, mark in zip((START_ID, END_ID), MARKS, strict=True):
        piece = pieces[token_id]
        del model["vocab"][piece]
        model["merges"] = [each for each in model["merges"] if "".join(each) != piece]
        model["vocab"][mark] = token_id
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        tokenizer["added_tokens"].append({"id": token_id, "content": mark, **flags})
    path.write_text(json.dumps(tokenizer), "utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}), "utf-8")
    return folder
