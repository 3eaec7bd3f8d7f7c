# SPDX-License-Identifier: Apache-2.0
"""Unpacking without trust: every entry is written below one folder, or nothing is kept.

Names that lead elsewhere, links that lead out, devices, names that are one on some file systems, and archives that
grow beyond measure are refused. One set of rules for tar and zip, and links are made last, so that nothing is written
through one; that is more than the filters of ``tarfile`` give, which older releases of Python lack besides.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from lmi.api import ArtifactError, Progress
from lmi.artifacts.places.archive_entries import Entry, Kind, TooMuchError, corrupt, entries_of
from lmi.artifacts.places.names import escape_in, safe_name

_STAGE = "unpack"
_PARTIAL = ".partial"
_UNPACK_IT = "Unpack it yourself and name the folder"
_LONGEST_NAME, _DEEPEST = 1024, 64
"""Characters of a name and folders in it; each folder of each name is kept, so longer ones would fill the memory."""

_N_TOLD_CHARACTERS = 120


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may come out of an archive; the free disk is a further limit.

    Args:
        n_entries: most entries.
        ratio: bytes unpacked for a byte of the archive.
        any_bytes: unpacked bytes that are fine at any ratio.
    """

    n_entries: int = 100_000
    ratio: int = 200
    any_bytes: int = 1 << 30

    def most_bytes(self, n_archive_bytes: int) -> int:
        """The most that an archive of this size may come to."""
        return max(self.any_bytes, self.ratio * n_archive_bytes)


_LIMITS = Limits()


