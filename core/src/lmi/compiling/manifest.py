# SPDX-License-Identifier: Apache-2.0
"""The manifest of a build: what it was made of, for what, and what its files are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import lmi
from lmi.api import MANIFEST
from lmi.config.properties import FILE_NAME
from lmi.config.settings import Settings

if TYPE_CHECKING:
    from lmi.loading import LoadPlan

SCHEMA = "lmi.manifest/1"

_CHUNK_BYTES = 1 << 22


class BuiltFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a build."""

    n_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a build was made of.

    Args:
        schema: of this document.
        key: the same for two builds with the same backend, versions, options, machine and model files.
        backend: name.
        versions: distribution -> version, of lmi-core and the engine's libraries.
        accelerator: kind of the devices it was built on.
        device_name: what one of them is sold as; empty where unknown.
        compute_capability: of one of them, where they are CUDA's.
        tensor_parallel_degree: devices that a copy is split over.
        options: of the backend, as they held.
        model: where the model came from.
        serve_with: options that the build is served with, by canonical key.
        files: name relative to the folder -> what it is.
        build_s: how long it took.
    """

    schema: str = SCHEMA
    key: str
    backend: str
    versions: dict[str, str]
    accelerator: str
    device_name: str = ""
    compute_capability: str = ""
    tensor_parallel_degree: int
    options: dict[str, str]
    model: str
    serve_with: dict[str, str] = {}
    files: dict[str, BuiltFile] = {}
    build_s: float = 0.0


def manifest_of(made: LoadPlan, versions: Mapping[str, str], *, copies_documents: bool) -> Manifest:
    """What a build of a plan is made of; its files are not there yet.

    Args:
        made: the plan.
        versions: of the engine's libraries, where it is built.
        copies_documents: whether the build has the model's documents.
    """
    config = made.config
    given = {name: getattr(config, name) for name in sorted(type(config).model_fields)}
    options = {name: str(value) for name, value in given.items() if value is not None}
    sources = sorted((name, *_state(made, name, size)) for name, size in made.artifacts.files.items())
    manifest = Manifest(
        key="",
        backend=made.info.name,
        versions={"lmi-core": lmi.__version__, **dict(sorted(versions.items()))},
        accelerator=made.target.accelerator.value,
        device_name=made.target.device_name,
        compute_capability=made.target.compute_capability,
        tensor_parallel_degree=config.tensor_parallel_degree,
        options=options,
        model=made.artifacts.folder,
    )
    made_of = [msgspec.to_builtins(manifest), sources, copies_documents]
    key = hashlib.sha256(msgspec.json.encode(made_of)).hexdigest()
    return msgspec.structs.replace(manifest, key=key)


def _state(made: LoadPlan, name: str, size: int) -> tuple[int, int]:
    """Size and, of a file that is here, time of the last change."""
    path = Path(made.artifacts.folder) / name
    return size, path.stat().st_mtime_ns if path.is_file() else 0


def finished(manifest: Manifest, folder: Path, serve_with: Mapping[str, str], build_s: float) -> Manifest:
    """The manifest of a build that is there.

    Args:
        manifest: of ``manifest_of``.
        folder: of the build.
        serve_with: options that it is served with.
        build_s: how long it took.
    """
    files = {
        path.relative_to(folder).as_posix(): BuiltFile(n_bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in built_files(folder)
    }
    return msgspec.structs.replace(manifest, files=files, serve_with=dict(serve_with), build_s=round(build_s, 1))


def built_files(folder: Path) -> Iterator[Path]:
    """Every file of a build but its manifest, and the options that may be changed later."""
    left_out = (MANIFEST, FILE_NAME)
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in left_out)


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Put it into the build's folder."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (folder / MANIFEST).write_bytes(encoded + b"\n")


def read_manifest(content: bytes) -> Manifest | None:
    """A manifest; None where it is none, or one of another form."""
    try:
        found = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError:
        return None
    return found if found.schema == SCHEMA else None


def deployed(settings: Settings, manifest: Manifest, left_out: frozenset[str]) -> dict[str, str]:
    """The options that a build is served with, by canonical key.

    Args:
        settings: what the user set for the build.
        manifest: of it.
        left_out: keys that are of the build alone.
    """
    given = {key: each.value for key, each in settings.items() if key.startswith("option.") and key not in left_out}
    return {
        **given,
        "option.rolling_batch": manifest.backend,
        "option.tensor_parallel_degree": str(manifest.tensor_parallel_degree),
    }
