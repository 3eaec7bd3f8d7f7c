# SPDX-License-Identifier: Apache-2.0
"""The hub's cache on this disk: what is in it, whether that is whole, and how more comes into it."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmi.api import Progress
from lmi.artifacts.places.hub_errors import explained, failed

_STAGE = "fetch"
_DEFAULT_REVISION = "main"
_N_TOLD = 3

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".engine", ".neff")


def snapshot_of(model_id: str, revision: str | None) -> Path | None:
    """The folder of a cached snapshot, whole or not; None where there is none.

    Args:
        model_id: ORG/NAME.
        revision: branch, tag or commit; None for the newest.
    """
    cached = _cached(model_id)
    revision = revision or _DEFAULT_REVISION
    commit = revision
    with contextlib.suppress(OSError, ValueError):
        commit = (cached / "refs" / revision).read_text("utf-8").strip()
    folder = cached / "snapshots" / commit
    return folder if commit and "/" not in commit and folder.is_dir() else None


def whole_snapshot(model_id: str, revision: str | None, reason: str) -> Path:
    """A cached snapshot that has its weights.

    Args:
        model_id: ORG/NAME.
        revision: branch, tag or commit; None for the newest.
        reason: why nothing can be fetched, for messages.
    Raises:
        ArtifactError: it is not in the cache, or only part of it is.
    """
    folder = snapshot_of(model_id, revision)
    at = f" at revision '{revision}'" if revision else ""
    hint = f"Fetch it once where the network is allowed: hf download {model_id}, or name a folder"
    if folder is None:
        message = f"'{model_id}'{at} is no folder here and could not be fetched: {reason}, and the cache has none of it"
        raise failed("model.unreachable", message, hint)
    absent = _absent_shards(folder)
    if not absent and not any(path.suffix in _WEIGHTS for path in folder.rglob("*")):
        absent = ["its weights"]
    if absent:
        told = ", ".join(absent[:_N_TOLD]) + (f" and {len(absent) - _N_TOLD} more" if len(absent) > _N_TOLD else "")
        message = f"only part of '{model_id}'{at} is in the hub's cache, {told} missing, and {reason}: {folder}"
        raise failed("model.partly-cached", message, hint)
    return folder


def fetch_snapshot(
    model_id: str,
    revision: str | None,
    commit: str,
    sizes: Mapping[str, int],
    endpoint: str,
    token: str | None,
    progress: Progress | None,
) -> Path:
    """Bring files into the cache.

    Args:
        model_id: ORG/NAME.
        revision: as it was asked for; the cache remembers which commit it is.
        commit: of the files.
        sizes: names of the files -> bytes.
        endpoint: the hub's address.
        token: None lets the client look for one.
        progress: told how far it is.
    Returns:
        The snapshot's folder.
    Raises:
        ArtifactError: they could not be fetched, or do not fit on the disk.
    """
    from huggingface_hub import snapshot_download

    folder = _cached(model_id) / "snapshots" / commit
    absent = {name: size for name, size in sizes.items() if not _is_whole(folder / name, size)}
    if absent:
        _check_disk(model_id, folder, sum(absent.values()))
        patterns = [glob.escape(name) for name in absent]
        try:
            snapshot_download(
                model_id, revision=commit, allow_patterns=patterns, endpoint=endpoint, token=token,
                tqdm_class=bars_for(progress, sum(absent.values())),
            )  # fmt: skip
        except Exception as error:
            # What the client raises differs with its version and its HTTP library; none of it may be lost.
            raise explained(model_id, revision, error) from error
        short = [name for name, size in absent.items() if not _is_whole(folder / name, size)]
        if short:
            message = f"{short[0]} of '{model_id}' is not whole after it was fetched: {folder / short[0]}"
            raise failed("model.unreachable", message, "Start again; what is whole is kept")
    _remember(_cached(model_id), revision or _DEFAULT_REVISION, commit)
    return folder


def bars_for(progress: Progress | None, n_all_bytes: int) -> type[Any]:
    """The kind of progress bar that tells ``progress`` instead of a terminal.

    Args:
        progress: told the share of the bytes; where a version of the client counts none, of the files.
        n_all_bytes: bytes to fetch.
    """
    from tqdm.std import tqdm  # type: ignore[import-untyped]

    units: set[str] = set()
    reached = [0.0]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            self.lmi_unit = str(options.get("unit", ""))
            self.n_done, self.n_all = options.get("initial") or 0, options.get("total") or 0
            units.add(self.lmi_unit)
            super().__init__(*args, **{**options, "disable": True})

        def __iter__(self) -> Iterator[Any]:
            for each in self.iterable:
                yield each
                self.update()

        def update(self, n: float | None = 1) -> None:
            self.n_done += n or 0
            n_all = n_all_bytes if self.lmi_unit == "B" else self.n_all
            # Several bars count the same: bytes on the wire, bytes on the disk, files.
            if progress is None or not n_all or (self.lmi_unit != "B" and "B" in units):
                return
            reached[0] = max(reached[0], min(self.n_done / n_all, 1.0))
            progress(_STAGE, reached[0])

    return Bar


def _cached(model_id: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{model_id.replace('/', '--')}"


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _absent_shards(folder: Path) -> list[str]:
    """What the index of the weights names and the snapshot lacks; safetensors count before PyTorch files."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        if any(folder.glob("*.safetensors")):
            return []
        index = folder / "pytorch_model.bin.index.json"
    try:
        shards = set(map(str, json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    return sorted(name for name in shards if not (folder / name).exists())


def _check_disk(model_id: str, folder: Path, n_bytes: int) -> None:
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free_bytes = shutil.disk_usage(place).free
    if n_bytes > free_bytes:
        message = f"'{model_id}' does not fit on the disk: {n_bytes} bytes are to be fetched, {place} has {free_bytes}"
        raise failed("model.disk-full", message, "Free some space, or set HF_HOME to a folder on a larger disk")


def _remember(cached: Path, revision: str, commit: str) -> None:
    """Write down which commit a branch or tag is, as the client does when it is not told the commit."""
    path = cached / "refs" / revision
    if revision == commit or not path.resolve().is_relative_to(cached.resolve()):
        return
    with contextlib.suppress(OSError):  # a cache that is read and not written
        path.parent.mkdir(parents=True, exist_ok=True)
        number, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(commit)
        Path(temporary).replace(path)
