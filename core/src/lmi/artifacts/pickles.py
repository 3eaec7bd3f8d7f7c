# SPDX-License-Identifier: Apache-2.0
"""Files that PyTorch writes: whether they are whole, and what their pickles would import. Nothing is unpickled."""

from __future__ import annotations

import io
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from lmi.api.errors import Problem, Severity
from lmi.artifacts.documents import why
from lmi.artifacts.places.files import ModelFiles

MAX_PICKLE_BYTES = 2 << 20
"""Most of one pickle that is looked at. It names tensors and their shapes, so it has some KiB."""

_MAX_FILE_READ_BYTES = 16 << 20
_MAX_N_PICKLES = 8
_MAX_REMOTE_FILES = 40
_BLOCK_BYTES = 32 << 10
_N_READERS = 8
_ZIP_MARK, _PICKLE_MARK = b"PK", b"\x80"
_OLD_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
"""First number of a file of PyTorch before 1.6: five short pickles, then the numbers of the tensors."""
_ENDLESS_MEMO = re.compile(rb"(?:\x94|q.|r.{4}|p\d{1,9}\n){256}", re.DOTALL)
"""No writer remembers one thing this often; a reader that looks behind it for names takes very long."""

_KNOWN_ROOTS = ("torch", "numpy", "collections", "_codecs", "builtins", "__builtin__")
"""Packages whose names PyTorch's loading of weights alone may allow."""

logging.getLogger("picklescan").addHandler(logging.NullHandler())
logging.getLogger("picklescan").propagate = False  # what it finds is told as a problem


def pickle_problems(files: ModelFiles, names: Sequence[str]) -> list[Problem]:
    """Everything wrong with files that PyTorch wrote, in the order of the names.

    Args:
        files: the place. Of each file the directory of its archive and its pickles are read, no tensor.
        names: of files that would be loaded.
    """
    if files.is_here or len(names) < 2:
        return [problem for name in names for problem in _judged(files, name)]
    looked_at, left = names[:_MAX_REMOTE_FILES], names[_MAX_REMOTE_FILES:]
    with ThreadPoolExecutor(_N_READERS) as readers:
        found = list(readers.map(lambda name: list(_judged(files, name)), looked_at))
    problems = [problem for each in found for problem in each]
    if left:
        message = f"{len(left)} of {len(names)} PyTorch files were not searched for dangerous imports"
        problems.append(_not_scanned(message, files.at(left[0])))
    return problems


