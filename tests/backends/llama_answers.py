# SPDX-License-Identifier: Apache-2.0
"""What transformers makes of a tiny Llama in float32: greedy ids, log probabilities, and adapters merged into it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from lmi.artifacts import detect
from lmi.serving.tokenizer import load_tokenizer

LEAST_GAP = 1e-3
"""Least distance of the two best logits at which float32 leaves no doubt which one is best."""

_WEIGHTS = "model.safetensors"


def encode(folder: Path, prompts: Sequence[str]) -> list[list[int]]:
    """The ids of some texts, as the server makes them."""
    tokenizer = load_tokenizer(detect(folder))
    return [tokenizer.encode(prompt) for prompt in prompts]


def greedy_ids(folder: Path, prompts: Sequence[str], n_tokens: int) -> list[list[int]]:
    """The most likely ids after some texts, whatever they are; each is best beyond doubt, or this fails."""
    import torch

    model = _model(folder)
    found = []
    with torch.no_grad():
        for start in encode(folder, prompts):
            ids = list(start)
            for _ in range(n_tokens):
                best = model(torch.tensor([ids])).logits[0, -1].topk(2)
                assert best.values[0] - best.values[1] > LEAST_GAP, "this prompt says nothing; take another"
                ids.append(int(best.indices[0]))
            found.append(ids[len(start) :])
    return found


def logprobs_of(folder: Path, prompts: Sequence[str]) -> list[list[float]]:
    """The log probability of each id of some texts, but for the first."""
    import torch

    model = _model(folder)
    found = []
    with torch.no_grad():
        for ids in encode(folder, prompts):
            logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            found.append(logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist())
    return found


def _model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def write_merged(folder: Path, base: Path, adapter: Path) -> Path:
    """Write a tiny Llama with a LoRA adapter added to its weights."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    parts = load_file(adapter / "adapter_model.safetensors")
    weights = load_file(base / _WEIGHTS)
    for name, down in parts.items():
        if ".lora_A." in name:
            up = parts[name.replace(".lora_A.", ".lora_B.")]
            target = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
            weights[target] = weights[target] + config["lora_alpha"] / config["r"] * (up @ down)
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("adapters"))
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    return folder
