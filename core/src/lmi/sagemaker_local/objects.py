# SPDX-License-Identifier: Apache-2.0
"""Objects in S3, or in a folder that stands for it; and archives of models in either."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore

from lmi.artifacts.places.objects import is_object_url, object_size, prefix_of
from lmi.artifacts.places.stores import Absent, Store, asked, location_of
from lmi.artifacts.places.unpacking import extract

_TIMEOUT_S = 60.0
_ARCHIVE = "model.tar.gz"


class Objects:
    """Where inputs and outputs of asynchronous requests are.

    Args:
        folder: stands for S3: ``s3://BUCKET/KEY`` is BUCKET/KEY in it, and so are ``file:`` URLs of what is below it;
            None for S3 itself.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder.resolve() if folder is not None else None

    def size(self, url: str) -> int:
        """Bytes of an object.

        Raises:
            FileNotFoundError: there is none.
            ArtifactError: the store cannot be reached, or does not let us in.
        """
        if self._folder is not None:
            path = self._path(url)
            if not path.is_file():
                raise FileNotFoundError(f"there is no object {url}: no file {path}")
            return path.stat().st_size
        found = object_size(url, timeout_s=_TIMEOUT_S) if is_object_url(url) else None
        if found is None:
            raise FileNotFoundError(f"there is no object {url}")
        return found

    def read(self, url: str) -> bytes:
        """An object. Raises as ``size`` does."""
        if self._folder is not None:
            return self._path(url).read_bytes()
        location = location_of(url)
        store = Store(location, timeout_s=_TIMEOUT_S)
        try:
            return bytes(asked(store, url, lambda: obstore.get(store.opened(), location.key).bytes()))
        except Absent as error:
            raise FileNotFoundError(f"there is no object {url}") from error

    def write(self, url: str, content: bytes, media_type: str) -> None:
        """Make an object.

        Raises:
            FileNotFoundError: there is no such bucket.
            ArtifactError: the store cannot be reached, or does not let us in.
        """
        if self._folder is not None:
            path = self._path(url)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{uuid4().hex}")  # who waits for the file finds it whole
            partial.write_bytes(content)
            partial.replace(path)
            return
        location = location_of(url)
        store = Store(location, timeout_s=_TIMEOUT_S)
        attributes: Any = {"Content-Type": media_type} if media_type else {}
        try:
            asked(store, url, lambda: obstore.put(store.opened(), location.key, content, attributes=attributes))
        except Absent as error:
            raise FileNotFoundError(f"there is no bucket for {url}") from error

    def _path(self, url: str) -> Path:
        assert self._folder is not None  # noqa: S101
        parts = urlsplit(url)
        named = Path(unquote(parts.path)) if parts.scheme == "file" else self._folder / parts.netloc / parts.path[1:]
        path = named.resolve()
        if not path.is_relative_to(self._folder) or path == self._folder:
            raise FileNotFoundError(f"{url} is not below {self._folder}")
        return path


def fetch_archive(source: str, name: str, folder: Path) -> None:
    """Unpack an archive of a model.

    Args:
        source: folder or ``s3://`` prefix in which it is.
        name: of the archive, below the source.
        folder: that gets its content; it does not exist.
    Raises:
        FileNotFoundError: there is no such archive.
        ArtifactError: it cannot be had, or unpacked.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if is_object_url(source):
        with tempfile.TemporaryDirectory(prefix="lmi-sagemaker-") as temporary:
            archive = Path(temporary) / _ARCHIVE
            _download(prefix_of(source) + name, archive)
            extract(archive, folder)
        return
    archive = Path(source) / name
    if not archive.is_file():
        raise FileNotFoundError(f"there is no file {archive}")
    extract(archive, folder)


def _download(url: str, path: Path) -> None:
    location = location_of(url)
    store = Store(location, timeout_s=_TIMEOUT_S)
    try:
        stream = asked(store, url, lambda: obstore.get(store.opened(), location.key).stream())
    except Absent as error:
        raise FileNotFoundError(f"there is no object {url}") from error
    with path.open("wb") as file:
        try:
            for chunk in stream:
                file.write(chunk)
        except Exception as error:  # obstore's own
            raise store.explained(error, url) from error
