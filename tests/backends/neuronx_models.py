# SPDX-License-Identifier: Apache-2.0
"""Compiled models and split weights, as tests describe them, and what neuronx finds wrong with them."""

from __future__ import annotations

from typing import Any

import lmi_neuronx
from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Severity, Target
from lmi_neuronx.compiled import read_compiled
from lmi_neuronx.config import NeuronxConfig
from tests.backends.placing import placed

HERE = {"neuronx-cc": "2.12.54.0+f631c2365", "optimum-neuron": "0.4.5"}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_attention_heads": 32}
SECTION = {
    "auto_cast_type": "bf16", "batch_size": 4, "checkpoint_id": None, "checkpoint_revision": None,
    "compiler_type": "neuronx-cc", "compiler_version": "2.12.54.0+f631c2365", "num_cores": 2, "sequence_length": 2048,
}  # fmt: skip
OPTIMUM = {
    "_serialized_key": "NxDNeuronConfig", "batch_size": 4, "max_batch_size": 4, "continuous_batching": True,
    "sequence_length": 2048, "tp_degree": 2, "torch_dtype": "bfloat16", "target": "trn1",
    "neuronxcc_version": "2.12.54.0+f631c2365", "optimum_neuron_version": "0.4.5", "on_device_sampling": True,
}  # fmt: skip
CACHE = "neuronxcc-2.12.54.0+f631c2365/MODULE_1+2"
GRAPH = f"compiled/{CACHE}/model.neff"


def neuron(n_devices: int = 12, versions: dict[str, str] = HERE, **said: str) -> Target:
    return Target(accelerator=Accelerator.NEURON, n_devices=n_devices, versions=versions, **said)  # type: ignore[arg-type]


def made(
    layout: ArtifactFormat, names: list[str], documents: dict[str, Any], weights: tuple[str, ...] = (),
    folder: str = "s3://bucket/model",
) -> ModelArtifacts:  # fmt: skip
    config = documents["config.json"]
    files = dict.fromkeys(["tokenizer_config.json", *names, *documents, *weights], 9)
    return ModelArtifacts(
        folder=folder, format=layout, config=config, architectures=("LlamaForCausalLM",), model_type="llama",
        weight_files=weights, files=files, documents=documents, max_context_tokens=4096,
    )  # fmt: skip


SPLIT = ["pytorch_model.bin/key_to_filename.json", "pytorch_model.bin/p0.model.norm.weight"]


def of_2_16(
    *,
    section: dict[str, Any] = SECTION,
    names: list[str] | None = None,
    version: str = "",
    weights: tuple[str, ...] = (),
) -> ModelArtifacts:
    """As the SDK 2.16 leaves it: a section in config.json, split weights in checkpoint/, the graph in compiled/."""
    documents: dict[str, Any] = {"config.json": {**LLAMA, "neuron": section}, "checkpoint/config.json": LLAMA}
    if version:
        documents["compiled/VERSION"] = version
    there = [*(f"checkpoint/{each}" for each in SPLIT), "compiled/a1b2.neff"] if names is None else names
    if not weights:
        weights = tuple(each for each in there if each.startswith("checkpoint/") and not each.endswith(".json"))
    return made(ArtifactFormat.NEURON, there, documents, weights)


SHARDED = "checkpoint/weights/tp0_sharded_checkpoint.safetensors"


def of_today(names: tuple[str, ...] = ("model.pt", SHARDED), **changes: Any) -> ModelArtifacts:
    """As optimum-neuron leaves it today."""
    documents = {"config.json": LLAMA, "neuron_config.json": {**OPTIMUM, **changes}}
    weights = tuple(each for each in names if each.endswith(".safetensors"))
    return made(ArtifactFormat.NEURON, list(names), documents, weights)


def split(*names: str, folder: str = "s3://bucket/model") -> ModelArtifacts:
    return made(ArtifactFormat.NEURON_SPLIT, [*SPLIT, *names], {"config.json": LLAMA}, folder=folder)


def plain(*names: str, folder: str = "s3://bucket/model") -> ModelArtifacts:
    documents = {"config.json": LLAMA}
    return made(ArtifactFormat.PRETRAINED, list(names), documents, ("model.safetensors",), folder)


def checked(artifacts: ModelArtifacts, target: Target | None = None, **options: Any) -> list[Problem]:
    """What is wrong with a model; one that is compiled gets the cores that it was compiled for, unless options say."""
    there, compiled = target or neuron(), read_compiled(artifacts)
    if compiled is not None and compiled.n_cores == SECTION["num_cores"]:
        options = {"tensor_parallel_degree": compiled.n_cores, **options}
    return placed(lmi_neuronx.lmi_validate_artifacts(artifacts, NeuronxConfig(**options), there), NeuronxConfig)


def facts(found: list[Problem]) -> list[tuple[str, Severity]]:
    return [(each.code, each.severity) for each in found]
