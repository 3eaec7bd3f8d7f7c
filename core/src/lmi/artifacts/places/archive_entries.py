# SPDX-License-Identifier: Apache-2.0
"""What is in an archive, one entry after the other, as it stands there; nothing is written and no name is trusted."""

from __future__ import annotations

import gzip
import importlib
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any

from lmi.api import ArtifactError

_CHUNK_BYTES = 1 << 20
_MAX_READ_BYTES = 4 << 20
"""The most that is read at once; what asks for more is a header that would fill the memory."""

_MAX_TARGET_BYTES = 4096
_BLOCK_BYTES = 512

_ZIP = b"PK"
_GZIP = b"\x1f\x8b"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR"}
"""How files begin that are packed in a way that is not read."""


class Kind(Enum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "symbolic link"
    SAME = "hard link"
    OTHER = "device, pipe or socket"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry.

    Args:
        name: as the archive has it.
        kind: what it is.
        n_bytes: of a file, as the archive says.
        target: of a link, as the archive has it.
        is_executable: whether its owner may run it.
        chunks: of a file, its content; to be read before the next entry is taken.
    """

    name: str
    kind: Kind
    n_bytes: int = 0
    target: str = ""
    is_executable: bool = False
    chunks: Callable[[], Iterator[bytes]] = lambda: iter(())


class TooMuchError(Exception):
    """Unpacked, the archive has more bytes than are allowed."""


def entries_of(archive: Path, max_bytes: int, told: Callable[[float], None]) -> Iterator[Entry]:
    """The entries in the archive's order.

    Args:
        archive: a tar, plain or compressed, or a zip; its content tells which, not its name.
        max_bytes: the most that may come out of it.
        told: of the share that was read.
    Raises:
        ArtifactError: it is damaged, encrypted, or none.
        TooMuchError: there is more in it than ``max_bytes``.
    """
    with archive.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        if start.startswith(_ZIP):
            yield from _zip_entries(archive, file, max_bytes, told)
            return
        is_compressed, stream = _unpacked(archive, file, start)
        yield from _tar_entries(archive, file, _Forward(stream, max_bytes), told, is_compressed=is_compressed)


def corrupt(archive: Path | str, error: object) -> ArtifactError:
    """The error of an archive that cannot be read to its end."""
    reason = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    message = " ".join(f"{archive} cannot be unpacked: {reason}".split())
    return ArtifactError("archive.corrupt", message, [], "Copy or pack it again; it may have been cut off")


class _Forward:
    """A stream that is read once, from front to back, never more than a little at a time nor than a limit in all."""

    def __init__(self, stream: Any, max_bytes: int) -> None:
        self._stream, self._left_bytes, self._at = stream, max_bytes, 0
        self.last = b""

    def tell(self) -> int:
        return self._at

    def read(self, n_bytes: int = -1) -> bytes:
        if not 0 <= n_bytes <= _MAX_READ_BYTES:
            raise tarfile.ReadError(f"a header of {n_bytes} bytes")
        self.last = bytes(self._stream.read(n_bytes))
        self._at += len(self.last)
        self._left_bytes -= len(self.last)
        if self._left_bytes < 0:
            raise TooMuchError
        return self.last

    def seek(self, at: int, whence: int = 0) -> int:
        if whence or at < self._at:
            raise tarfile.ReadError("an entry begins before the end of the one in front of it")
        while self._at < at and self.read(min(_CHUNK_BYTES, at - self._at)):
            pass
        return self._at


def _unpacked(archive: Path, file: IO[bytes], start: bytes) -> tuple[bool, Any]:
    """Whether a file is compressed, and a stream of what is in it."""
    if start.startswith(_GZIP):
        return True, gzip.GzipFile(fileobj=file)
    if start.startswith(_ZSTANDARD):
        return True, _zstandard(archive).ZstdFile(file)
    other = next((name for mark, name in _OTHERS.items() if start.startswith(mark)), "")
    if other:
        raise _unsupported(f"{archive} is packed with {other}, which is not read", "Pack it with gzip: tar -czf")
    return False, file


def _tar_entries(
    archive: Path, file: IO[bytes], stream: _Forward, told: Callable[[float], None], *, is_compressed: bool
) -> Iterator[Entry]:
    n_archive_bytes, n_entries = max(archive.stat().st_size, 1), 0
    try:
        # A stream with these three methods is all it takes to read without going back.
        tar = tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115 - nothing to close
        while (member := tar.next()) is not None:
            if member.size < 0:
                raise tarfile.ReadError(f"an entry of {member.size} bytes")
            n_entries += 1
            yield _of_member(archive, tar, member)
            told(file.tell() / n_archive_bytes)
            tar.members = []  # which would grow with the archive
        _check_end(stream, is_compressed=is_compressed)
    except (ArtifactError, TooMuchError, GeneratorExit):
        raise
    except Exception as error:  # whatever the reader stumbles over in bytes that anyone may have written
        if not n_entries and not is_compressed:
            raise corrupt(archive, f"it is no {_kind_named(archive)} archive, whatever its name says") from error
        raise corrupt(archive, error) from error


def _kind_named(archive: Path) -> str:
    """What the name of an archive says that it is."""
    kinds = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstandard", ".zip": "zip"}
    return kinds.get(archive.suffix.lower(), "tar")


def _check_end(stream: _Forward, *, is_compressed: bool) -> None:
    """Refuse what the reader takes for an end: a header that is cut off or broken. Then check what is left."""
    is_marked = stream.last.count(0) == _BLOCK_BYTES == len(stream.last)
    # The end of compressed data is marked once more by the compression itself.
    if not is_marked and not (is_compressed and not stream.last):
        raise tarfile.ReadError(f"it ends, or has a broken header, at byte {stream.tell()} of its unpacked content")
    while stream.read(_CHUNK_BYTES):
        pass


def _of_member(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kinds = {
        Kind.FILE: member.isreg(), Kind.FOLDER: member.isdir(), Kind.LINK: member.issym(), Kind.SAME: member.islnk(),
    }  # fmt: skip
    return Entry(
        name=member.name,
        kind=next((kind for kind, is_it in kinds.items() if is_it), Kind.OTHER),
        n_bytes=member.size if member.isreg() else 0,
        target=member.linkname,
        is_executable=bool(member.mode & stat.S_IXUSR),
        chunks=lambda: _chunks(archive, lambda: tar.extractfile(member)),
    )


def _zip_entries(archive: Path, file: IO[bytes], max_bytes: int, told: Callable[[float], None]) -> Iterator[Entry]:
    try:
        content = zipfile.ZipFile(file)
    except Exception as error:
        raise corrupt(archive, error) from error
    with content:
        infos = content.infolist()
        n_all_bytes = sum(info.file_size for info in infos)
        if n_all_bytes > max_bytes:
            raise TooMuchError
        n_bytes = 0
        for info in infos:
            yield _of_info(archive, content, info)
            n_bytes += info.file_size
            told(n_bytes / max(n_all_bytes, 1))


def _of_info(archive: Path, content: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    if info.flag_bits & 1:
        message = f"{archive} is encrypted: {info.orig_filename!r}"
        raise ArtifactError("archive.encrypted", message, [], "Pack it again without a password")
    # The upper half are the permissions of Unix, whatever wrote the archive; 0 where there are none.
    mode = info.external_attr >> 16
    kind = {0: Kind.FILE, stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK, stat.S_IFDIR: Kind.FOLDER}.get(
        stat.S_IFMT(mode), Kind.OTHER
    )
    if info.filename.endswith("/") and kind is Kind.FILE:
        kind = Kind.FOLDER
    target = ""
    if kind is Kind.LINK:
        if info.file_size > _MAX_TARGET_BYTES:
            raise corrupt(archive, f"the link {info.orig_filename!r} has a target of {info.file_size} bytes")
        target = b"".join(_chunks(archive, lambda: content.open(info))).decode("utf-8", "surrogateescape")
    return Entry(
        name=info.orig_filename,
        kind=kind,
        n_bytes=info.file_size if kind is Kind.FILE else 0,
        target=target,
        is_executable=bool(mode & stat.S_IXUSR),
        chunks=lambda: _chunks(archive, lambda: content.open(info)),
    )


def _chunks(archive: Path, opened: Callable[[], IO[bytes] | None]) -> Iterator[bytes]:
    try:
        with opened() or _nothing() as content:
            while chunk := content.read(_CHUNK_BYTES):
                yield chunk
    except (ArtifactError, TooMuchError, GeneratorExit):
        raise
    except Exception as error:
        raise corrupt(archive, error) from error


def _nothing() -> IO[bytes]:
    raise tarfile.ReadError("an entry without content")


def _zstandard(archive: Path) -> Any:
    """The standard library's module, which is there since Python 3.14."""
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        message = f"{archive} is packed with zstandard, which only Python 3.14 and later can read"
        hint = "Unpack it with tar --zstd -xf and name the folder, or pack it with gzip"
        raise _unsupported(message, hint) from None


def _unsupported(message: str, hint: str) -> ArtifactError:
    return ArtifactError("archive.unsupported", message, [], hint)