def extract(archive: Path, to: Path, progress: Progress | None = None, limits: Limits = _LIMITS) -> None:
    """Unpack an archive into a new folder; nothing is left if that fails.

    Args:
        archive: a tar, plain or compressed, or a zip.
        to: the folder; it does not exist, the one it is in does.
        progress: told how far it is.
        limits: how much may come out.
    Raises:
        ArtifactError: the archive is damaged, unsafe or too large, or the disk is full.
        OSError: the archive cannot be opened, or the folder cannot be written.
    """
    partial = to.with_name(to.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        _fill(archive, partial, progress, limits)
        partial.replace(to)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _fill(archive: Path, folder: Path, progress: Progress | None, limits: Limits) -> None:
    n_archive_bytes = archive.stat().st_size
    most_bytes, free_bytes = limits.most_bytes(n_archive_bytes), shutil.disk_usage(folder).free
    tree = _Tree(archive, folder, min(most_bytes, free_bytes))

    def told(fraction: float) -> None:
        if progress is not None:
            progress(_STAGE, min(fraction, 1.0))

    try:
        for n_entries, entry in enumerate(entries_of(archive, most_bytes, told), 1):
            if n_entries > limits.n_entries:
                message = f"{archive} has more than {limits.n_entries} entries; nothing was unpacked"
                raise _failed("archive.too-large", message, _UNPACK_IT)
            tree.add(entry)
        tree.make_links()
    except TooMuchError as error:
        if free_bytes < most_bytes:
            raise _disk_full(archive, folder, free_bytes) from error
        message = f"{archive} has {n_archive_bytes} bytes and comes to more than {most_bytes}; nothing was unpacked"
        raise _failed("archive.too-large", message, _UNPACK_IT) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(archive, folder, free_bytes) from error
        raise


@dataclass
class _Tree:
    """What was unpacked so far.

    Args:
        archive: for messages.
        folder: where everything goes.
        left_bytes: that may still be written.
        kinds: what each name is; folders that are only parts of names are among them.
        spellings: each name as a file system has it that knows no case -> the name.
        links: symbolic links that are still to be made -> where they lead.
    """

    archive: Path
    folder: Path
    left_bytes: int
    kinds: dict[str, Kind] = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Write an entry; a symbolic link is kept for the end."""
        if entry.kind is Kind.FOLDER and entry.name in (".", "./"):
            return
        wrong = _excess(entry.name) or escape_in(entry.name)
        if wrong:
            raise self._unsafe(entry.name, wrong)
        if entry.kind is Kind.OTHER:
            raise self._unsafe(entry.name, "is a device, a pipe or something else that is no file")
        name = safe_name(entry.name)
        self._enter(name, entry.kind)
        if entry.kind is Kind.LINK:
            self.links[name] = self._target(name, entry.target)
            return
        path = self.folder / name
        try:
            (path if entry.kind is Kind.FOLDER else path.parent).mkdir(parents=True, exist_ok=True)
            if entry.kind is Kind.SAME:
                os.link(self.folder / self._twin(name, entry.target), path)
            elif entry.kind is Kind.FILE:
                self._write(path, entry)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                raise
            raise self._unsafe(entry.name, f"cannot be written: {getattr(error, 'strerror', error)}") from error

    def make_links(self) -> None:
        """Make the links, and see that each leads to something inside."""
        for name, target in self.links.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        root = self.folder.resolve()
        for name, target in self.links.items():
            # Only now is it known which folders on its way are links themselves.
            if not Path(os.path.realpath(self.folder / name)).is_relative_to(root):
                raise self._unsafe(name, f"is a link to {target!r}, outside the archive")

    def _enter(self, name: str, kind: Kind) -> None:
        """Keep a name, if it can stand beside those before it on every file system."""
        parts = name.split("/")
        for i in range(1, len(parts) + 1):
            path = "/".join(parts[:i])
            spelling = self.spellings.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
            if spelling != path:
                raise self._unsafe(name, f"differs from {spelling!r} in its spelling alone")
            if i < len(parts) and self.kinds.setdefault(path, Kind.FOLDER) is not Kind.FOLDER:
                raise self._unsafe(name, f"is below {path!r}, which is no folder")
        if name in self.kinds and {self.kinds[name], kind} != {Kind.FOLDER}:
            raise self._unsafe(name, "is there twice")
        self.kinds[name] = kind

    def _target(self, name: str, target: str) -> str:
        end = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        if _excess(target) or escape_in(end):
            raise self._unsafe(name, f"is a link to {_told(target)}, outside the archive")
        return target

    def _twin(self, name: str, target: str) -> str:
        """The file before it that a hard link is one with; links are none, they are not there yet."""
        is_file = not escape_in(target) and self.kinds.get(safe_name(target)) in (Kind.FILE, Kind.SAME)
        if not is_file or safe_name(target) == name:
            raise self._unsafe(name, f"is a hard link to {_told(target)}, which is no file before it")
        return safe_name(target)

    def _write(self, path: Path, entry: Entry) -> None:
        if entry.n_bytes > self.left_bytes:
            raise TooMuchError
        # Neither the owner nor the special bits of the archive count; a program stays one.
        mode = 0o755 if entry.is_executable else 0o644
        n_bytes = 0
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            for chunk in entry.chunks():
                n_bytes += len(chunk)
                self.left_bytes -= len(chunk)
                if self.left_bytes < 0:
                    raise TooMuchError
                file.write(chunk)
        if n_bytes != entry.n_bytes:
            raise corrupt(self.archive, f"{entry.name!r} has {n_bytes} bytes of {entry.n_bytes}")

    def _unsafe(self, name: str, reason: str) -> ArtifactError:
        message = f"{self.archive} has an entry {_told(name)} that {reason}; nothing was unpacked"
        return _failed("archive.unsafe", message, "Pack it again from inside the model's folder: tar -czf FILE *")


def _excess(name: str) -> str:
    """What is too much of a name; "" where nothing is."""
    if len(name) > _LONGEST_NAME:
        return f"has {len(name)} characters in its name, more than {_LONGEST_NAME}"
    n_folders = name.count("/")
    return f"is {n_folders} folders deep, more than {_DEEPEST}" if n_folders > _DEEPEST else ""


def _told(name: str) -> str:
    return repr(name) if len(name) <= _N_TOLD_CHARACTERS else f"{name[:_N_TOLD_CHARACTERS]!r}..."


def _disk_full(archive: Path, folder: Path, free_bytes: int) -> ArtifactError:
    message = f"{archive} does not fit on the disk: {folder.parent} had {free_bytes} bytes free; nothing was unpacked"
    return _failed("model.disk-full", message, "Free some space, or set LMI_CACHE_DIR to a folder on a larger disk")


def _failed(code: str, message: str, hint: str) -> ArtifactError:
    return ArtifactError(code, message, [], hint)
