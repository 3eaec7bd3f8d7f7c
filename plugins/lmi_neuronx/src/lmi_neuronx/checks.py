# SPDX-License-Identifier: Apache-2.0
"""Everything about a model that would stop it on this backend, found in its config.json and its folders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmi.api import ModelArtifacts, Problem, Severity
from lmi_neuronx.config import DEFAULT_N_POSITIONS, NeuronxConfig
from lmi_neuronx.families import (
    ARCHITECTURES,
    CONTINUOUS_FAMILIES,
    FORMER_OPTIMUM_FAMILIES,
    OPTIMUM_FAMILIES,
    TNX_FAMILIES,
)
from lmi_neuronx.rules import (
    estimate_complaint,
    estimate_hint,
    estimate_suits_continuous_batching,
    missing_graph_hint,
    options_of_tnx,
    written,
)

SPLIT_WEIGHTS = "pytorch_model.bin"
"""A folder of this name, not a file, holds split weights."""

_AMP = {"fp32": "fp32", "f32": "fp32", "fp16": "fp16", "f16": "fp16", "bf16": "bf16"}


def find_problems(artifacts: ModelArtifacts, config: NeuronxConfig) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Opens no file, touches no device."""
    return [
        *_check_architecture(artifacts),
        *_check_loader(artifacts, config),
        *_check_batching(artifacts, config),
        *_check_context(artifacts, config),
        *_check_heads(artifacts, config),
        *_check_quantization(artifacts),
        *_check_split_weights(artifacts, config),
        *_check_compiled_graph(artifacts, config),
        *_check_compiled_settings(artifacts, config),
    ]


def _check_architecture(artifacts: ModelArtifacts) -> Iterator[Problem]:
    names = artifacts.architectures
    if names and not set(names) & set(ARCHITECTURES):
        yield Problem(
            code="model.architecture-not-served",
            message=f"{', '.join(names)} is not compiled by neuronx",
            hint=f"It serves {', '.join(ARCHITECTURES)}; choose such a model or another backend",
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


def _check_heads(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    n_heads = _number(artifacts.config.get("num_attention_heads"))
    n_kv_heads = _number(artifacts.config.get("num_key_value_heads")) or n_heads
    if config.group_query_attention and n_heads and n_kv_heads == n_heads:
        yield Problem(
            code="config.no-effect",
            message=f"{written(config, 'group_query_attention')} does nothing: each of the model's {n_heads} heads has "
            "keys of its own",
            hint="Remove option.group_query_attention",
            path=artifacts.folder,
            severity=Severity.WARNING,
            fields=("group_query_attention",),
        )


def _check_quantization(artifacts: ModelArtifacts) -> Iterator[Problem]:
    given = artifacts.config.get("quantization_config")
    method = str(given.get("quant_method") or "") if isinstance(given, dict) else ""
    if method:
        yield Problem(
            code="model.quantization-not-served",
            message=f"the checkpoint is compressed with {method}, which neuronx does not read",
            hint="Use the uncompressed checkpoint, with option.quantize=static_int8 for weights of 8 bits",
            path=artifacts.folder,
        )


def _check_split_weights(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    if _compiled_settings(artifacts) or not artifacts.folder:
        return  # an Optimum folder says itself what its weights are
    is_split = (artifacts.path / SPLIT_WEIGHTS).is_dir()
    if is_split and not config.load_split_model:
        yield Problem(
            code="weights.split",
            message=f"{SPLIT_WEIGHTS} is a folder, so the weights are split, and load_split_model is not true",
            hint="Set option.load_split_model=true",
            path=artifacts.folder,
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


def _check_compiled_graph(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    for name in ("compiled_graph_path", "draft_model_compiled_path"):
        path = getattr(config, name)
        if path and "://" not in path and not (artifacts.path / path).is_dir():
            yield Problem(
                code="config.compiled-graph",
                message=f"{name}={path} is no folder inside the model's, and no s3:// prefix",
                hint=missing_graph_hint(),
                path=artifacts.folder,
                fields=(name,),
            )


def _check_compiled_settings(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    """A compiled model has fixed sizes; options at their defaults take them."""
    compiled = _compiled_settings(artifacts)
    batch = "batch_size" if config.is_static else "max_rolling_batch_size"
    names = {
        "num_cores": "tensor_parallel_degree",
        "sequence_length": "n_positions",
        "batch_size": batch,
        "auto_cast_type": "dtype",
    }
    for key, name in names.items():
        there = compiled.get(key)
        built: Any = _AMP.get(str(there).lower()) if name == "dtype" else _number(there)
        asked = getattr(config, name)
        if built and asked not in (built, type(config).model_fields[name].default):
            yield Problem(
                code="model.compiled-otherwise",
                message=f"the model was compiled with {key}={there}, {name} is {asked}",
                hint=f"Set option.{name}={built} or leave it out, or serve the uncompiled model",
                path=artifacts.folder,
                fields=(name,),
            )


def _compiled_settings(artifacts: ModelArtifacts) -> dict[str, Any]:
    given = artifacts.config.get("neuron")
    return given if isinstance(given, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
