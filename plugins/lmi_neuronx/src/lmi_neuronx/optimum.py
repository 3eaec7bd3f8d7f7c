# SPDX-License-Identifier: Apache-2.0
"""Models through optimum-neuron: those that it compiled, and those that it compiles now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lmi.api import EngineLoadError, ModelArtifacts, Progress, Stepper
from lmi_neuronx.compiled import joined, read_compiled
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.cores import refuse_missing_cores
from lmi_neuronx.failures import load_failures_named
from lmi_neuronx.families import OPTIMUM_FAMILIES, TNX_FAMILIES
from lmi_neuronx.sizes import sizes_of, vocab_size_of
from lmi_neuronx.stepping import Rows, SlotStepper

if TYPE_CHECKING:
    import torch

DISTRIBUTION = "optimum-neuron"
_SAMPLING = "optimum.neuron.models.inference.backend.modules.generation.sampling"


def takes(artifacts: ModelArtifacts, config: NeuronxConfig) -> bool:
    """Whether optimum-neuron loads a model; otherwise Transformers-NeuronX does."""
    compiled = read_compiled(artifacts)
    if compiled is not None:
        return compiled.is_optimum
    if artifacts.model_type not in TNX_FAMILIES:
        return True
    return config.loader == "optimum" and artifacts.model_type in OPTIMUM_FAMILIES


class OptimumModel:
    """Calls of a model of optimum-neuron: prompts padded on the right, and a position for each row.

    Args:
        model: NxDModelForCausalLM, on the device.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._sizes = model.neuron_config
        self._sampling_params = import_module(_SAMPLING).prepare_sampling_params

    def prefill(self, slot: int, rows: Rows) -> torch.Tensor:
        # Without continuous batching the graph for prompts has all rows; each writes what it has already.
        slots = [slot] if self._sizes.ctx_batch_size == 1 else list(range(self._sizes.batch_size))
        read = [list(rows.get(each, (0,))) for each in slots]
        width = max(map(len, read))
        places = [[*range(len(ids)), *[0] * (width - len(ids))] for ids in read]
        found = self._run([ids + [0] * (width - len(ids)) for ids in read], places, slots)
        return found[slots.index(slot)]

    def decode(self, slots: Sequence[int], rows: Rows) -> torch.Tensor:
        # All slots are named: the library fills those that are not with the first row, at the first row's position.
        every = list(range(self._sizes.batch_size))
        last = [(rows[slot][-1], len(rows[slot]) - 1) if slot in rows else (0, 0) for slot in every]
        found = self._run([[token_id] for token_id, _ in last], [[place] for _, place in last], every)
        return found[list(slots)]

    def _run(self, ids: list[list[int]], places: list[list[int]], slots: list[int]) -> torch.Tensor:
        import torch

        found: torch.Tensor = self._model(
            torch.tensor(ids),
            torch.tensor(places),
            seq_ids=torch.tensor(slots),
            sampling_params=self._sampling_params(len(slots)),  # where the device samples: the most likely id
        )
        rows = found.reshape(len(slots), -1)
        return rows if rows.shape[1] > 1 else rows[:, 0]

    def close(self) -> None:
        self._model = None


def load_optimum(artifacts: ModelArtifacts, config: NeuronxConfig, progress: Progress) -> Stepper:
    """Load a model with optimum-neuron, compiling it if it is not.

    Args:
        artifacts: the model.
        config: the options.
        progress: told the stages.
    Raises:
        EngineLoadError: it was refused; the cause is kept.
        OutOfMemoryError: it does not fit.
    """
    library = import_module("optimum.neuron").NeuronModelForCausalLM
    compiled = read_compiled(artifacts)
    refuse_missing_cores(sizes_of(artifacts, config).n_cores)
    with load_failures_named(f"optimum-neuron could not load {artifacts.folder}"):
        if compiled is not None:
            progress("load the compiled model")
            model = library.from_pretrained(
                joined(artifacts.folder, artifacts.inner) if artifacts.inner else artifacts.folder
            )
        else:
            model = exported(artifacts, config, progress)
    held = model.neuron_config
    vocab_size = vocab_size_of(artifacts)
    if not vocab_size:
        raise EngineLoadError(
            "engine.load-failed",
            f"config.json of {artifacts.folder} has no vocab_size",
            "Add it, as the model's authors have it",
        )
    sizes = replace(
        sizes_of(artifacts, config),
        batch_size=held.batch_size,
        n_positions=held.sequence_length,
        n_cores=held.tp_degree,
        is_continuous=held.continuous_batching,
    )
    limits = sizes.limits(vocab_size, samples_on_device=bool(held.on_device_sampling))
    return SlotStepper(OptimumModel(model), limits)


def exported(artifacts: ModelArtifacts, config: NeuronxConfig, progress: Progress) -> Any:
    """A model that optimum-neuron compiled just now, on the device; its ``save_pretrained`` writes it.

    It looks for each graph in its own cache on the hub first (CUSTOM_CACHE_REPO names another one).

    Args:
        artifacts, config, progress: as ``load_optimum`` has them.
    """
    import torch

    library = import_module("optimum.neuron").NeuronModelForCausalLM
    sizes = sizes_of(artifacts, config)
    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    wanted = library.get_neuron_config(
        artifacts.folder,
        batch_size=sizes.batch_size,
        sequence_length=sizes.n_positions,
        tensor_parallel_size=sizes.n_cores,
    )
    wanted.torch_dtype = types[sizes.dtype]
    # The core samples, with what each request asks; the device would take the most likely id alone.
    wanted.on_device_sampling = config.on_device_generation is not None
    if config.is_static:
        wanted.continuous_batching = False
    progress("compile with optimum-neuron")
    return library.export(artifacts.folder, wanted, trust_remote_code=config.trust_remote_code, load_weights=True)


__all__ = ["DISTRIBUTION", "OptimumModel", "exported", "load_optimum", "takes"]
