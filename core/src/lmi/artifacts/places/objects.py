# SPDX-License-Identifier: Apache-2.0
"""Files in an object store. S3 is tested with a server that speaks its protocol; Google Cloud Storage (``gs://``) and
Azure Blob Storage (``az://``, ``abfss://``) go the same way through the same library, untested."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from lmi.api import ArtifactError
from lmi.artifacts.places.files import ModelFiles
from lmi.artifacts.places.object_listing import ObjectVersion, listed, single
from lmi.artifacts.places.store_errors import StoreError, is_final
from lmi.artifacts.places.stores import Absent, Store, asked, head, is_object_url, location_of

_TIMEOUT_S = 10.0

__all__ = ["ObjectFiles", "ObjectVersion", "StoreError", "is_object_url", "object_size", "prefix_of", "read_object"]


def prefix_of(url: str) -> str:
    """The URL with one ``/`` at its end; people write it with and without, and with ``/*``."""
    return url.removesuffix("*").rstrip("/") + "/"


def read_object(prefix: str, name: str, *, timeout_s: float = _TIMEOUT_S) -> bytes | None:
    """A small file below a prefix.

    Args:
        prefix: URL of the prefix.
        name: of the file, relative to it.
        timeout_s: longest time for an answer.
    Returns:
        Its content; None if there is no such file.
    Raises:
        ArtifactError: the store cannot be reached, or does not let us in.
    """
    import obstore

    location = location_of(prefix_of(prefix) + name)
    store = Store(location, timeout_s=timeout_s)
    try:
        got = asked(store, location.url, lambda: obstore.get(store.opened(), location.key).bytes())
        return bytes(got)
    except Absent:
        return None


def object_size(url: str, *, timeout_s: float = _TIMEOUT_S) -> int | None:
    """How large the one object is that an URL names; None where there is none, so that it can only be a prefix.

    Raises:
        ArtifactError: the store cannot be reached, or does not let us in.
    """
    location = location_of(url)
    if not location.key or url.endswith(("/", "*")):
        return None
    store = Store(location, timeout_s=timeout_s)
    try:
        return int(head(store, location)["size"])
    except Absent:
        return None


class ObjectFiles(ModelFiles):
    """What is below a prefix of an object store, or the one object that an URL names.

    Args:
        url: of the prefix, with or without ``/`` or ``/*`` at its end; a bucket alone is a prefix too.
        is_single: the URL names one object, and what it is in is the place; an archive, say.
        timeout_s: longest silence of the store.
    Attributes:
        versions: which content each file had when it was listed; what is read and fetched is that, or an error.
        n_bytes_read: bytes of files that were read.
        n_requests: how often the store was asked.
    Raises:
        ArtifactError: nothing is there, the store cannot be reached or does not let us in.
    """

    def __init__(
        self,
        url: str,
        *,
        is_single: bool = False,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._location = location_of(url)
        self._store = Store(self._location, timeout_s=timeout_s)
        self._count = threading.Lock()
        self.n_bytes_read = 0
        self.place = self._location.url
        if is_single:
            self.place, _, name = self.place.rpartition("/")
            self.versions = {name: single(self._store, self._location)}
        else:
            self.versions = listed(self._store, self._location)
        self.n_requests = 1 + len(self.versions) // 1000
        self.sizes = {name: version.n_bytes for name, version in self.versions.items()}

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        version = self.versions[name]
        end = version.n_bytes if n_bytes is None else min(version.n_bytes, start + n_bytes)
        if start >= end:
            return b""
        import obstore

        options = options_of(version, start, end)
        try:
            content = bytes(obstore.get(self._store.opened(), version.key, options=options).bytes())
        except Exception as error:
            raise StoreError(self.told(error, name), is_final=is_final(error)) from error
        with self._count:
            self.n_requests += 1
            self.n_bytes_read += len(content)
        return content

    def stream(self, name: str, start: int, end: int, chunk_bytes: int) -> Iterator[bytes]:
        """Part of a file as it comes; nothing is repeated.

        Args:
            name: as in ``sizes``.
            start, end: the part.
            chunk_bytes: how much is gathered before it is given; the last piece may be less.
        Raises:
            Exception: whatever obstore raises; ``told`` puts it into words.
        """
        import obstore

        version = self.versions[name]
        got = obstore.get(self._store.opened(0), version.key, options=options_of(version, start, end))
        for chunk in got.stream(min_chunk_size=chunk_bytes):
            yield bytes(chunk)

    def told(self, error: BaseException, name: str) -> ArtifactError:
        """What to tell for an error of obstore about a file."""
        return self._store.explained(error, self.at(name))

    def signed(self, name: str) -> str:
        """An URL that answers HEAD for a file, for a minute."""
        from datetime import timedelta

        import obstore

        return str(obstore.sign(self._store.opened(), "HEAD", self.versions[name].key, timedelta(minutes=1)))


def options_of(version: ObjectVersion, start: int, end: int) -> Any:
    """How to ask for a part of just this content."""
    options: dict[str, Any] = {"range": (start, end)}
    if version.etag:
        options["if_match"] = version.etag
    return options
