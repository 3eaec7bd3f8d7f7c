# SPDX-License-Identifier: Apache-2.0
"""Where fetched models are kept: each content once, each state of a model as a folder of links.

    <root>/models/<place>/place.txt       which place it is
                          blobs/<content> a whole file; ``.part`` and ``.state`` beside it while it is on its way
                          <listing>/      a whole model, the names it has where it came from

A folder of the last kind is put there in one move when everything in it is whole, so it is whole or absent.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lmi.api import ArtifactError

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from lmi.artifacts.places.object_listing import ObjectVersion

_LOG = logging.getLogger(__name__)
_MARKER = ".lmi-complete.json"
_WAIT_S, _POLL_S = 30.0, 0.2
_SPARE_BYTES = 64 << 20


class PlaceCache:
    """What is kept of one place elsewhere.

    Args:
        root: of the cache.
        place: its URL.
    """

    def __init__(self, root: Path, place: str) -> None:
        self.root, self.place = root, place
        self.folder = root / "models" / _digest(place)

    def finished(self, versions: Mapping[str, ObjectVersion]) -> Path | None:
        """The folder with just these files, if it was finished and nobody changed it since."""
        folder = self._model(versions)
        try:
            sizes = json.loads((folder / _MARKER).read_text(encoding="utf-8"))["sizes"]
            is_whole = sizes == {name: version.n_bytes for name, version in versions.items()} and all(
                (folder / name).stat().st_size == n_bytes for name, n_bytes in sizes.items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return folder if is_whole else None

    def blob(self, version: ObjectVersion) -> Path:
        """Where a content is kept."""
        return self.folder / "blobs" / _digest(f"{version.key}\n{version.identity}")

    def is_whole(self, version: ObjectVersion) -> bool:
        """Whether a content is here."""
        try:
            return self.blob(version).stat().st_size == version.n_bytes
        except OSError:
            return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that fetches from this place; waits for another one. The lock ends with its process.

        Raises:
            ArtifactError: the cache cannot be written.
        """
        from filelock import FileLock

        try:
            (self.folder / "blobs").mkdir(parents=True, exist_ok=True)
            (self.folder / "place.txt").write_text(self.place + "\n", encoding="utf-8")
            lock = FileLock(self.folder / ".lock")
            self._wait_for(lock)
        except OSError as error:
            raise self.refused(error) from error
        try:
            yield
        finally:
            lock.release()

    def check_space(self, n_bytes: int) -> None:
        """Refuse what has no room.

        Args:
            n_bytes: still to be written.
        Raises:
            ArtifactError: the disk has less.
        """
        free = shutil.disk_usage(self.folder).free
        if n_bytes and free < n_bytes + _SPARE_BYTES:
            raise self.full(n_bytes)

    def full(self, n_bytes: int) -> ArtifactError:
        """The error of a disk that has no room for so many bytes more."""
        free = shutil.disk_usage(next(path for path in (self.folder, *self.folder.parents) if path.is_dir())).free
        needed = f"{size_text(n_bytes)} more" if n_bytes else "more room"
        message = f"{self.place} needs {needed} in {self.root}, where {size_text(free)} are free"
        hint = f"Set LMI_CACHE_DIR to a folder on a larger disk, or delete what is not needed in {self.root / 'models'}"
        return ArtifactError("model.disk-full", message, [], hint)

    def refused(self, error: OSError, n_bytes: int = 0) -> ArtifactError:
        """The error of a cache that takes nothing more: there is no room, or it cannot be written.

        Args:
            error: what the system says.
            n_bytes: that were still to be written.
        """
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return self.full(n_bytes)
        message = f"{self.place} cannot be kept in {self.root}: {error.strerror or error}"
        hint = "Set LMI_CACHE_DIR to a folder that this user can write"
        return ArtifactError("model.cache-unwritable", message, [], hint)

    def finish(self, versions: Mapping[str, ObjectVersion]) -> Path:
        """The folder with these files, all of which are here.

        Raises:
            OSError: it cannot be made.
        """
        folder = self._model(versions)
        scratch = self.folder / f".{folder.name}"
        for leftover in (scratch, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        are_hard = []
        for name, version in versions.items():
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            are_hard.append(_link(self.blob(version), path))
        sizes = {name: version.n_bytes for name, version in versions.items()}
        marker = {"place": self.place, "sizes": sizes}
        scratch.mkdir(exist_ok=True)
        (scratch / _MARKER).write_text(json.dumps(marker), encoding="utf-8")
        scratch.replace(folder)
        if all(are_hard):  # symbolic links are not counted, so nobody knows what is needed
            self._tidy({self.blob(version) for version in versions.values()})
        return folder

    def _model(self, versions: Mapping[str, ObjectVersion]) -> Path:
        lines = [f"{name}\n{version.identity}" for name, version in sorted(versions.items())]
        return self.folder / _digest("\n".join(lines))

    def _wait_for(self, lock: BaseFileLock) -> None:
        from filelock import Timeout

        timeout_s = 0.0
        while True:
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=timeout_s, poll_interval=_POLL_S)
                return
            timeout_s = _WAIT_S
            _LOG.info("another process fetches %s; waiting for it", self.place)

    def _tidy(self, kept: set[Path]) -> None:
        """Remove what no folder needs: beginnings of contents that are gone by now, and contents without a folder."""
        with contextlib.suppress(OSError):
            for path in (self.folder / "blobs").iterdir():
                if path not in kept and path.stat().st_nlink == 1:
                    path.unlink()


def size_text(n_bytes: int) -> str:
    """``1.5 GiB``, ``12.0 MiB``."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes / (1 << 20):.1f} MiB"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _link(blob: Path, path: Path) -> bool:
    """Give a content a name; whether by a hard link."""
    try:
        path.hardlink_to(blob)
    except OSError:  # a file system without them; copying would need the room twice
        # Seen from where the folder will be, which is as deep as where it is.
        path.symlink_to(os.path.relpath(blob, path.parent))
        return False
    return True
