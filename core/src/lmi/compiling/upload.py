# SPDX-License-Identifier: Apache-2.0
"""A build's way to an object store: what is there already stays, the manifest comes last."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import obstore

from lmi.api import MANIFEST, ArtifactError, Progress
from lmi.artifacts.places.objects import read_object
from lmi.artifacts.places.stores import Absent, Location, Store, asked, location_of
from lmi.compiling.manifest import Manifest, read_manifest
from lmi.config.properties import FILE_NAME

_TIMEOUT_S = 60.0
_DIGEST = "lmi-sha256"
"""Name of the attribute that says what an object's bytes are."""


def remote_manifest(url: str) -> Manifest | None:
    """The manifest of a build in an object store; None where there is none.

    Args:
        url: of its prefix.
    Raises:
        ArtifactError: the store cannot be reached, or does not let us in.
    """
    content = read_object(url, MANIFEST, timeout_s=_TIMEOUT_S)
    return None if content is None else read_manifest(content)


def upload(folder: Path, manifest: Manifest, url: str, progress: Progress) -> int:
    """Bring a build to an object store. After one that broke off only what is not there is sent.

    Args:
        folder: of the build.
        manifest: of it.
        url: the prefix that it shall have.
        progress: told how far it is.
    Returns:
        Bytes that were sent.
    Raises:
        ArtifactError: the store cannot be reached, or does not let us in.
    """
    prefix = location_of(url)
    store = Store(prefix, timeout_s=_TIMEOUT_S)
    whole = sum(each.n_bytes for each in manifest.files.values()) or 1
    n_done = n_sent = 0
    for name, built in manifest.files.items():
        progress("upload", n_done / whole)
        at = _at(prefix, name)
        if _digest(store, at) != built.sha256:
            _put(store, at, folder / name, built.sha256)
            n_sent += built.n_bytes
        n_done += built.n_bytes
    progress("upload", 1.0)
    for name in (FILE_NAME, MANIFEST):
        _put(store, _at(prefix, name), folder / name, "")
    return n_sent


def _at(prefix: Location, name: str) -> Location:
    return Location(prefix.root, f"{prefix.key}/{name}" if prefix.key else name)


def _digest(store: Store, at: Location) -> str:
    """What is known of an object's bytes; empty where there is none, or it is not ours."""
    with contextlib.suppress(Absent):
        found = asked(store, at.url, lambda: obstore.get(store.opened(), at.key, options={"head": True}))
        return str(found.attributes.get(_DIGEST, ""))
    return ""


def _put(store: Store, at: Location, path: Path, digest: str) -> None:
    attributes: dict[str, str] = {_DIGEST: digest} if digest else {}

    def put() -> Any:
        with path.open("rb") as file:
            return obstore.put(store.opened(), at.key, file, attributes=attributes)

    try:
        asked(store, at.url, put)
    except Absent as error:
        raise ArtifactError("compile.no-bucket", f"there is no bucket for {at.url}", (), "Create it first") from error
