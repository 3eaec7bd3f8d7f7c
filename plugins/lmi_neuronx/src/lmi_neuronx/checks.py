# SPDX-License-Identifier: Apache-2.0
"""Everything about a model that would stop it on this backend, found in its config.json and its folders."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import ArtifactFormat, ModelArtifacts, Problem, Severity, Target, quantization_of
from lmi_neuronx.compiled import SPLIT_WEIGHTS, joined
from lmi_neuronx.compiled_checks import check_split_folder, find_compiled_problems
from lmi_neuronx.config import DEFAULT_N_POSITIONS, NeuronxConfig
from lmi_neuronx.cores import check_generation, find_core_problems
from lmi_neuronx.families import (
    ARCHITECTURES,
    CONTINUOUS_FAMILIES,
    FORMER_OPTIMUM_FAMILIES,
    OPTIMUM_FAMILIES,
    TANH_GELUS,
    TNX_FAMILIES,
)
from lmi_neuronx.graph_paths import check_graph_paths
from lmi_neuronx.rules import (
    estimate_complaint,
    estimate_hint,
    estimate_suits_continuous_batching,
    options_of_tnx,
    written,
)
from lmi_neuronx.unread import check_unread


def find_problems(artifacts: ModelArtifacts, config: NeuronxConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Opens no file, touches no device."""
    if artifacts.format is ArtifactFormat.NONE:
        return []
    found = [
        *_check_architecture(artifacts),
        *_check_activation(artifacts),
        *_check_loader(artifacts, config),
        *_check_batching(artifacts, config),
        *_check_context(artifacts, config),
        *_check_quantization(artifacts),
        *check_unread(artifacts, config),
        *check_graph_paths(artifacts, config),
        *find_compiled_problems(artifacts, config, target),
    ]
    if artifacts.format is ArtifactFormat.NEURON:
        return [*found, *check_generation(target)]
    return [
        *found,
        *_check_split_weights(artifacts, config),
        *find_core_problems(artifacts, config, target),
        *_check_compiling(artifacts, config),
    ]


def _check_architecture(artifacts: ModelArtifacts) -> Iterator[Problem]:
    names = artifacts.architectures
    if names and not set(names) & set(ARCHITECTURES):
        yield Problem(
            code="model.architecture-not-served",
            message=f"{', '.join(names)} is not compiled by neuronx",
            hint=f"It serves {', '.join(ARCHITECTURES)}; choose such a model or another backend. "
            "docs/convert-manually.md says what can be brought compiled",
            path=artifacts.folder,
        )


def _check_activation(artifacts: ModelArtifacts) -> Iterator[Problem]:
    activation = artifacts.config.get("activation_function", TANH_GELUS[0])
    if artifacts.model_type == "gpt_bigcode" and activation not in TANH_GELUS:
        yield Problem(
            code="model.architecture-not-served",
            message=f"gpt_bigcode is served as GPT-2, and activation_function is {activation}",
            hint=f"It serves models with {', '.join(TANH_GELUS)}; take another backend for this one",
            path=artifacts.folder,
        )


