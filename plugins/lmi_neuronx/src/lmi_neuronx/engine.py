# SPDX-License-Identifier: Apache-2.0
"""Load a model: its graph is looked for, its weights are read, and it is compiled where there is no graph."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from lmi.api import EngineLoadError, ModelArtifacts, Progress, Stepper
from lmi_neuronx import graphs
from lmi_neuronx.arguments import (
    ALIGNED_FAMILIES,
    CLASSES,
    constructor_arguments,
    samples_on_device,
    set_compiler_flags,
)
from lmi_neuronx.checkpoints import must_rewrite, temporary_folder, weights_folder, write_split
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.cores import refuse_missing_cores
from lmi_neuronx.failures import load_failures_named
from lmi_neuronx.models import AlignedModel, ContinuousModel, PaddedBatch
from lmi_neuronx.sizes import Sizes, sizes_of, vocab_size_of
from lmi_neuronx.stepping import BatchStepper, SlotStepper

log = logging.getLogger(__name__)

MODULES = ("config", "constants", "module")
"""Modules of the library that are used beside its classes."""


def load_stepper(artifacts: ModelArtifacts, config: NeuronxConfig, progress: Progress) -> Stepper:
    """Load a model with Transformers-NeuronX and return what steps it.

    Args:
        artifacts: the model.
        config: the options.
        progress: told the stages.
    Raises:
        EngineLoadError: it cannot be loaded; the cause is kept.
        OutOfMemoryError: it does not fit.
    """
    sizes = sizes_of(artifacts, config)
    model = model_on_device(artifacts, config, sizes, progress)
    limits = sizes.limits(
        _vocab_size(artifacts, model), samples_on_device=samples_on_device(artifacts.model_type, config)
    )
    log.info(
        "%s in %s on %d NeuronCores: %d sequences, %d tokens each",
        type(model).__name__, sizes.dtype, sizes.n_cores, limits.max_slots, limits.max_context_tokens,
    )  # fmt: skip
    if sizes.is_continuous:
        return SlotStepper(ContinuousModel(model, sizes.batch_size), limits)
    if artifacts.model_type in ALIGNED_FAMILIES:
        return SlotStepper(AlignedModel(model, sizes.batch_size), limits)
    return BatchStepper(PaddedBatch(model, sizes.batch_size), limits)


def model_on_device(artifacts: ModelArtifacts, config: NeuronxConfig, sizes: Sizes, progress: Progress) -> Any:
    """A model of Transformers-NeuronX that is compiled and on the device; its ``save`` writes the graph.

    Args:
        artifacts, config, progress: as ``load_stepper`` has them.
        sizes: that are compiled in.
    Raises:
        EngineLoadError, OutOfMemoryError: as ``load_stepper`` does.
    """
    graph = graphs.graph_of(artifacts, config)
    if graph is not None:
        _refuse_graph_files(artifacts, graph)
        graphs.refuse_other_compiler(graph)
        if graph.is_cache:
            graphs.use_cache(graph)
    refuse_missing_cores(sizes.n_cores)
    set_compiler_flags(config)
    library = library_modules()
    with load_failures_named(f"transformers-neuronx could not load {artifacts.folder}"):
        with _weights(artifacts, config, sizes, library, progress) as folder:
            progress("load weights")
            arguments = constructor_arguments(artifacts.model_type, config, sizes, library)
            model = getattr(library, CLASSES[artifacts.model_type]).from_pretrained(folder, **arguments)
            if graph is not None and not graph.is_cache:
                model.load(str(graph.folder))
            progress("load the graph" if graph else "compile")
            model.to_neuron()
        return model


def library_modules() -> ModuleType:
    """The module transformers_neuronx, with those of its modules that are used."""
    import_module("torch_neuronx")  # first: it registers the operators
    library = import_module("transformers_neuronx")
    for name in MODULES:
        import_module(f"transformers_neuronx.{name}")
    return library


@contextlib.contextmanager
def _weights(
    artifacts: ModelArtifacts, config: NeuronxConfig, sizes: Sizes, library: ModuleType, progress: Progress
) -> Iterator[str]:
    """The folder that the library reads weights from, for as long as it reads them."""
    if not must_rewrite(artifacts):
        yield weights_folder(artifacts)
        return
    with temporary_folder() as folder:
        write_split(artifacts, config, sizes.dtype, folder, library, progress)
        yield folder


def _refuse_graph_files(artifacts: ModelArtifacts, graph: graphs.Graph) -> None:
    if artifacts.model_type in ALIGNED_FAMILIES and not graph.is_cache:
        raise EngineLoadError(
            "config.compiled-graph",
            f"{graph.folder} holds graphs that a model saved, and the library's class for {artifacts.model_type} loads "
            "none",
            "Name a dump of the compiler's cache (neuronxcc-*) with option.compiled_graph_path",
        )


def _vocab_size(artifacts: ModelArtifacts, model: Any) -> int:
    return vocab_size_of(artifacts) or int(model.config.vocab_size)


__all__ = ["library_modules", "load_stepper", "model_on_device"]
