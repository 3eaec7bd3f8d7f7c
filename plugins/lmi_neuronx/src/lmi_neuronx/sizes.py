# SPDX-License-Identifier: Apache-2.0
"""What a model is compiled for: the options, where they are set, else what a compiled model says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from lmi.api import ModelArtifacts, StepperLimits
from lmi_neuronx.compiled import read_compiled
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.families import CONTINUOUS_FAMILIES
from lmi_neuronx.rules import is_turned_on


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers that are compiled into a model.

    Args:
        n_positions: longest prompt plus output.
        batch_size: sequences.
        n_cores: it is split over.
        dtype: LMI's name of the number type.
        is_continuous: whether the library's continuous batching is compiled in.
    """

    n_positions: int
    batch_size: int
    n_cores: int
    dtype: str
    is_continuous: bool

    def limits(self, vocab_size: int, *, samples_on_device: bool) -> StepperLimits:
        """What the core's scheduler is told."""
        return StepperLimits(
            max_slots=self.batch_size,
            max_context_tokens=self.n_positions,
            kv_capacity_tokens=self.batch_size * self.n_positions,  # each slot has its own, used or not
            vocab_size=vocab_size,
            max_prefills_per_step=self.batch_size,
            n_logits_per_slot=1,
            samples_on_device=samples_on_device,
        )


def sizes_of(artifacts: ModelArtifacts, config: NeuronxConfig) -> Sizes:
    """What this model is compiled for with these options.

    Args:
        artifacts: the model.
        config: the options; one at its default gives way to what the model was compiled with.
    """
    compiled = read_compiled(artifacts)

    def held(name: str, built: int) -> int:
        return built if built and not is_turned_on(config, name) else int(getattr(config, name))

    n_positions = held("n_positions", compiled.sequence_length if compiled else 0)
    if artifacts.max_context_tokens:
        n_positions = min(n_positions, artifacts.max_context_tokens)
    batch = "batch_size" if config.is_static else "max_rolling_batch_size"
    dtype = compiled.dtype if compiled and compiled.dtype and not is_turned_on(config, "dtype") else config.dtype
    return Sizes(
        n_positions=n_positions,
        batch_size=held(batch, compiled.batch_size if compiled else 0),
        n_cores=held("tensor_parallel_degree", compiled.n_cores if compiled else 0),
        dtype=dtype,
        is_continuous=is_continuous(artifacts, config),
    )


def is_continuous(artifacts: ModelArtifacts, config: NeuronxConfig) -> bool:
    """Whether the library's own continuous batching is used; else whole batches are read anew at each arrival."""
    if config.is_static or config.rolling_batch_strategy == "naive_rolling_batch":
        return False
    return artifacts.model_type in CONTINUOUS_FAMILIES


def vocab_size_of(artifacts: ModelArtifacts) -> int:
    """Width of the logits; 0 where config.json does not say."""
    layers = (artifacts.config, artifacts.config.get("text_config") or {})
    return next((int(each["vocab_size"]) for each in layers if isinstance(each.get("vocab_size"), int)), 0)


__all__ = ["Sizes", "is_continuous", "sizes_of", "vocab_size_of"]
