# SPDX-License-Identifier: Apache-2.0
"""Bringing files of an object store here: many parts at a time, each going on where it was cut."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from lmi.api import ArtifactError
from lmi.api.errors import counted
from lmi.artifacts.places.cache import PlaceCache
from lmi.artifacts.places.objects import ObjectFiles
from lmi.artifacts.places.store_errors import is_final
from lmi.artifacts.places.verification import Verdict, judged, md5_of

_LOG = logging.getLogger(__name__)

N_CONNECTIONS = 16
PART_BYTES = 64 << 20
CHUNK_BYTES = 2 << 20
"""Written at a time. What is in memory is a few of them a connection: about 150 MiB."""

_N_READINGS = 3
_FIRST_WAIT_S, _MAX_WAIT_S = 0.2, 10.0
_END_S = 2.0
_NO_PART = -1


@dataclass
class Incoming:
    """A file on its way.

    Args:
        name: of the file.
        n_bytes: its size.
        blob: where it is kept when it is whole.
        done: bytes of each part that are here.
    """

    name: str
    n_bytes: int
    blob: Path
    done: list[int] = field(default_factory=list)
    file: int = -1
    n_parts_left: int = 0
    saved: list[int] = field(default_factory=list)
    n_readings: int = 0
    seen_md5: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def part(self) -> Path:
        """Where it is while it is not whole."""
        return self.blob.with_name(self.blob.name + ".part")

    @property
    def state(self) -> Path:
        """Where it is written down what is here."""
        return self.blob.with_name(self.blob.name + ".state")

    def span(self, index: int) -> tuple[int, int]:
        """Start and end of a part."""
        return index * PART_BYTES, min(self.n_bytes, (index + 1) * PART_BYTES)

    def recall(self) -> None:
        """Find out what is here already, from a process that did not finish."""
        n_parts = -(-self.n_bytes // PART_BYTES)
        self.done = [0] * n_parts
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            written = json.loads(self.state.read_text(encoding="utf-8"))
            is_same = written["part_bytes"] == PART_BYTES and len(written["done"]) == n_parts
            if is_same and self.part.stat().st_size == self.n_bytes:
                spans = (self.span(index) for index in range(n_parts))
                self.done = [
                    min(max(int(n), 0), end - start) for n, (start, end) in zip(written["done"], spans, strict=True)
                ]

    def begin(self) -> None:
        """Make the file it is written into.

        Raises:
            OSError: it cannot be made.
        """
        with self.part.open("ab") as file:
            file.truncate(self.n_bytes)

    def opened(self) -> int:
        """The descriptor to write into it; the file is open while something is written."""
        with self.lock:
            if self.file < 0:
                self.file = os.open(self.part, os.O_WRONLY | os.O_CLOEXEC)
            return self.file

    def close(self) -> None:
        """Close it, if it is open."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def save(self) -> None:
        """Write down what is here; it never says more than there is, since that was written before it was counted."""
        now = list(self.done)
        if now == self.saved:
            return
        scratch = self.state.with_name(self.state.name + "~")
        scratch.write_text(json.dumps({"part_bytes": PART_BYTES, "done": now}), encoding="utf-8")
        scratch.replace(self.state)
        self.saved = now

    def parts_left(self) -> Iterator[int]:
        """The parts that are not whole."""
        for index, n in enumerate(self.done):
            start, end = self.span(index)
            if n < end - start:
                yield index


