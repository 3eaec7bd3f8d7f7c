# SPDX-License-Identifier: Apache-2.0
"""The compiled graph that goes with a model: which folder it is in, and whether that holds graphs or a cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import MutableMapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lmi.api import EngineLoadError, ModelArtifacts
from lmi_neuronx.compiled import CACHE_FOLDER, GRAPH_SUFFIX, is_same_compiler, joined, read_compiled
from lmi_neuronx.compiled_checks import COMPILER
from lmi_neuronx.config import NeuronxConfig

CACHE_VARIABLE = "NEURON_COMPILE_CACHE_URL"
"""Where the compiler keeps its graphs. Source: AWS's documentation of the compile cache."""


@dataclass(frozen=True)
class Graph:
    """Graphs on this machine.

    Args:
        folder: that holds them.
        is_cache: whether a compiler wrote them into its cache; otherwise a model saved them.
        compilers: versions that the folder tells.
    """

    folder: Path
    is_cache: bool
    compilers: tuple[str, ...] = ()


def graph_of(artifacts: ModelArtifacts, config: NeuronxConfig) -> Graph | None:
    """The graphs of a model; None where it has none, and is compiled.

    Raises:
        EngineLoadError: the place that the options name has none.
    """
    compiled = read_compiled(artifacts)
    if compiled is not None and not compiled.is_optimum:
        return look_at(artifacts.path / joined(artifacts.inner, "compiled"), "the model's own graph")
    if not config.compiled_graph_path:
        return None
    fetched = artifacts.further.get("compiled_graph_path")
    # A relative path starts at the model's folder; an absolute one replaces it.
    folder = Path(fetched.folder) if fetched else artifacts.path / config.compiled_graph_path
    return look_at(folder, f"compiled_graph_path={config.compiled_graph_path}")


def look_at(folder: Path, what: str) -> Graph:
    """What a folder holds, by its content.

    Args:
        folder: with graphs, or a cache.
        what: names it, for the message.
    Raises:
        EngineLoadError: it holds neither.
    """
    versions = tuple(
        word for path in sorted(folder.glob("VERSION")) for word in path.read_text().split() if word[:1].isdecimal()
    )[:1]
    if any(folder.glob(f"*{GRAPH_SUFFIX}")):
        return Graph(folder, is_cache=False, compilers=versions)
    match = CACHE_FOLDER.fullmatch(folder.name)
    if match and next(folder.rglob(f"*{GRAPH_SUFFIX}"), None):
        return Graph(folder.parent, is_cache=True, compilers=(match["version"],))
    found = [each for path in sorted(folder.glob("neuronxcc-*")) if (each := CACHE_FOLDER.fullmatch(path.name))]
    if found:
        return Graph(folder, is_cache=True, compilers=tuple(each["version"] for each in found))
    raise EngineLoadError(
        "engine.graph-missing",
        f"{what}: {folder} holds no compiled graph, neither {GRAPH_SUFFIX} files nor a compiler's cache (neuronxcc-*)",
        "Put the graph there, or remove the option and the model is compiled at the start",
    )


def refuse_other_compiler(graph: Graph) -> None:
    """Refuse a graph of another compiler than this one, before weights are loaded.

    A cache may have the graphs of several; one of them is enough.

    Raises:
        EngineLoadError: none of its versions is the one that is here.
    """
    here = compiler_version()
    if not here or not graph.compilers or any(is_same_compiler(each, here) for each in graph.compilers):
        return
    raise EngineLoadError(
        "model.compiler-version",
        f"{COMPILER} {' and '.join(graph.compilers)} compiled the graph in {graph.folder}, and {here} is here; it "
        "loads graphs of its own version only",
        f"Compile the model anew with {COMPILER} {here}, or use a container with {graph.compilers[0]}",
    )


def compiler_version() -> str:
    """Of the compiler that this Python has; "" where it has none."""
    try:
        return metadata.version(COMPILER)
    except metadata.PackageNotFoundError:
        return ""


def use_cache(graph: Graph, environ: MutableMapping[str, str] = os.environ) -> None:
    """Tell the compiler of a cache. It writes there too, so one that may only be read is copied first."""
    folder = graph.folder
    if not os.access(folder, os.W_OK):
        folder = Path(tempfile.mkdtemp(prefix="lmi-neuron-cache-"))
        shutil.copytree(graph.folder, folder, dirs_exist_ok=True)
    environ[CACHE_VARIABLE] = str(folder)


__all__ = ["CACHE_VARIABLE", "Graph", "compiler_version", "graph_of", "look_at", "refuse_other_compiler", "use_cache"]
