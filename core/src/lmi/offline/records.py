# SPDX-License-Identifier: Apache-2.0
"""The file of answers: appended to record by record, so that a cut run has lost nothing that was finished."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmi.api.errors import ConfigError, LmiError
from lmi.offline.prompts import Prompt

_HEAD = b'{"line": '
"""What every record begins with."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A record that an earlier run has written."""

    digest: str
    is_failed: bool


class Records:
    """The answers of one file of prompts.

    Args:
        file: where they are; made if it is not there. One run at a time has it.
    Raises:
        ConfigError: it cannot be opened, another run writes it, or it is a file of something else.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor = _opened(file)
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise _unwritable(file, "it is no plain file")
            _lock(self._descriptor, file)
            self._kept = self._read()
        except BaseException:
            os.close(self._descriptor)
            raise

    def missing(self, prompts: Iterable[Prompt], *, asks_failed: bool) -> list[int]:
        """Numbers of the lines that have no record yet; records that no longer count are removed.

        A record counts where the line it answers is as it was.

        Args:
            prompts: all of them.
            asks_failed: whether lines that failed are to be asked again.
        Raises:
            ConfigError: every record is of other prompts, so that this is not their file.
        """
        missing, current = [], set()
        for prompt in prompts:
            kept = self._kept.get(prompt.number)
            if kept is not None and kept.digest == prompt.digest:
                current.add(prompt.number)
            else:
                missing.append(prompt.number)
        if self._kept and not current:
            raise ConfigError(
                "generate.other-prompts",
                f"{self._file} has {len(self._kept)} answers, all of them to other prompts than these",
                (),
                "Name another --output, or remove the file",
            )
        if asks_failed:
            again = {number for number in current if self._kept[number].is_failed}
            missing = sorted({*missing, *again})
            current -= again
        if len(current) < len(self._kept):
            self._keep(current)
        return missing

    @property
    def n_failed(self) -> int:
        """Lines whose record is an error."""
        return sum(kept.is_failed for kept in self._kept.values())

    @property
    def n_records(self) -> int:
        return len(self._kept)

    def add(self, prompt: Prompt, named: Any, **outcome: Any) -> None:
        """Write one record; it is in the file when this returns.

        Args:
            prompt: what was asked.
            named: the line's own id; None for none.
            outcome: ``answer`` or ``error``.
        Raises:
            LmiError: it cannot be written.
        """
        head: dict[str, Any] = {"line": prompt.number, "digest": prompt.digest}
        if named is not None:
            head["id"] = named
        # Half a surrogate pair, which a JSON text may hold, is written as the escape that it came as.
        record = json.dumps({**head, **outcome}, ensure_ascii=False).encode(errors="backslashreplace")
        _write(self._descriptor, record + b"\n", self._file)
        self._kept[prompt.number] = _Kept(digest=prompt.digest, is_failed="error" in outcome)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)

    # ------------------------------------------------------------------------------------------- what is there already

    def _read(self) -> dict[int, _Kept]:
        kept: dict[int, _Kept] = {}
        n_whole_bytes = 0
        for line, is_whole in self._lines():
            try:
                found = json.loads(line)
                number, digest = int(found["line"]), str(found["digest"])
            except (ValueError, KeyError, TypeError) as error:
                if not is_whole and line[: len(_HEAD)] == _HEAD[: len(line)]:
                    break  # the run that wrote it was cut in the middle of it
                raise ConfigError(
                    "generate.not-an-output",
                    f"{self._file} has a line that lmi generate did not write: {line[:80]!r}",
                    (),
                    "Name another --output, or remove the file",
                ) from error
            if not is_whole:
                break
            kept[number] = _Kept(digest=digest, is_failed="error" in found)
            n_whole_bytes += len(line) + 1
        os.ftruncate(self._descriptor, n_whole_bytes)
        return kept

    def _lines(self) -> Iterator[tuple[bytes, bool]]:
        """Each line without its end, and whether it has one."""
        with self._file.open("rb") as lines:
            for line in lines:
                yield line.removesuffix(b"\n"), line.endswith(b"\n")

    def _keep(self, numbers: set[int]) -> None:
        """Leave these records, and of each the last one; the file is replaced in one move."""
        beside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        descriptor = _opened(beside)
        try:
            os.ftruncate(descriptor, 0)
            _lock(descriptor, self._file)
            for line, _ in self._lines():
                if json.loads(line)["line"] in numbers:
                    _write(descriptor, line + b"\n", self._file)
            beside.replace(self._file)
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._kept = {number: kept for number, kept in self._kept.items() if number in numbers}


def _opened(file: Path) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise _unwritable(file, error.strerror or str(error)) from error


def _unwritable(file: Path, reason: str) -> ConfigError:
    return ConfigError("generate.cannot-write", f"{file}: {reason}", (), "Name a file in a folder that may be written")


def _lock(descriptor: int, file: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigError(
            "generate.output-in-use", f"another run writes {file}", (), "Wait for its end, or name another --output"
        ) from error


def _write(descriptor: int, data: bytes, file: Path) -> None:
    n_before_bytes = os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        with contextlib.suppress(OSError):  # half a record must not be the beginning of the next one
            os.ftruncate(descriptor, n_before_bytes)
        raise LmiError(
            "generate.cannot-write", f"{file}: {error.strerror}", "Make room; the same command goes on from there"
        ) from error
