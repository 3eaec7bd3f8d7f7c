# SPDX-License-Identifier: Apache-2.0
"""Models elsewhere, of which vllm sees small files and names, and the problems it finds."""

from typing import Any

from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Target
from lmi_vllm import lmi_validate_artifacts
from lmi_vllm.config import VLLMConfig

CPU = Target(accelerator=Accelerator.CPU)
LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256,
}  # fmt: skip
WEIGHTS = {"config.json": 600, "model.safetensors": 10_000, "tokenizer.json": 5000}


def gpu(capability: str = "9.0", **changes: Any) -> Target:
    fields = {"accelerator": Accelerator.CUDA, "n_devices": 8, "compute_capability": capability, "device_name": "a GPU"}
    return Target(**{**fields, **changes})


def model(architecture: str = "LlamaForCausalLM", **changes: Any) -> ModelArtifacts:
    """A model elsewhere: nothing of it can be opened."""
    config = {**LLAMA, **changes.pop("config", {})}
    fields = {
        "folder": "s3://models/tiny",
        "format": ArtifactFormat.PRETRAINED,
        "architectures": (architecture,) if architecture else (),
        "config": config,
        "model_type": config["model_type"],
        "files": WEIGHTS,
    }
    return ModelArtifacts(**{**fields, **changes})


def problems(artifacts: ModelArtifacts, target: Target | None = None, **options: Any) -> list[Problem]:
    return list(lmi_validate_artifacts(artifacts, VLLMConfig(**options), target or gpu()))


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, found
    return found[0]
