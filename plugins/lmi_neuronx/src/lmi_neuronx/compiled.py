# SPDX-License-Identifier: Apache-2.0
"""What a compiled model was compiled for, as its files say it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lmi.api import ModelArtifacts, dtype_name

SPLIT_WEIGHTS = "pytorch_model.bin"
"""A folder of this name, not a file, holds split weights."""

GRAPH_SUFFIX = ".neff"
OPTIMUM_CONFIG = "neuron_config.json"
CACHE_FOLDER = re.compile(r"neuronxcc-(?P<version>\d[\w.+-]*)")
"""The folder that a compiler of this version keeps its graphs in, in a cache."""


@dataclass(frozen=True, kw_only=True)
class CompiledModel:
    """A graph and what it was compiled for; 0 and "" mean that nothing says.

    Args:
        source: the file that says it, relative to the model's folder.
        is_optimum: optimum-neuron of today wrote it: ``neuron_config.json`` beside ``model.pt``. Otherwise it is a
            section ``neuron`` in ``config.json``, with ``checkpoint/`` and ``compiled/``.
        n_cores: that the model is split over.
        sequence_length: longest prompt plus output.
        batch_size: sequences.
        is_continuous: whether sequences may come and go; None where nothing says.
        dtype: LMI's name of the number type.
        target: generation of devices, ``trn1``.
        library_version: of optimum-neuron.
        checkpoint_id: model on the hub whose weights go with the graph.
        keys: name here -> name there.
    """

    source: str
    is_optimum: bool
    n_cores: int = 0
    sequence_length: int = 0
    batch_size: int = 0
    is_continuous: bool | None = None
    dtype: str = ""
    target: str = ""
    library_version: str = ""
    checkpoint_id: str = ""
    keys: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """A version of the compiler, and the file or folder that tells it, relative to the model's folder."""

    version: str
    place: str


def read_compiled(artifacts: ModelArtifacts) -> CompiledModel | None:
    """What the model was compiled for; None where it is not compiled, or does not say."""
    source = joined(artifacts.inner, OPTIMUM_CONFIG)
    optimum = artifacts.document(source)
    section = artifacts.config.get("neuron")
    if optimum:
        return _read(optimum, source, is_optimum=True)
    if isinstance(section, dict) and section:
        return _read(section, joined(artifacts.inner, "config.json"), is_optimum=False)
    return None


def compilers_of(artifacts: ModelArtifacts, folders: tuple[str, ...] = ("",)) -> list[Compiler]:
    """Every version of the compiler that the model's files tell.

    Args:
        artifacts: the model.
        folders: of the graphs, relative to the model's folder; caches outside them say nothing about these.
    """
    found = []
    optimum = joined(artifacts.inner, OPTIMUM_CONFIG)
    section = artifacts.config.get("neuron")
    for content, key, place in (
        (artifacts.document(optimum), "neuronxcc_version", optimum),
        (section if isinstance(section, dict) else {}, "compiler_version", joined(artifacts.inner, "config.json")),
    ):
        if _text(content, key):
            found.append(Compiler(version=_text(content, key), place=place))
    for name, content in artifacts.documents.items():
        if name.rpartition("/")[2] == "VERSION" and isinstance(content, str) and _is_below(name, folders):
            words = [word for word in content.split() if word[:1].isdecimal()]
            found += [Compiler(version=words[0], place=name)] if words else []
    return found + list(_caches(artifacts, folders))


def compiler_of_name(folder: str) -> list[Compiler]:
    """What the name of a folder tells, or of a prefix: a cache with graphs of one version may be that version's own."""
    name = folder.rstrip("/").rpartition("/")[2]
    match = CACHE_FOLDER.fullmatch(name)
    return [Compiler(version=match["version"], place=name)] if match else []


def has_graph(artifacts: ModelArtifacts, folder: str) -> bool:
    """Whether a folder of the model holds compiled graphs, as files or as a compiler's cache."""
    names = [name for name in artifacts.files if _is_below(name, (folder,))]
    return any(name.endswith(GRAPH_SUFFIX) for name in names) or any(_caches(artifacts, (folder,)))


def is_same_compiler(graph: str, there: str) -> bool:
    """Whether two versions are one, as far as both are told: ``2.12`` is 2.12.54.0, and so is 2.12.54.0+f631c2365."""
    (left, left_build), (right, right_build) = (each.partition("+")[::2] for each in (graph, there))
    parts = list(zip(left.split("."), right.split("."), strict=False))
    if any(a != b for a, b in parts):
        return False
    return not left_build or not right_build or left_build == right_build


def joined(folder: str, name: str) -> str:
    """A name inside a folder, relative to what the folder is relative to."""
    return f"{folder}/{name}" if folder else name


def _read(content: Mapping[str, Any], source: str, *, is_optimum: bool) -> CompiledModel:
    keys = {
        "n_cores": _first(content, "tp_degree", "num_cores"),
        "sequence_length": _first(content, "sequence_length", "n_positions"),
        "batch_size": _first(content, "max_batch_size", "batch_size"),
        "dtype": _first(content, "torch_dtype", "auto_cast_type", "amp"),
    }
    continuous = content.get("continuous_batching")
    return CompiledModel(
        source=source,
        is_optimum=is_optimum,
        n_cores=_number(content.get(keys["n_cores"])),
        sequence_length=_number(content.get(keys["sequence_length"])),
        batch_size=_number(content.get(keys["batch_size"])),
        is_continuous=continuous if isinstance(continuous, bool) else None,
        dtype=_known_dtype(content.get(keys["dtype"])),
        target=_text(content, "target").lower(),
        library_version=_text(content, "optimum_neuron_version"),
        checkpoint_id=_text(content, "checkpoint_id"),
        keys=keys,
    )


def _first(content: Mapping[str, Any], *names: str) -> str:
    return next((name for name in names if content.get(name) is not None), names[-1])


def _known_dtype(value: Any) -> str:
    name = dtype_name(value)
    return name if name in ("fp32", "fp16", "bf16") else ""


def _caches(artifacts: ModelArtifacts, folders: tuple[str, ...]) -> Iterator[Compiler]:
    seen = set()
    for name in artifacts.files:
        parts = name.split("/")[:-1]
        for i, part in enumerate(parts):
            match = CACHE_FOLDER.fullmatch(part)
            place = "/".join(parts[: i + 1])
            if match is not None and place not in seen and _is_below(name, folders):
                seen.add(place)
                yield Compiler(version=match["version"], place=place)


def _is_below(name: str, folders: tuple[str, ...]) -> bool:
    return any(not folder or name.startswith(f"{folder}/") for folder in folders)


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
