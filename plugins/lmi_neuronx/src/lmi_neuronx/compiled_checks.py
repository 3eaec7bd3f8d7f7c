# SPDX-License-Identifier: Apache-2.0
"""What would stop a compiled model: its graph against the options, the machine and the container."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Severity, Target
from lmi_neuronx.compiled import (
    SPLIT_WEIGHTS,
    CompiledModel,
    Compiler,
    compiler_of_name,
    compilers_of,
    has_graph,
    is_same_compiler,
    joined,
    read_compiled,
)
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.cores import generation_of
from lmi_neuronx.graph_paths import folder_inside
from lmi_neuronx.rules import is_turned_on, options_of_tnx, written

COMPILER = "neuronx-cc"
OPTIMUM = "optimum-neuron"


def find_compiled_problems(artifacts: ModelArtifacts, config: NeuronxConfig, target: Target) -> Iterator[Problem]:
    """Everything about what was compiled before: a whole model, or a graph beside one."""
    compiled = read_compiled(artifacts)
    if compiled is not None:
        yield from _check_sizes(artifacts, config, target, compiled)
        yield from _check_batching(artifacts, config, compiled)
        yield from _check_machine(artifacts, config, target, compiled)
        yield from _check_loader(artifacts, config, compiled)
        yield from _check_files(artifacts, compiled)
        yield from _check_library(artifacts, target, compiled)
    yield from _check_compiler(artifacts, config, target)


def _check_sizes(
    artifacts: ModelArtifacts, config: NeuronxConfig, target: Target, compiled: CompiledModel
) -> Iterator[Problem]:
    """A compiled model has fixed sizes; options that nobody set take them, all but the degree.

    The core gives a copy as many cores as the degree says, whatever the model was compiled for.
    """
    names = {
        "n_cores": "tensor_parallel_degree",
        "sequence_length": "n_positions",
        "batch_size": "batch_size" if config.is_static else "max_rolling_batch_size",
        "dtype": "dtype",
    }
    for size, name in names.items():
        built, asked = getattr(compiled, size), getattr(config, name)
        is_said = is_turned_on(config, name) or name in config.model_fields_set
        if size == "n_cores":
            is_said = is_said or not 0 < target.n_devices < built  # fewer are told by themselves
        if built and asked != built and is_said:
            yield _otherwise(
                artifacts,
                f"the model was compiled with {compiled.keys[size]}={built}, {name} is {asked}",
                f"Set option.{name}={built}{'' if size == 'n_cores' else ' or leave it out'}, or serve the uncompiled "
                "model",
                name,
            )


def _check_batching(artifacts: ModelArtifacts, config: NeuronxConfig, compiled: CompiledModel) -> Iterator[Problem]:
    if compiled.is_continuous is False and compiled.batch_size > 1 and not config.is_static:
        asked = f"{written(config, 'rolling_batch')} asks" if config.rolling_batch else "the options ask"
        yield _otherwise(
            artifacts,
            f"the model was compiled for whole batches of {compiled.batch_size}, and {asked} for continuous batching",
            f"Set option.rolling_batch=disable and batch_size={compiled.batch_size}, or compile it with "
            "continuous_batching",
            "rolling_batch",
            "batch_size",
        )
    elif compiled.is_continuous and config.is_static and compiled.batch_size > 1:
        yield _otherwise(
            artifacts,
            "the model was compiled for continuous batching, and the options ask for whole batches: "
            f"{written(config, 'rolling_batch', 'batch_size')}",
            f"Set option.rolling_batch=auto and option.max_rolling_batch_size={compiled.batch_size}",
            "rolling_batch",
            "batch_size",
        )


def _check_machine(
    artifacts: ModelArtifacts, config: NeuronxConfig, target: Target, compiled: CompiledModel
) -> Iterator[Problem]:
    if target.accelerator is not Accelerator.NEURON:
        return  # told by itself
    is_told = config.tensor_parallel_degree > target.n_devices
    if 0 < target.n_devices < compiled.n_cores and not is_told:
        yield Problem(
            code="device.too-few",
            message=f"the model was compiled for {compiled.n_cores} NeuronCores, and this machine has "
            f"{target.n_devices}",
            hint=f"Serve it on a machine with {compiled.n_cores}, or compile it for {target.n_devices}",
            path=artifacts.folder,
        )
    here = generation_of(target)
    if compiled.target and here and compiled.target != here:
        yield Problem(
            code="model.compiled-otherwise",
            message=f"the model was compiled for {compiled.target}, and this machine is of {here}",
            hint=f"Compile it on {here}, or serve it on {compiled.target}",
            path=joined(artifacts.folder, compiled.source),
        )


def _check_loader(artifacts: ModelArtifacts, config: NeuronxConfig, compiled: CompiledModel) -> Iterator[Problem]:
    reasons = options_of_tnx(config) or (["model_loader"] if config.model_loader == "tnx" else [])
    if compiled.is_optimum and reasons:
        yield Problem(
            code="config.model-loader",
            message=f"{written(config, *reasons)} means the loader tnx, and optimum-neuron compiled this model",
            hint=f"Remove {', '.join(f'option.{each}' for each in reasons)}",
            path=joined(artifacts.folder, compiled.source),
            fields=tuple(reasons),
        )
    elif not compiled.is_optimum and config.loader == "optimum":
        asked = "model_loader" if config.model_loader else "partition_schema"
        yield Problem(
            code="config.model-loader",
            message=f"{written(config, asked)} means the loader optimum, which no longer takes models with a section "
            "'neuron' in config.json",
            hint=f"Remove option.{asked}; tnx loads them",
            path=joined(artifacts.folder, compiled.source),
            fields=(asked,),
        )


def _check_files(artifacts: ModelArtifacts, compiled: CompiledModel) -> Iterator[Problem]:
    """The graph, and the weights that go with it."""
    inner = artifacts.inner
    graph = joined(inner, "model.pt" if compiled.is_optimum else "compiled")
    if graph not in artifacts.files if compiled.is_optimum else not has_graph(artifacts, graph):
        what = "model.pt, which holds the graph" if compiled.is_optimum else "compiled graph (*.neff) in compiled/"
        yield Problem(
            code="model.graph-missing",
            message=f"{compiled.source} says that the model is compiled, and there is no {what}",
            hint="Copy the whole folder that compiling wrote",
            path=joined(artifacts.folder, graph),
        )
    checkpoint = joined(inner, "checkpoint")
    split = joined(checkpoint, SPLIT_WEIGHTS)
    if any(not name.startswith(f"{checkpoint}/") for name in artifacts.weight_files):
        return  # whole ones beside the graph
    if not compiled.is_optimum and artifacts.has_folder(split):
        yield from check_split_folder(artifacts, split)
    elif not (compiled.is_optimum and (compiled.checkpoint_id or artifacts.has_folder(checkpoint))):
        where = checkpoint if compiled.is_optimum else split
        yield Problem(
            code="weights.missing",
            message=f"there are no weights beside the graph: neither safetensors nor the folder {where}",
            hint="Copy the whole folder that compiling wrote",
            path=joined(artifacts.folder, where),
        )


def check_split_folder(artifacts: ModelArtifacts, split: str) -> Iterator[Problem]:
    """A problem where the list is missing that says which tensor is in which file."""
    name = joined(split, "key_to_filename.json")
    if name not in artifacts.files:
        yield Problem(
            code="weights.shard-missing",
            message=f"{split} has no key_to_filename.json, which says where each tensor is",
            hint="Copy the whole folder that splitting wrote",
            path=joined(artifacts.folder, name),
        )


def _check_library(artifacts: ModelArtifacts, target: Target, compiled: CompiledModel) -> Iterator[Problem]:
    there, here = compiled.library_version, target.versions.get(OPTIMUM, "")
    if there and here and there != here:
        yield Problem(
            code="model.compiler-version",
            message=f"optimum-neuron {there} compiled the model, and the target has {here}; only the same version "
            "loads it",
            hint=f"Compile it anew with optimum-neuron {here}, or use a container with {there}",
            path=joined(artifacts.folder, compiled.source),
        )


def _check_compiler(artifacts: ModelArtifacts, config: NeuronxConfig, target: Target) -> Iterator[Problem]:
    """A graph runs under the compiler version that made it."""
    is_compiled = artifacts.format is ArtifactFormat.NEURON
    if not is_compiled and not config.compiled_graph_path:
        return
    inside = folder_inside(artifacts, config.compiled_graph_path)
    elsewhere = artifacts.further.get("compiled_graph_path")
    is_told = elsewhere is not None and not has_graph(elsewhere, "")
    if not is_compiled and (is_told or (inside is not None and not has_graph(artifacts, inside))):
        return  # told by itself
    found: list[Compiler] = []
    if elsewhere is not None and not is_compiled:
        found = [*compilers_of(elsewhere), *compiler_of_name(elsewhere.folder)]
    elif is_compiled or inside is not None:
        found = compilers_of(artifacts, ("",) if is_compiled else (inside or "",))
    here = target.versions.get(COMPILER, "")
    wrong = [each for each in found if here and not is_same_compiler(each.version, here)]
    in_caches = [each for each in found if each.place.rpartition("/")[2].startswith("neuronxcc-")]
    if wrong and not (len(wrong) < len(found) and set(wrong) <= set(in_caches)):
        first = wrong[0]
        yield Problem(
            code="model.compiler-version",
            message=f"{COMPILER} {first.version} compiled the graph ({first.place}), and the target has {here}; it "
            "loads graphs of its own version only",
            hint=f"Compile the model anew with {COMPILER} {here}, or use a container with {first.version}",
            path=joined((elsewhere if elsewhere and not is_compiled else artifacts).folder, first.place),
            fields=() if is_compiled else ("compiled_graph_path",),
        )
    elif not found or not here:
        yield _unknown_compiler(artifacts, config, found, here, is_compiled=is_compiled)


def _unknown_compiler(
    artifacts: ModelArtifacts, config: NeuronxConfig, found: list[Compiler], here: str, *, is_compiled: bool
) -> Problem:
    graph = "the graph" if is_compiled else written(config, "compiled_graph_path")
    if found:
        what = f"{COMPILER} {found[0].version} compiled {graph} ({found[0].place}), and the target's is not known"
    else:
        what = f"nothing says which {COMPILER} compiled {graph}" + (f"; the target has {here}" if here else "")
    return Problem(
        code="model.compiled-elsewhere",
        message=f"{what}; a graph runs only with the compiler version and the options that it was compiled with",
        hint="Compile it in the container that serves it; lmi check compares versions when it is told: "
        f"--target {COMPILER}=VERSION",
        path=artifacts.folder,
        severity=Severity.WARNING,
        fields=() if is_compiled else ("compiled_graph_path",),
    )


def _otherwise(artifacts: ModelArtifacts, message: str, hint: str, *fields: Any) -> Problem:
    return Problem(
        code="model.compiled-otherwise", message=message, hint=hint, path=artifacts.folder, fields=tuple(fields)
    )
