# SPDX-License-Identifier: Apache-2.0
"""Small model folders for tests: right in every header, with a few numbers for weights."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lmi.testing.tiny_tokenizer import write_tokenizer

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2048, "eos_token_id": 2,
}  # fmt: skip


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def write_model(folder: Path, *, n_shards: int = 1) -> Path:
    """A folder as save_pretrained leaves it; with several shards and an index if asked."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {"eos_token_id": [2, 7]})
    write_tokenizer(folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    if n_shards == 1:
        save_file({"w": np.zeros((4, 4), np.float32)}, folder / "model.safetensors")
        return folder
    weight_map = {}
    for i in range(1, n_shards + 1):
        name = f"model-{i:05}-of-{n_shards:05}.safetensors"
        save_file({f"w{i}": np.zeros((4, 4), np.float32)}, folder / name)
        weight_map[f"w{i}"] = name
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return folder