def _check_loader(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    family, loader = artifacts.model_type, config.loader
    if family not in TNX_FAMILIES | OPTIMUM_FAMILIES:
        return  # the architecture says so already
    reasons = options_of_tnx(config) or ["model_loader"]
    if loader == "tnx" and family not in TNX_FAMILIES:
        yield Problem(
            code="config.model-loader",
            message=f"{written(config, *reasons)} means the loader tnx, which does not take {family} models",
            hint=f"Remove {', '.join(f'option.{each}' for each in reasons)}; optimum loads them",
            path=artifacts.folder,
            fields=tuple(reasons),
        )
    elif loader == "optimum" and family in FORMER_OPTIMUM_FAMILIES:
        yield Problem(
            code="config.model-loader",
            message=f"optimum-neuron no longer takes {family} models; the loader tnx is used",
            hint="Set option.model_loader=tnx and leave option.partition_schema out",
            path=artifacts.folder,
            severity=Severity.WARNING,
            fields=("model_loader", "partition_schema"),
        )
    elif loader == "optimum" and family not in OPTIMUM_FAMILIES:
        asked = "model_loader" if config.model_loader else "partition_schema"
        yield Problem(
            code="config.model-loader",
            message=f"{written(config, asked)} means the loader optimum, which does not take {family} models",
            hint=f"Remove option.{asked}; tnx loads them",
            path=artifacts.folder,
            fields=(asked,),
        )


def _check_batching(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    family, strategy = artifacts.model_type, config.rolling_batch_strategy
    if config.is_static or not family or config.loader == "optimum":
        return
    is_continuous = family in CONTINUOUS_FAMILIES
    if strategy == "continuous_batching" and not is_continuous and family in TNX_FAMILIES:
        yield Problem(
            code="config.rolling-batch-strategy",
            message=f"rolling_batch_strategy=continuous_batching is for {', '.join(sorted(CONTINUOUS_FAMILIES))}; this "
            f"is a {family} model",
            hint="Set option.rolling_batch_strategy=naive_rolling_batch, or leave it out",
            path=artifacts.folder,
            fields=("rolling_batch_strategy",),
        )
    elif strategy is None and is_continuous and not estimate_suits_continuous_batching(config):
        yield Problem(
            code="config.context-length-estimate",
            message=estimate_complaint(config),
            hint=estimate_hint(config),
            path=artifacts.folder,
            fields=("context_length_estimate", "n_positions"),
        )


def _check_context(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    asked, limit = config.n_positions, artifacts.max_context_tokens
    if limit and asked > limit:
        is_default = asked == DEFAULT_N_POSITIONS
        yield Problem(
            code="config.n-positions",
            message=f"n_positions is {asked} tokens, the model takes {limit}"
            + (f"; {limit} are compiled" if is_default else ""),
            hint=f"Set option.n_positions={limit}",
            path=artifacts.folder,
            severity=Severity.WARNING if is_default else Severity.ERROR,
            fields=("n_positions",),
        )


def _check_quantization(artifacts: ModelArtifacts) -> Iterator[Problem]:
    method = str(quantization_of(artifacts).get("quant_method") or "").replace("unknown", "a method it does not name")
    if method:
        yield Problem(
            code="model.quantization-not-served",
            message=f"the checkpoint is compressed with {method}, which neuronx does not read",
            hint="Use the uncompressed checkpoint, with option.quantize=static_int8 for weights of 8 bits",
            path=artifacts.folder,
        )


def _check_split_weights(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    split = joined(artifacts.inner, SPLIT_WEIGHTS)
    is_split = artifacts.has_folder(split)
    if is_split and not config.load_split_model:
        yield Problem(
            code="weights.split",
            message=f"{SPLIT_WEIGHTS} is a folder, so the weights are split, and load_split_model is not true",
            hint="Set option.load_split_model=true",
            path=joined(artifacts.folder, split),
            fields=("load_split_model",),
        )
    elif config.load_split_model and not is_split:
        yield Problem(
            code="weights.not-split",
            message=f"load_split_model=true, but there is no folder {SPLIT_WEIGHTS}",
            hint="Remove option.load_split_model, or use the folder that splitting wrote",
            path=artifacts.folder,
            fields=("load_split_model",),
        )
    if is_split:
        yield from check_split_folder(artifacts, split)


def _check_compiling(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    if not config.compiled_graph_path:
        yield Problem(
            code="engine.compiles-at-start",
            message="neither the model nor compiled_graph_path brings a compiled graph, so the model is compiled at "
            "the start: minutes for a small model, much longer for a large one",
            hint="In production compile it once, with the compiler version of the container, and serve the result: "
            "docs/compile-neuron.md",
            path=artifacts.folder,
            severity=Severity.WARNING,
            fields=("compiled_graph_path",),
        )
