# SPDX-License-Identifier: Apache-2.0
"""How a model is spread over NeuronCores: degrees the runtime connects, and what happens to attention heads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from lmi.api import (
    Accelerator,
    EngineLoadError,
    ModelArtifacts,
    ModelShape,
    Problem,
    Severity,
    Target,
    shape_of,
)
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.rules import written

_CONNECTED = {"inf2": (1, 2, 4, 8, 12, 24), "trn1": (1, 2, 8, 32)}
"""Generation -> cores that the runtime connects. Source: the developer guide of Transformers-NeuronX."""

_VISIBLE = "NEURON_RT_VISIBLE_CORES"
"""The runtime's own variable; LMI sets it for each copy of a model."""

_DEGREES = range(1, 129)
"""Cores that a model may be split over: as many as the largest machine has."""

_GENERATIONS = {
    "inferentia2": "inf2", "inferentia": "inf1", "inferentia1": "inf1", "trainium": "trn1", "trainium1": "trn1",
    "trainium2": "trn2", "trainium3": "trn3",
}  # fmt: skip
"""What the driver calls a device -> what its instances are called."""


def generation_of(target: Target) -> str:
    """The generation of a machine's devices, ``inf2``; empty where it is not known."""
    found = re.match(r"(?:ml\.)?((?:inf|trn)\d)", target.instance)
    return found[1] if found else _GENERATIONS.get(target.device_name.lower(), "")


def find_core_problems(artifacts: ModelArtifacts, config: NeuronxConfig, target: Target) -> Iterator[Problem]:
    """Everything about the cores, for a model that is split at the start."""
    yield from check_generation(target)
    yield from _check_connected(config, target)
    shape = shape_of(artifacts)
    if shape.n_heads:
        yield from _check_heads(artifacts, config, shape, _degrees_on(target))
        yield from _check_strategy(artifacts, config, shape)
        yield from _check_sequence(artifacts, config, shape)


def check_generation(target: Target) -> Iterator[Problem]:
    """A problem where the devices are too old."""
    if target.accelerator is Accelerator.NEURON and generation_of(target) == "inf1":
        yield Problem(
            code="device.too-old",
            message=f"neuronx runs on Inferentia2 and Trainium, and {target.instance or target.device_name} has the "
            "first Inferentia",
            hint="Serve it on an Inf2 or Trn1 instance",
        )


def _check_connected(config: NeuronxConfig, target: Target) -> Iterator[Problem]:
    generation, degree = generation_of(target), config.tensor_parallel_degree
    connected = _CONNECTED.get(generation, ())
    if connected and degree not in connected and degree <= target.n_devices:
        numbers = ", ".join(map(str, connected))
        yield _of_degree(
            "",
            f"tensor_parallel_degree is {degree}; the Neuron runtime connects {numbers} cores on {generation}",
            f"Set option.tensor_parallel_degree to one of {numbers}",
        )


def _degrees_on(target: Target) -> list[int]:
    """Cores of this machine that a model may be split over; any number where the machine is not known."""
    degrees = _CONNECTED.get(generation_of(target), _DEGREES)
    return [each for each in degrees if each <= (target.n_devices or max(_DEGREES))]


