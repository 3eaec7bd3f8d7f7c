# SPDX-License-Identifier: Apache-2.0
"""Where options say that a compiled graph is: a folder of the model, another folder, or an object prefix."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from lmi.api import ModelArtifacts, Problem
from lmi_neuronx.compiled import GRAPH_SUFFIX, has_graph, joined
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.rules import GRAPH_PATHS, missing_graph_hint

_NO_GRAPH = f"holds no compiled graph: neither {GRAPH_SUFFIX} files nor a compiler's cache (neuronxcc-*)"


def check_graph_paths(artifacts: ModelArtifacts, config: NeuronxConfig) -> Iterator[Problem]:
    """What is wrong with paths inside the model's folder and with prefixes; ``rules.py`` looks at other folders."""
    for name in GRAPH_PATHS:
        path = getattr(config, name)
        folder = folder_inside(artifacts, path)
        elsewhere = artifacts.further.get(name)
        if elsewhere is not None and not has_graph(elsewhere, ""):
            yield Problem(
                code="config.compiled-graph",
                message=f"{name}={path} {_NO_GRAPH}",
                hint=missing_graph_hint(),
                path=elsewhere.folder,
                fields=(name,),
            )
        if not path or folder is None:
            continue
        if folder in artifacts.files:
            complaint = "is a file" + (" of it" if folder.endswith(GRAPH_SUFFIX) else "")
            hint = f"Name the folder that holds the {GRAPH_SUFFIX} files"
        elif folder and (folder.startswith("..") or not artifacts.has_folder(folder)):
            complaint, hint = "is no folder inside the model's, and no s3:// prefix", missing_graph_hint()
        elif not has_graph(artifacts, folder):
            complaint, hint = _NO_GRAPH, missing_graph_hint()
        else:
            continue
        yield Problem(
            code="config.compiled-graph",
            message=f"{name}={path} {complaint}",
            hint=hint,
            path=joined(artifacts.folder, folder),
            fields=(name,),
        )


def folder_inside(artifacts: ModelArtifacts, path: str | None) -> str | None:
    """A path as a name relative to the model's folder; None where it is none, or leads elsewhere.

    A relative path starts at the model's folder, so one that leads out of it begins with ``..``.
    """
    if not path or "://" in path:
        return None
    if posixpath.isabs(path):
        start = artifacts.folder.rstrip("/") + "/"
        if not artifacts.folder or not path.startswith(start):
            return None
        path = path[len(start) :]
    found = posixpath.normpath(path)
    return "" if found == "." else found