def _judged(files: ModelFiles, name: str) -> Iterator[Problem]:
    n_bytes, path = files.sizes[name], files.at(name)
    if n_bytes == 0:
        yield _truncated(f"{name} is empty", path)
        return
    part = _Part(files, name)
    try:
        start = part.read(8)
        part.seek(0)
        pickles = _zipped(part) if start.startswith(_ZIP_MARK) else [(name, part.read(MAX_PICKLE_BYTES + 1))]
    except _CutZip:
        yield _truncated(f"{name} stops before its end, at {n_bytes} bytes", path)
        return
    except (OSError, ValueError, RuntimeError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason, hint = why(error)
        yield _unreadable(f"{name} cannot be read: {' '.join(reason.split())[:200]}", path, hint)
        return
    for inside, data in pickles:
        yield from _imports(name, inside, data, path)


class _CutZip(Exception):
    pass


def _zipped(part: _Part) -> list[tuple[str, bytes]]:
    """The pickles in an archive: name -> first bytes.

    What Python's reader refuses is refused, so nothing is hidden from it that another reader would accept.
    """
    try:
        archive = zipfile.ZipFile(part)
    except zipfile.BadZipFile as error:
        if "not a zip file" in str(error):
            raise _CutZip from None
        raise
    with archive:
        inside = [each for each in archive.infolist() if each.filename.lower().endswith((".pkl", ".pickle"))]
        if not inside:
            raise ValueError("the archive has no data.pkl")
        found = []
        for each in inside[:_MAX_N_PICKLES]:
            with archive.open(each) as file:
                found.append((each.filename, file.read(MAX_PICKLE_BYTES + 1)))
        if len(inside) > _MAX_N_PICKLES:
            raise ValueError(f"the archive has {len(inside)} pickles; PyTorch writes one")
        return found


def _imports(name: str, inside: str, data: bytes, path: str) -> Iterator[Problem]:
    """What unpickling would import, as far as it is dangerous or unknown to PyTorch."""
    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    where = name if inside == name else f"{name} ({inside})"
    if not data.startswith((_PICKLE_MARK, b"(", b"c", b"]", b"}")):
        yield _unreadable(f"{where} is neither an archive nor a pickle", path)
        return
    if _ENDLESS_MEMO.search(data):
        yield _unreadable(f"{where} is a pickle such as no program writes", path)
        return
    try:
        found = scan_pickle_bytes(io.BytesIO(data[:MAX_PICKLE_BYTES]), where).globals
    except Exception as error:  # whatever a scanner makes of bytes that were made to confuse it
        yield _unreadable(f"{where} is a pickle that cannot be followed: {error}", path)
        return
    dangerous = sorted({f"{each.module}.{each.name}" for each in found if each.safety is SafetyLevel.Dangerous})
    strange = sorted(
        f"{each.module}.{each.name}"
        for each in found
        if each.safety is SafetyLevel.Suspicious and each.module.partition(".")[0] not in _KNOWN_ROOTS
    )
    if dangerous:
        message = f"loading {where} would import {_listed(dangerous)}, which can run any command"
        hint = "Do not load this file; take the model from a source you trust, as safetensors"
        yield Problem(code="weights.pickle-unsafe", message=message, hint=hint, path=path)
    elif strange:
        message = f"{where} needs {_listed(strange)}, which is refused where weights alone are loaded"
        hint = "Save the model's state_dict alone, best as safetensors"
        yield Problem(code="weights.pickle-unknown", message=message, hint=hint, path=path, severity=Severity.WARNING)
    has_numbers_behind = inside == name and _OLD_MAGIC in data[:32]
    if len(data) > MAX_PICKLE_BYTES and not has_numbers_behind:
        yield _not_scanned(f"only the first {MAX_PICKLE_BYTES} bytes of {where} were searched for imports", path)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(each[:80] for each in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _truncated(message: str, path: str) -> Problem:
    return Problem(code="weights.truncated", message=message, hint="Copy it again", path=path)


def _unreadable(message: str, path: str, hint: str = "") -> Problem:
    return Problem(code="weights.unreadable", message=message, hint=hint or "Get the file again", path=path)


def _not_scanned(message: str, path: str) -> Problem:
    hint = "Take safetensors where there are any; pickles are loaded as weights alone, which imports nothing else"
    return Problem(code="weights.pickle-not-searched", message=message, hint=hint, path=path, severity=Severity.WARNING)


class _Part(io.RawIOBase):
    """A model's file as zipfile wants one, read in blocks, and no more of it than a bound.

    Args:
        files: the place.
        name: of the file.
    """

    def __init__(self, files: ModelFiles, name: str) -> None:
        super().__init__()
        self._files, self._name = files, name
        self.n_bytes = files.sizes[name]
        self._at = 0
        self._n_read_bytes = 0
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.n_bytes}[whence]
        if start + offset < 0:
            raise OSError(f"there is nothing before the start of {self._name}")
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self.n_bytes if size is None or size < 0 else min(self._at + size, self.n_bytes)
        first, last = self._at // _BLOCK_BYTES, (end - 1) // _BLOCK_BYTES
        if end <= self._at:
            return b""
        self._fetch([block for block in range(first, last + 1) if block not in self._blocks])
        data = b"".join(self._blocks[block] for block in range(first, last + 1))
        found = data[self._at - first * _BLOCK_BYTES : end - first * _BLOCK_BYTES]
        self._at += len(found)
        return found

    def _fetch(self, blocks: Sequence[int]) -> None:
        """Read what is missing in one go; blocks between that are known already are read again."""
        if not blocks:
            return
        start, n_bytes = blocks[0] * _BLOCK_BYTES, (blocks[-1] - blocks[0] + 1) * _BLOCK_BYTES
        self._n_read_bytes += n_bytes
        if self._n_read_bytes > _MAX_FILE_READ_BYTES:
            raise OSError(f"more than {_MAX_FILE_READ_BYTES} bytes of {self._name} are no tensors")
        data = self._files.read(self._name, start, n_bytes)
        for number, block in enumerate(range(blocks[0], blocks[-1] + 1)):
            self._blocks[block] = data[number * _BLOCK_BYTES : (number + 1) * _BLOCK_BYTES]
