# SPDX-License-Identifier: Apache-2.0
"""What is copied of a model's folder beside its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmi.api.folders import copy_documents

DOCUMENTS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "vocab.txt", "merges.txt",
    "chat_template.jinja", "modeling_new.py", "qwen.tiktoken",
)  # fmt: skip
OTHERS = (
    "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json",
    "lmi-manifest.json", "serving.properties", "README.md", "weights.pt", "rank0.engine",
    ".lmi-complete.json",
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "original.json").mkdir(parents=True)
    (folder / "original.json" / "params.json").touch()
    for name in (*DOCUMENTS, *OTHERS):
        (folder / name).write_text(f"{name} of the model")
    return folder


def copied(model: Path, but: tuple[str, ...] = ()) -> dict[str, str]:
    target = model.parent / "target"
    target.mkdir(exist_ok=True)
    copy_documents(model, target, but=but)
    return {path.name: path.read_text() for path in target.iterdir()}


def test_documents_of_the_folder_itself_are_copied_and_weights_are_not(model: Path) -> None:
    assert copied(model) == {name: f"{name} of the model" for name in DOCUMENTS}


def test_names_can_be_left_out_and_others_are_replaced(model: Path) -> None:
    copied(model)
    for name in ("config.json", "vocab.txt"):
        (model / name).write_text("changed")
    found = copied(model, but=("config.json",))
    assert (found["config.json"], found["vocab.txt"]) == ("config.json of the model", "changed")


def test_what_a_link_leads_to_is_copied(model: Path) -> None:
    """Files of a hub's cache are links."""
    (model / "config.json").rename(model.parent / "blob")
    (model / "config.json").symlink_to(model.parent / "blob")
    copied(model)
    target = model.parent / "target" / "config.json"
    assert not target.is_symlink()
    assert target.read_text() == "config.json of the model"
