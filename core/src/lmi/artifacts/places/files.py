# SPDX-License-Identifier: Apache-2.0
"""The files of a model as names, sizes and bytes, wherever they are.

Detection and checks see a model through this alone, so the same code judges a folder and a place elsewhere, of which
it reads no more than it asks for.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_MAX_DEPTH = 5
"""Folders below each other that are looked into."""

_N_READERS = 16
"""Reads at a time from a place elsewhere."""


class ModelFiles(ABC):
    """What is below one place.

    Attributes:
        place: absolute path of a folder, or a URL without a trailing ``/``.
        sizes: name relative to the place, with ``/`` between folders -> bytes. Files and folders whose name begins with
            a dot are left out.
    """

    place: str
    sizes: Mapping[str, int]

    @abstractmethod
    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        """Part of a file.

        Args:
            name: as in ``sizes``.
            start: offset of the first byte.
            n_bytes: how many; None reads to the end. Fewer come where the file ends.
        Raises:
            OSError: it cannot be read; a model elsewhere that cannot be reached raises it too.
        """

    @property
    def is_here(self) -> bool:
        """Whether ``place`` is a folder of this machine."""
        return "://" not in self.place

    def at(self, name: str) -> str:
        """Where a file is, for messages."""
        return f"{self.place}/{name}" if name else self.place

    def json(self, name: str) -> Any:
        """The content of a json file; None where there is none, or it cannot be read."""
        if name not in self.sizes:
            return None
        try:
            return json.loads(self.read(name).decode("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None

    def read_all(self, parts: Sequence[tuple[str, int, int | None]]) -> list[bytes | OSError]:
        """Several parts of files, read at the same time: each (name, start, n_bytes), as ``read`` has them."""
        if self.is_here or len(parts) < 2:
            return [self._tried(*part) for part in parts]
        with ThreadPoolExecutor(min(_N_READERS, len(parts))) as readers:
            return list(readers.map(lambda part: self._tried(*part), parts))

    def _tried(self, name: str, start: int, n_bytes: int | None) -> bytes | OSError:
        try:
            return self.read(name, start, n_bytes)
        except OSError as error:
            return error


class LocalFiles(ModelFiles):
    """A folder of this machine. Links are followed, as the hub's cache needs it, but not in a circle.

    Args:
        folder: it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.place = str(self.folder)
        self.sizes = dict(_listed(self.folder, "", _MAX_DEPTH))

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(-1 if n_bytes is None else n_bytes)


class Below(ModelFiles):
    """One folder of a place, as a place of its own.

    Args:
        files: the place.
        folder: name of the folder in it.
    """

    def __init__(self, files: ModelFiles, folder: str) -> None:
        self._files, self._start = files, f"{folder}/"
        self.place = files.at(folder)
        n = len(self._start)
        self.sizes = {name[n:]: size for name, size in files.sizes.items() if name.startswith(self._start)}

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        return self._files.read(self._start + name, start, n_bytes)


class Only(ModelFiles):
    """Some files of a place, as if there were no others.

    Args:
        files: the place.
        names: of those files; what is not there is left out.
    """

    def __init__(self, files: ModelFiles, names: Collection[str]) -> None:
        self._files, self.place = files, files.place
        self.sizes = {name: size for name, size in files.sizes.items() if name in names}

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        return self._files.read(name, start, n_bytes)


def _listed(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                if depth:
                    yield from _listed(Path(entry.path), f"{prefix}{entry.name}/", depth - 1)
            else:
                yield prefix + entry.name, entry.stat().st_size
        except OSError:  # a link that leads nowhere
            continue
