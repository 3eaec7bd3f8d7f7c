# SPDX-License-Identifier: Apache-2.0
"""The files of a model in an object store, brought to this machine: once, whole, and by one process at a time."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lmi.api import Progress
from lmi.api.errors import counted
from lmi.artifacts.places.cache import PlaceCache, size_text
from lmi.artifacts.places.object_listing import ObjectVersion
from lmi.artifacts.places.objects import ObjectFiles
from lmi.artifacts.places.transfer import Incoming, Transfer

_LOG = logging.getLogger(__name__)

STAGE = "fetch"
_TICK_S = 0.2
_SAVE_S = 0.5
_LOG_S, _MAX_LOG_S = 1.0, 10.0


def unseen(stage: str, fraction: float | None = None) -> None:
    """A progress that nobody looks at."""


def download(
    files: ObjectFiles, names: Sequence[str], *, root: Path, progress: Progress = unseen, patience_s: float = 120.0
) -> Path:
    """Bring files here; what is here already, whole or in part, is not fetched again.

    Needs about 150 MiB of memory, whatever the files' sizes. What a killed process had fetched is gone on with. Several
    processes that want the same model fetch it once. Each file is compared with the size and ETag that were listed, and
    with its MD5 where the ETag is one. Nothing is forced to the disk: only sizes tell of a power cut.

    Args:
        files: where they are.
        names: those wanted.
        root: of the cache, as ``cache_root`` tells it.
        progress: told the stage ``fetch`` and how much is here.
        patience_s: how long a file may get nothing, with a request repeated at growing intervals.
    Returns:
        A folder with just these files, under the names they have; it is to be left as it is.
    Raises:
        ArtifactError: the store fails for good, the disk has no room, the cache cannot be written, or a file was
            changed or arrives damaged.
    """
    versions = {name: files.versions[name] for name in names}
    cache = PlaceCache(root, files.place)
    found = cache.finished(versions)
    if found is None:
        with cache.locked():
            found = cache.finished(versions) or _fetch(files, versions, cache, progress, patience_s)
    else:
        _LOG.info("%s is unchanged; it is taken from the cache at %s", _shown_place(files.place, versions), found)
    progress(STAGE, 1.0)
    return found


def _shown_place(place: str, versions: Mapping[str, ObjectVersion]) -> str:
    """What is fetched, for the log: the place, or the one file of it."""
    return f"{place}/{next(iter(versions))}" if len(versions) == 1 else place


def _fetch(
    files: ObjectFiles, versions: Mapping[str, ObjectVersion], cache: PlaceCache, progress: Progress, patience_s: float
) -> Path:
    try:
        wanted = {cache.blob(each): name for name, each in versions.items() if not cache.is_whole(each)}
        incoming = [Incoming(name, versions[name].n_bytes, blob) for blob, name in wanted.items()]
        for each in incoming:
            each.blob.unlink(missing_ok=True)  # not the size it should have, so somebody wrote into it
        if incoming:
            cache.check_space(sum(_n_bytes_to_write(each) for each in incoming))
            _transfer(Transfer(files, cache, incoming, patience_s=patience_s), files, versions, cache, progress)
        return cache.finish(versions)
    except OSError as error:
        raise cache.refused(error) from error


def _transfer(
    transfer: Transfer,
    files: ObjectFiles,
    versions: Mapping[str, ObjectVersion],
    cache: PlaceCache,
    progress: Progress,
) -> None:
    try:
        transfer.start()
        report = _Report(transfer, files.place, versions, cache)
        saved = time.monotonic()
        while not transfer.wait(_TICK_S):
            if time.monotonic() - saved >= _SAVE_S:
                transfer.save()
                saved = time.monotonic()
            progress(STAGE, report.tell())
        if transfer.failure is not None:
            raise transfer.failure
        report.close()
    finally:
        transfer.end()


def _n_bytes_to_write(each: Incoming) -> int:
    """What a file still takes of the disk; what an earlier process wrote of it takes nothing more."""
    try:
        return max(0, each.n_bytes - each.part.stat().st_blocks * 512)
    except OSError:
        return each.n_bytes


class _Report:
    """How far it is, in the log where there is no terminal: every second at first, then less often."""

    def __init__(
        self, transfer: Transfer, place: str, versions: Mapping[str, ObjectVersion], cache: PlaceCache
    ) -> None:
        self._transfer, self._place = transfer, _shown_place(place, versions)
        self._n_total = sum(each.n_bytes for each in versions.values())
        self._is_quiet = sys.stderr.isatty()
        self._n_started = self._n_told = transfer.n_bytes_done
        # What is here whole from an earlier state of the model is not on its way.
        self._n_kept = self._n_total - sum(each.n_bytes for each in versions.values() if not cache.is_whole(each))
        self._started = self._told = time.monotonic()
        self._pause_s = _LOG_S
        left = size_text(self._n_total - self._n_kept - self._n_started)
        of = f" of {size_text(self._n_total)}" if self._n_kept or self._n_started else ""
        _LOG.info("fetching %s%s (%s) from %s to %s", left, of, counted(len(versions), "file"), self._place, cache.root)

    def tell(self) -> float:
        """The fraction that is here."""
        n, now = self._transfer.n_bytes_done, time.monotonic()
        fraction = (self._n_kept + n) / self._n_total if self._n_total else 1.0
        if not self._is_quiet and now - self._told >= self._pause_s:
            rate = max(0, n - self._n_told) / (now - self._told) / (1 << 20)
            _LOG.info("%.0f%% of %s is here, %.1f MiB/s", 100 * fraction, self._place, rate)
            if n <= self._n_told and self._transfer.trouble:
                _LOG.warning("nothing arrived in the last %.0f s: %s", now - self._told, self._transfer.trouble)
            self._n_told, self._told = n, now
            self._pause_s = min(_MAX_LOG_S, 1.5 * self._pause_s)
        return fraction

    def close(self) -> None:
        """Say that it is over."""
        took_s = max(1e-3, time.monotonic() - self._started)
        n = self._transfer.n_bytes_done - self._n_started
        _LOG.info("fetched %s in %.1f s, %.0f MiB/s", self._place, took_s, n / took_s / (1 << 20))
