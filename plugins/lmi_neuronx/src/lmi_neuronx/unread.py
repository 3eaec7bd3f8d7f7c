# SPDX-License-Identifier: Apache-2.0
"""Options that the library which loads a model does not read, or refuses for its family."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import ModelArtifacts, Problem, Severity
from lmi_neuronx.arguments import ALIGNED_FAMILIES
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.optimum import takes
from lmi_neuronx.rules import is_turned_on, written

_NOT_OF_OPTIMUM = (
    "all_reduce_dtype", "attention_layout", "cache_layout", "cast_logits_dtype", "enable_mixed_precision_accumulation",
    "enable_saturate_infinity", "group_query_attention", "low_cpu_mem_usage", "neuron_optimize_level",
    "rolling_batch_strategy", "sequence_parallel", "shard_over_sequence", "unroll",
)  # fmt: skip
"""Options of Transformers-NeuronX that do not decide for it; optimum-neuron 0.4 compiles with flags of its own."""

_NOT_OF_NEOX = ("quantize", "load_in_8bit", "unroll")


def check_unread(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    """Options that do nothing for this model, and those that its class refuses."""
    family = artifacts.model_type
    if family and takes(artifacts, config):
        yield from _unread(artifacts, config, _NOT_OF_OPTIMUM, "optimum-neuron loads this model, and does not read it")
        return
    if family in ALIGNED_FAMILIES:
        reason = f"the library's class for {family} reads prompts one token at a time and gives logits"
        yield from _unread(artifacts, config, ("context_length_estimate", "on_device_generation"), reason)
    if family == "gpt_neox":
        for name in (each for each in _NOT_OF_NEOX if is_turned_on(config, each)):
            yield Problem(
                code="config.conflict",
                message=f"{written(config, name)}: the library has not implemented it for gpt_neox",
                hint=f"Remove option.{name}",
                path=artifacts.folder,
                fields=(name,),
            )


def _unread(artifacts: ModelArtifacts, config: NeuronxConfig, names: tuple[str, ...], reason: str) -> Iterator[Problem]:
    for name in (each for each in names if is_turned_on(config, each)):
        yield Problem(
            code="config.no-effect",
            message=f"{written(config, name)} does nothing: {reason}",
            hint=f"Remove option.{name}",
            path=artifacts.folder,
            severity=Severity.WARNING,
            fields=(name,),
        )


__all__ = ["check_unread"]
