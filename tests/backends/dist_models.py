# SPDX-License-Identifier: Apache-2.0
"""Models and machines that the checks of lmi-dist are asked about, and what they answer."""

from __future__ import annotations

from typing import Any

from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Target
from lmi_hf import lmi_dist
from lmi_hf.lmi_dist.config import DistConfig
from tests.backends.placing import placed

CPU = Target()
CUDA = Target(accelerator=Accelerator.CUDA, n_devices=4, device_memory_bytes=80 << 30)


def model(**config: Any) -> ModelArtifacts:
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 64, "vocab_size": 256}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes, **config}
    return ModelArtifacts(
        format=ArtifactFormat.PRETRAINED,
        config=config,
        architectures=tuple(config["architectures"]),
        model_type=config["model_type"],
        max_context_tokens=512,
    )


def compressed(method: str) -> ModelArtifacts:
    return model(quantization_config={"quant_method": method})


def problems(artifacts: ModelArtifacts, target: Target = CUDA, **options: Any) -> list[Problem]:
    return placed(lmi_dist.lmi_validate_artifacts(artifacts, DistConfig(**options), target), DistConfig)
