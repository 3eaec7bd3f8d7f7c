# SPDX-License-Identifier: Apache-2.0
"""Models in an archive: unpacked once into the cache; of a zip, the files can be seen without unpacking it."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from lmi.api import ArtifactError, Progress
from lmi.api.folders import cache_root
from lmi.artifacts.places.archive_entries import corrupt
from lmi.artifacts.places.files import ModelFiles
from lmi.artifacts.places.names import escape_in, safe_name
from lmi.artifacts.places.unpacking import extract

_LOG = logging.getLogger(__name__)

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".tar.zst", ".zip")

_FOLDER = "archives"
_BUFFER_BYTES = 1 << 16


def is_archive(name: str) -> bool:
    """Whether a name, or the path of a URL, is that of an archive."""
    return name.partition("?")[0].lower().endswith(SUFFIXES)


def unpacked_folder(key: str, environ: Mapping[str, str]) -> Path:
    """Where in the cache an archive is unpacked; if it is there, it is whole.

    Args:
        key: what tells its content from that of others.
        environ: says where the cache is.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache_root(environ) / _FOLDER / digest


def extracted(archive: Path, environ: Mapping[str, str], progress: Progress | None = None) -> Path:
    """The folder in the cache with what is in an archive; unpacked when it is first asked for.

    Processes that ask at the same time wait for the first of them.

    Args:
        archive: the file; one of another size or time is another one.
        environ: says where the cache is.
        progress: told how far the unpacking is.
    Raises:
        ArtifactError: it cannot be unpacked, or must not be.
    """
    try:
        stat = archive.stat()
        key = f"{archive.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
        return made_once(unpacked_folder(key, environ), lambda folder: extract(archive, folder, progress))
    except OSError as error:
        raise not_unpacked(str(archive), error) from error


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache; the first process that wants it makes it, the others wait.

    Args:
        folder: it gets its name when it is whole.
        make: makes it.
    """
    from filelock import FileLock, Timeout

    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _LOG.info("another process makes %s; waiting for it", folder)
            lock.acquire()
        try:
            if not folder.is_dir():
                make(folder)
        finally:
            lock.release()
    return folder


def not_unpacked(archive: str, error: OSError) -> ArtifactError:
    """The error where the archive cannot be read, or the cache not written."""
    message = " ".join(f"{archive} could not be unpacked: {error}".split())
    return ArtifactError(
        "archive.not-unpacked", message, [], "Check who owns it, and set LMI_CACHE_DIR to a folder that can be written"
    )


class ZipFiles(ModelFiles):
    """The files in a zip, read where it is: its directory says where each begins.

    Args:
        place: of the archive.
        read_part: part of the archive, by its first byte and how many.
        n_bytes: of the archive.
    Raises:
        ArtifactError: it is no zip, is encrypted, or has a name that leads out of it.
        OSError: it cannot be read.
    """

    def __init__(self, place: str, read_part: Callable[[int, int], bytes], n_bytes: int) -> None:
        self.place = place
        try:
            self._content = zipfile.ZipFile(io.BufferedReader(_Part(read_part, n_bytes), _BUFFER_BYTES))
        except OSError:
            raise
        except Exception as error:  # bytes that anyone may have written
            raise corrupt(place, error) from error
        infos = {info.orig_filename: info for info in self._content.infolist() if not info.filename.endswith("/")}
        for name, info in infos.items():
            escape = escape_in(name)
            if escape:
                message = f"{place} has an entry {name!r} that {escape}"
                raise ArtifactError("archive.unsafe", message, [], "Pack it again from inside the model's folder")
            if info.flag_bits & 1:
                message = f"{place} is encrypted: {name!r}"
                raise ArtifactError("archive.encrypted", message, [], "Pack it again without a password")
        self._infos = {safe_name(name): info for name, info in infos.items()}
        visible = [name for name in sorted(self._infos) if not any(part.startswith(".") for part in name.split("/"))]
        self.sizes = {name: self._infos[name].file_size for name in visible}

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        if name not in self.sizes:
            raise FileNotFoundError(2, "no such file", self.at(name))
        try:
            with self._content.open(self._infos[name]) as file:
                file.seek(start)
                return file.read(-1 if n_bytes is None else n_bytes)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self.at(name)} cannot be read: {error}") from error


class _Part(io.RawIOBase):
    """An archive that is elsewhere as a file."""

    def __init__(self, read_part: Callable[[int, int], bytes], n_bytes: int) -> None:
        self._read_part, self._n_bytes, self._at = read_part, n_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._n_bytes}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n_bytes = min(len(buffer), self._n_bytes - self._at)
        content = self._read_part(self._at, n_bytes) if n_bytes > 0 else b""
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
