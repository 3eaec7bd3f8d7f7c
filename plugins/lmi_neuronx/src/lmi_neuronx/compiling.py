# SPDX-License-Identifier: Apache-2.0
"""Compile a model ahead of time, into a folder that loads without compiling: the layout of the SDK 2.16, or
optimum-neuron's own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec

from lmi.api import ArtifactFormat, ModelArtifacts, Progress
from lmi_neuronx import optimum
from lmi_neuronx.arguments import ALIGNED_FAMILIES, AMP
from lmi_neuronx.checkpoints import write_split
from lmi_neuronx.compiled_checks import COMPILER
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.engine import library_modules, model_on_device
from lmi_neuronx.families import CONTINUOUS_FAMILIES
from lmi_neuronx.graphs import CACHE_VARIABLE, compiler_version
from lmi_neuronx.sizes import Sizes, sizes_of

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".index.json")
_DOCUMENTS = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")
_MOST_DOCUMENT_BYTES = 1 << 20


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
    is_graph_alone = config.partition_schema == "compile_only"
    if optimum.takes(artifacts, config):
        optimum.exported(artifacts, config, progress).save_pretrained(str(output))
    else:
        sizes = sizes_of(artifacts, config)
        if not is_graph_alone:
            write_split(artifacts, config, sizes.dtype, str(output / "checkpoint"), library_modules(), progress)
        _write_graph(artifacts, config, sizes, output / "compiled", progress)
        if not is_graph_alone:
            _write_config(artifacts, sizes, output)
    if not is_graph_alone:
        _copy_documents(artifacts, output)
    return described(artifacts, output, ArtifactFormat.NONE if is_graph_alone else ArtifactFormat.NEURON)


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


def _copy_documents(artifacts: ModelArtifacts, output: Path) -> None:
    """Tokenizer, templates and code; what was written already stays."""
    inner = artifacts.path / artifacts.inner
    for path in sorted(inner.iterdir()):
        is_wanted = path.name.endswith(_DOCUMENTS) and not path.name.endswith(_WEIGHTS) and path.is_file()
        if is_wanted and not (output / path.name).exists():
            shutil.copyfile(path, output / path.name)


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
        weight_files=tuple(name for name in files if name.startswith("checkpoint/") and not name.endswith(".json")),
    )


__all__ = ["compile_into", "described"]
