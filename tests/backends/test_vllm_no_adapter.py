# SPDX-License-Identifier: Apache-2.0
"""The adapter that changes nothing, written from another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from lmi_vllm.no_adapter import write_no_adapter  # noqa: E402

CONFIG = {"r": 8, "lora_alpha": 16, "rank_pattern": {"q": 4}, "alpha_pattern": {"q": 8}, "peft_type": "LORA"}
TENSORS = {
    "base.layers.0.q.lora_A.weight": (8, 32),
    "base.layers.0.q.lora_B.weight": (48, 8),
    "base.embed.lora_embedding_A": (8, 300),
    "base.embed.lora_embedding_B": (32, 8),
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    safetensors.save_file(
        {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in TENSORS.items()},
        folder / "adapter_model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    return folder


def test_it_has_the_same_matrices_with_rank_one_and_nothing_in_them(adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    folder.mkdir()
    write_no_adapter(folder, adapter)
    found = safetensors.load_file(folder / "adapter_model.safetensors")
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "base.layers.0.q.lora_A.weight": (1, 32),
        "base.layers.0.q.lora_B.weight": (48, 1),
        "base.embed.lora_embedding_A": (1, 300),
        "base.embed.lora_embedding_B": (32, 1),
    }
    assert all(each.dtype == torch.bfloat16 and not each.any() for each in found.values())
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config == {**CONFIG, "r": 1, "lora_alpha": 0, "rank_pattern": {}, "alpha_pattern": {}}


def test_one_of_pickled_tensors_is_copied_and_scaled_by_nothing(adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(b"weights")
    folder = tmp_path / "none"
    folder.mkdir()
    write_no_adapter(folder, adapter)
    assert (folder / "adapter_model.bin").read_bytes() == b"weights"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["alpha_pattern"]) == (8, 0, {})


@pytest.mark.parametrize("damage", [b"", b"\x05\0\0\0\0\0\0\0{", b"\x02\0\0\0\0\0\0\0[]"])
def test_a_damaged_one_is_an_error_that_the_caller_knows(adapter: Path, tmp_path: Path, damage: bytes) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(damage)
    folder = tmp_path / "none"
    folder.mkdir()
    with pytest.raises((OSError, ValueError, KeyError)):
        write_no_adapter(folder, adapter)
