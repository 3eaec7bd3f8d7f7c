# SPDX-License-Identifier: Apache-2.0
"""Compile a model ahead of time, into a folder that loads without compiling: the layout of the SDK 2.16, or
optimum-neuron's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from lmi.api import ArtifactError, ArtifactFormat, ConfigError, ModelArtifacts, Progress
from lmi.api.folders import copy_documents
from lmi_neuronx import optimum
from lmi_neuronx.arguments import ALIGNED_FAMILIES, AMP
from lmi_neuronx.checkpoints import write_split
from lmi_neuronx.compiled import SPLIT_WEIGHTS
from lmi_neuronx.compiled_checks import COMPILER
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.engine import library_modules, model_on_device
from lmi_neuronx.families import CONTINUOUS_FAMILIES
from lmi_neuronx.graphs import CACHE_VARIABLE, compiler_version
from lmi_neuronx.sizes import Sizes, sizes_of

_MOST_DOCUMENT_BYTES = 1 << 20
_WEIGHTS = ("checkpoint/", f"{SPLIT_WEIGHTS}/")


def compile_into(artifacts: ModelArtifacts, config: NeuronxConfig, output: Path, progress: Progress) -> ModelArtifacts:
    """Write a compiled model.

    Args:
        artifacts: the model, uncompiled.
        config: the options; ``partition_schema`` says what is written.
        output: an empty folder.
        progress: told the stages.
    Returns:
        What the folder holds.
    Raises:
        EngineLoadError, OutOfMemoryError: as a load.
    """
    if optimum.takes(artifacts, config):
        optimum.exported(artifacts, config, progress).save_pretrained(str(output))
    else:
        sizes = sizes_of(artifacts, config)
        checkpoint = output / "checkpoint"
        write_split(artifacts, config, sizes.dtype, str(checkpoint), library_modules(), progress)
        # The graph is made of what will be loaded with it.
        split = described(artifacts, checkpoint, ArtifactFormat.NEURON_SPLIT)
        _write_graph(split, config, sizes, output / "compiled", progress)
        _write_config(artifacts, sizes, output)
    there = {path.name for path in output.iterdir()}
    copy_documents(artifacts.path / artifacts.inner, output, but=there)
    return described(artifacts, output, ArtifactFormat.NEURON)


def refuse_unbuildable(artifacts: ModelArtifacts, config: NeuronxConfig) -> None:
    """Refuse what cannot be compiled ahead of time, before a library is imported.

    Raises:
        ArtifactError: the model is compiled or split already.
        ConfigError: the options bring a graph already, or ask for a graph alone.
    """
    if artifacts.format is not ArtifactFormat.PRETRAINED:
        what = "compiled" if artifacts.format is ArtifactFormat.NEURON else "split"
        raise ArtifactError(
            "model.already-built",
            f"{artifacts.folder} is a model that is {what} already; compiling begins with the weights as they were "
            "trained",
            (),
            "Serve it as it is, or name the model that it was made of",
        )
    if config.compiled_graph_path:
        raise ConfigError(
            "model.already-built",
            f"compiled_graph_path={config.compiled_graph_path} brings the model's graph already",
            (),
            "Serve the model with it, or remove option.compiled_graph_path to compile the model anew",
        )
    if config.partition_schema == "compile_only":
        raise ConfigError(
            "compile.graph-alone",
            "partition_schema=compile_only is a graph without a model, and what is built here is served as a model",
            (),
            "Set option.partition_schema=legacy; the folder compiled/ of that is the graph alone, which "
            "option.compiled_graph_path takes",
        )


def _write_graph(
    artifacts: ModelArtifacts, config: NeuronxConfig, sizes: Sizes, folder: Path, progress: Progress
) -> None:
    """The graphs as the model saves them; of a class that saves none, what the compiler puts into its cache."""
    folder.mkdir(parents=True)
    if artifacts.model_type in ALIGNED_FAMILIES:
        os.environ[CACHE_VARIABLE] = str(folder)
    model = model_on_device(artifacts, config, sizes, progress)
    if artifacts.model_type not in ALIGNED_FAMILIES:
        progress("save the graph")
        model.save(str(folder))
    (folder / "VERSION").write_text(f"{compiler_version()}\n")


def _write_config(artifacts: ModelArtifacts, sizes: Sizes, output: Path) -> None:
    section = {
        "auto_cast_type": AMP[sizes.dtype],
        "batch_size": sizes.batch_size,
        "checkpoint_id": None,
        "checkpoint_revision": None,
        "compiler_type": COMPILER,
        "compiler_version": compiler_version(),
        "num_cores": sizes.n_cores,
        "sequence_length": sizes.n_positions,
    }
    if artifacts.model_type in CONTINUOUS_FAMILIES:  # of others there is one graph for both
        section["continuous_batching"] = sizes.is_continuous
    (output / "config.json").write_text(json.dumps({**artifacts.config, "neuron": section}, indent=2))


def described(artifacts: ModelArtifacts, folder: Path, layout: ArtifactFormat) -> ModelArtifacts:
    """A folder that was written, as a start would describe it."""
    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    documents: dict[str, Any] = {}
    for name, size in files.items():
        if name.endswith(".json") and size <= _MOST_DOCUMENT_BYTES:
            documents[name] = json.loads((folder / name).read_text())
        elif name.rpartition("/")[2] == "VERSION":
            documents[name] = (folder / name).read_text()
    return msgspec.structs.replace(
        artifacts,
        folder=str(folder),
        format=layout,
        inner="",
        config=documents.get("config.json", {}),
        files=files,
        documents=documents,
        weight_files=tuple(name for name in files if name.startswith(_WEIGHTS) and not name.endswith(".json")),
    )


__all__ = ["compile_into", "described", "refuse_unbuildable"]