def _check_heads(
    artifacts: ModelArtifacts, config: NeuronxConfig, shape: ModelShape, degrees: Sequence[int]
) -> Iterator[Problem]:
    """What does not go evenly is padded or copied, which stops no model but costs memory and time.

    Source: how Transformers-NeuronX 0.13 and optimum-neuron 0.4 count padded heads.
    """
    degree, n_heads, n_kv_heads = config.tensor_parallel_degree, shape.n_heads, shape.n_kv_heads
    if n_heads % degree:
        padded = -(-n_heads // degree) * degree
        fitting = ", ".join(str(each) for each in degrees if n_heads % each == 0)
        yield _of_degree(
            artifacts.folder,
            f"tensor_parallel_degree is {degree}, so the model's {n_heads} attention heads are filled up to {padded}",
            f"No core computes in vain with {fitting}",
        )
    elif not _goes_evenly(degree, n_heads, n_kv_heads):
        fitting = ", ".join(str(each) for each in degrees if _goes_evenly(each, n_heads, n_kv_heads))
        yield _of_degree(
            artifacts.folder,
            f"tensor_parallel_degree is {degree}, over which {n_kv_heads} key-value heads do not go evenly: each is "
            f"kept {n_heads // n_kv_heads} times, and the cache grows as much",
            f"They go evenly over {fitting}",
        )


def _goes_evenly(degree: int, n_heads: int, n_kv_heads: int) -> bool:
    """Whether every core has its own key-value heads, or several cores share one without more copies than cores."""
    if n_heads % degree:
        return False
    return n_kv_heads % degree == 0 or degree % n_kv_heads == 0


def _check_strategy(artifacts: ModelArtifacts, config: NeuronxConfig, shape: ModelShape) -> Iterator[Problem]:
    """A strategy that cannot be kept is replaced by the engine's own choice."""
    strategy, degree = config.group_query_attention, config.tensor_parallel_degree
    if strategy is None:
        return
    n_kv_heads, fields = shape.n_kv_heads, ["group_query_attention", "tensor_parallel_degree"]
    reason = ""
    if n_kv_heads == shape.n_heads:
        reason, fields = f"each of the model's {shape.n_heads} heads has keys of its own", fields[:1]
    elif strategy == "shard-over-heads" and n_kv_heads % degree:
        reason = f"{n_kv_heads} key-value heads do not go evenly over {degree} cores, so they are copied"
    elif strategy == "shard-over-batch" and config.compiled_batch_size % degree:
        batch = "batch_size" if config.is_static else "max_rolling_batch_size"
        reason = f"{written(config, batch)} does not go evenly over {degree} cores"
        fields.append(batch)
    elif strategy == "all-gather-heads" and (n_kv_heads * shape.head_dim) % degree:
        reason = f"{n_kv_heads} key-value heads of {shape.head_dim} do not go evenly over {degree} cores"
    if reason:
        yield Problem(
            code="config.no-effect",
            message=f"{written(config, 'group_query_attention')} does nothing: {reason}",
            hint="Remove option.group_query_attention",
            path=artifacts.folder,
            severity=Severity.WARNING,
            fields=tuple(fields),
        )


def _check_sequence(artifacts: ModelArtifacts, config: NeuronxConfig, shape: ModelShape) -> Iterator[Problem]:
    degree, n_kv_heads = config.tensor_parallel_degree, shape.n_kv_heads
    if not config.shard_over_sequence:
        return
    if n_kv_heads == shape.n_heads:
        yield Problem(
            code="config.no-effect",
            message=f"shard_over_sequence=true does nothing: each of the model's {n_kv_heads} heads has its own keys",
            hint="Remove option.shard_over_sequence",
            path=artifacts.folder,
            severity=Severity.WARNING,
            fields=("shard_over_sequence",),
        )
    elif degree % n_kv_heads:
        yield Problem(
            code="config.tensor-parallel",
            message=f"shard_over_sequence=true, and tensor_parallel_degree={degree} is no multiple of the model's "
            f"{n_kv_heads} key-value heads",
            hint=f"Set option.tensor_parallel_degree to a multiple of {n_kv_heads}, or remove "
            "option.shard_over_sequence",
            path=artifacts.folder,
            fields=("shard_over_sequence", "tensor_parallel_degree"),
        )


def refuse_missing_cores(n_cores: int, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a model that is split over more cores than this process may use.

    Args:
        n_cores: that the model takes.
        environ: of this process; ``NEURON_RT_VISIBLE_CORES`` says which cores are its own.
    Raises:
        EngineLoadError: there are fewer.
    """
    shown = environ.get(_VISIBLE, "")
    ranges = [re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part) for part in shown.split(",")] if shown else []
    n_shown = sum(int(each[2] or each[1]) - int(each[1]) + 1 for each in ranges if each)
    if 0 < n_shown < n_cores:
        raise EngineLoadError(
            "device.too-few",
            f"the model takes {n_cores} NeuronCores, and this copy has {n_shown} ({_VISIBLE}={shown})",
            f"Set option.tensor_parallel_degree={n_cores}",
        )


def _of_degree(path: str, message: str, hint: str) -> Problem:
    return Problem(
        code="config.tensor-parallel",
        message=message,
        hint=hint,
        path=path,
        severity=Severity.WARNING,
        fields=("tensor_parallel_degree",),
    )
