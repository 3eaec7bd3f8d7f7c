# SPDX-License-Identifier: Apache-2.0
"""Adapters of the stand-in: read with the first request that names one, kept by their number, and in limited room."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

_NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_dense",
    "gate_proj": "mlp_h_to_4h", "up_proj": "mlp_gate", "down_proj": "mlp_4h_to_h",
}  # fmt: skip


class Adapters:
    """What has been loaded, and which of it running requests use.

    Args:
        room: the LoraConfig that says for what there is room; None where adapters are not served.
        n_places: different adapters that may be in use at a time.
        is_heard: whether the model hands adapters on to its layers.
    """

    def __init__(self, room: Any, n_places: int, *, is_heard: bool) -> None:
        self._room, self._n_places, self._is_heard = room, n_places, is_heard
        self._effects: dict[int, int] = {}
        self._n_using: Counter[int] = Counter()

    def take(self, request: Any) -> int:
        """What a request's adapter does to the model, as a number; 0 is nothing. To be given back."""
        if self._room is None:
            raise ValueError("lora_request without enable_lora: the library would leave it out of account (stand-in)")
        number = request.lora_int_id
        if number not in self._effects:
            self._effects[number] = self._read(Path(request.lora_path))
        if number not in self._n_using and len(self._n_using) >= self._n_places:
            raise ValueError("Cache is full. There are no done tasks to evict (stand-in)")
        self._n_using[number] += 1
        return self._effects[number] if self._is_heard else 0

    def give_back(self, request: Any) -> None:
        number = request.lora_int_id
        self._n_using[number] -= 1
        if not self._n_using[number]:
            del self._n_using[number]

    def _read(self, folder: Path) -> int:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        if config["r"] > self._room.max_lora_rank:
            raise ValueError(f"rank {config['r']} is more than max_lora_rank {self._room.max_lora_rank} (stand-in)")
        targets = {_NAMES.get(name, name) for name in config["target_modules"]}
        if not targets <= set(self._room.lora_target_modules):
            raise ValueError(f"{sorted(targets)} are not all in {self._room.lora_target_modules} (stand-in)")
        weights = load_file(folder / "adapter_model.safetensors")
        changed = [weights[name] for name in sorted(weights) if "lora_B" in name and np.any(weights[name])]
        return zlib.crc32(b"".join(each.tobytes() for each in changed)) if changed else 0
