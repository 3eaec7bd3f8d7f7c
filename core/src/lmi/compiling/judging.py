# SPDX-License-Identifier: Apache-2.0
"""A build's manifest against its files and what it shall be served with."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

import msgspec

from lmi.api import MANIFEST, BackendConfig, BackendInfo, ModelArtifacts, Problem, Severity
from lmi.compiling.manifest import Manifest, read_manifest

_AGAIN = "Build it again with lmi compile"


def build_problems(
    artifacts: ModelArtifacts, info: BackendInfo, config: BackendConfig, *, is_seen: bool
) -> list[Problem]:
    """What is wrong with a model that was built ahead of time; nothing for any other.

    Args:
        artifacts: the model.
        info: the backend that shall serve it.
        config: its options.
        is_seen: whether the engine is looked for under this Python.
    """
    document = artifacts.documents.get(MANIFEST)
    manifest = read_manifest(msgspec.json.encode(document)) if document is not None else None
    if manifest is None:
        return []
    problems = [*_of_files(manifest, artifacts), *_of_use(manifest, info, config)]
    if is_seen and manifest.backend == info.name:
        problems += _of_versions(manifest)
    return [msgspec.structs.replace(each, path=f"{artifacts.folder}/{MANIFEST}") for each in problems]


def _of_files(manifest: Manifest, artifacts: ModelArtifacts) -> Iterator[Problem]:
    wrong = [name for name, built in manifest.files.items() if artifacts.files.get(name) != built.n_bytes]
    if wrong:
        found, n_bytes = artifacts.files.get(wrong[0]), manifest.files[wrong[0]].n_bytes
        state = "is not there" if found is None else f"has {found} bytes"
        more = f", and {len(wrong) - 1} more are wrong" if len(wrong) > 1 else ""
        message = f"the build had {wrong[0]} with {n_bytes} bytes, and it {state}{more}"
        yield Problem(code="compile.damaged", message=message, hint="Copy it again, or build it again with lmi compile")


def _of_use(manifest: Manifest, info: BackendInfo, config: BackendConfig) -> Iterator[Problem]:
    if manifest.backend != info.name:
        yield Problem(
            code="compile.other-backend",
            message=f"it was built for {manifest.backend}, and {info.name} is to serve it",
            hint=f"Set option.rolling_batch={manifest.backend}",
            severity=Severity.WARNING,
        )
    elif manifest.tensor_parallel_degree != config.tensor_parallel_degree:
        built_for, asked = manifest.tensor_parallel_degree, config.tensor_parallel_degree
        yield Problem(
            code="compile.other-degree",
            message=f"it was built with tensor_parallel_degree={built_for}, and is to be served with {asked}",
            hint=f"Set option.tensor_parallel_degree={built_for}, or build it for {asked}",
            fields=("tensor_parallel_degree",),
        )


def _of_versions(manifest: Manifest) -> Iterator[Problem]:
    for name, built_with in manifest.versions.items():
        try:
            here = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if here != built_with and name != "lmi-core":
            yield Problem(
                code="compile.other-version",
                message=f"it was built with {name} {built_with}, and {here} is here",
                hint=f"{_AGAIN} if it does not load, or install {name}=={built_with}",
                severity=Severity.WARNING,
            )