class Transfer:
    """Several files brought here by threads. Begin with ``start``, look at ``wait`` until it is true, end with ``end``.

    Args:
        files: where they are.
        cache: where they go.
        incoming: the files.
        patience_s: a part that gets nothing for so long, however often it is asked for, ends everything.
    Attributes:
        failure: what ended it before its time.
        trouble: why a part was asked for again, the last time that happened.
    """

    def __init__(
        self, files: ObjectFiles, cache: PlaceCache, incoming: Sequence[Incoming], *, patience_s: float
    ) -> None:
        self._files, self._cache, self._patience_s = files, cache, patience_s
        self._incoming = sorted(incoming, key=lambda each: -each.n_bytes)
        self._queue: SimpleQueue[tuple[Incoming, int] | None] = SimpleQueue()
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._n_left = len(incoming)
        self._threads: list[threading.Thread] = []
        self.failure: Exception | None = None
        self.trouble = ""

    @property
    def n_bytes_done(self) -> int:
        """Bytes that are here."""
        return sum(sum(each.done) for each in self._incoming)

    def start(self) -> None:
        """Begin.

        Raises:
            OSError: the files cannot be made.
        """
        n_parts = 0
        for each in self._incoming:
            each.recall()
            each.begin()
            n_parts += self._ask_for(each)
        for _ in range(min(N_CONNECTIONS, n_parts)):
            self._threads.append(threading.Thread(target=self._work, name="lmi-fetch", daemon=True))
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether it is over, waiting no longer than that."""
        return self._is_over.wait(timeout_s) if self._n_left else True

    def save(self) -> None:
        """Write down what is here, for a process that may have to go on."""
        for each in self._incoming:
            if len(each.done) > 1 or each.n_bytes > CHUNK_BYTES:
                with each.lock:
                    if each.file >= 0:
                        each.save()

    def end(self) -> None:
        """Stop the threads; what was begun can be gone on with."""
        self._is_over.set()
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + _END_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return  # one hangs in the network: its file stays open, or it could write into another
        with contextlib.suppress(OSError):
            self.save()
        for each in self._incoming:
            each.close()

    def _ask_for(self, each: Incoming) -> int:
        """Queue what a file lacks, and say how many parts these are; what lacks nothing is only to be judged."""
        left = list(each.parts_left()) or [_NO_PART]
        each.n_parts_left = len(left)
        for index in left:
            self._queue.put((each, index))
        return len(left)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None and not self._is_over.is_set():
            each, index = job
            try:
                if index != _NO_PART:
                    self._bring(each, index)
                if not self._is_over.is_set():
                    self._count(each)
            except BaseException as error:  # a panic of obstore is no Exception, and nobody else would hear of it
                told = error if isinstance(error, Exception) else self._files.told(error, each.name)
                self.failure = self.failure or told
                self._is_over.set()

    def _bring(self, each: Incoming, index: int) -> None:
        start, end = each.span(index)
        heard, wait_s = time.monotonic(), _FIRST_WAIT_S
        while start + each.done[index] < end:
            try:
                for chunk in self._files.stream(each.name, start + each.done[index], end, CHUNK_BYTES):
                    self._write(each, chunk, start + each.done[index])
                    each.done[index] += len(chunk)
                    heard, wait_s = time.monotonic(), _FIRST_WAIT_S
                    if self._is_over.is_set():
                        return
                if start + each.done[index] < end:
                    raise ConnectionError("the answer ended early")
            except ArtifactError:
                raise
            except Exception as error:
                silent_s = time.monotonic() - heard
                if is_final(error) or silent_s >= self._patience_s:
                    raise self._files.told(error, each.name) from error
                self.trouble = self._files.told(error, each.name).message
                pause_s = min(wait_s * random.uniform(0.5, 1.5), max(0.0, self._patience_s - silent_s))  # noqa: S311
                if self._is_over.wait(pause_s):
                    return
                wait_s = min(2 * wait_s, _MAX_WAIT_S)

    def _write(self, each: Incoming, chunk: bytes, at: int) -> None:
        left = memoryview(chunk)
        try:
            file = each.opened()
            while left:
                n = os.pwrite(file, left, at)
                left, at = left[n:], at + n
        except OSError as error:
            missing = sum(other.n_bytes for other in self._incoming) - self.n_bytes_done
            raise self._cache.refused(error, missing) from error

    def _count(self, each: Incoming) -> None:
        """One part more is here; if it is the last, the file is judged and kept, or fetched again."""
        with each.lock:
            each.n_parts_left -= 1
            if each.n_parts_left:
                return
        if not self._is_good(each):
            each.done = [0] * len(each.done)
            self._ask_for(each)
            return
        with each.lock:
            each.close()
            each.part.replace(each.blob)
            each.state.unlink(missing_ok=True)
        with self._lock:
            self._n_left -= 1
            if not self._n_left:
                self._is_over.set()

    def _is_good(self, each: Incoming) -> bool:
        verdict = judged(self._files, each.name, each.part)
        if verdict is Verdict.WHOLE:
            return True
        each.n_readings += 1
        before, each.seen_md5 = each.seen_md5, md5_of(each.part)
        where = self._files.at(each.name)
        if verdict is Verdict.DOUBTFUL and before == each.seen_md5:
            _LOG.warning("%s is not what its ETag or header says, and was read so twice; it is taken", where)
            return True
        if each.n_readings >= _N_READINGS:
            etag = self._files.versions[each.name].etag
            message = f"{where} arrived damaged {counted(_N_READINGS, 'time')}: its MD5 is {each.seen_md5}, not {etag}"
            raise ArtifactError("model.damaged", message, [], "Check the network and this machine's memory and disk")
        _LOG.warning("%s arrived damaged; it is fetched again", where)
        return False
