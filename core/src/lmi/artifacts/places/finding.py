# SPDX-License-Identifier: Apache-2.0
"""From a model's id to its files, wherever they are, and from there to this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lmi.api import ArtifactError, Problem, Progress, Severity
from lmi.api.folders import cache_root
from lmi.artifacts.places.archives import ZipFiles, extracted, is_archive
from lmi.artifacts.places.files import Below, LocalFiles, ModelFiles
from lmi.artifacts.places.location import is_web_url, local_path, model_root, refused_location, wrapped_in
from lmi.artifacts.places.objects import is_object_url


class NotFetchedError(ArtifactError):
    """An archive that is elsewhere cannot be judged before it is fetched; ``problems`` is one warning that says so."""


class RemoteZip(ZipFiles):
    """A zip that is elsewhere, seen through its directory.

    Args:
        files: the place it is in.
        name: of the zip.
        fetch: brings it here and unpacks it.
    """

    def __init__(self, files: ModelFiles, name: str, fetch: Callable[[Progress | None], Path]) -> None:
        super().__init__(files.at(name), lambda start, n: files.read(name, start, n), files.sizes[name])
        self.fetch = fetch


class Wrapped(Below):
    """The one folder that everything of a place elsewhere is in.

    Args:
        place: the place.
        folder: name of the folder.
    """

    def __init__(self, place: ModelFiles, folder: str) -> None:
        super().__init__(place, folder)
        self.outer, self.folder = place, folder


def place_of(
    model_id: str,
    revision: str | None,
    beside: Path | None,
    *,
    environ: Mapping[str, str] = os.environ,
    progress: Progress | None = None,
    may_fetch: bool = True,
) -> ModelFiles:
    """The files of a model: listed, and not fetched unless they are in an archive.

    Args:
        model_id: a folder or an archive here, as a path or a ``file:`` URL; a prefix or an archive in an object store
            (``s3://``, ``gs://``, ``az://``); the ``http(s)://`` URL of an archive; ORG/NAME on the hub.
        revision: branch, tag or commit on the hub.
        beside: a folder in which relative paths are looked for too.
        environ: says where the cache and the hub are, and whether the network is forbidden.
        progress: told how far an archive's way here is.
        may_fetch: False leaves an archive where it is; of a zip the files are seen all the same.
    Raises:
        ArtifactError: it is not there, cannot be reached, or is of a kind that cannot be read.
        NotFetchedError: it is an archive that would have to be fetched.
    """
    local = local_path(model_id, beside)
    if local is not None:
        folder = local if local.is_dir() else extracted(local, environ, progress)
        return LocalFiles(model_root(folder))
    refusal = refused_location(model_id, beside)
    if refusal is not None:
        raise refusal
    try:
        if is_web_url(model_id) or (is_object_url(model_id) and is_archive(model_id)):
            return _archive(model_id, environ, progress, may_fetch=may_fetch)
        return _wrapped(_listed(model_id, revision, environ))
    except OSError as error:
        raise _told(error, model_id) from error


def content_of(files: ModelFiles, name: str) -> bytes | None:
    """A small file of a place; None where there is none of that name.

    Args:
        files: of ``place_of``.
        name: of the file.
    Raises:
        ArtifactError: it cannot be read.
    """
    if name not in files.sizes:
        return None
    try:
        return files.read(name)
    except OSError as error:
        raise _told(error, files.at(name)) from error


def fetched(
    files: ModelFiles,
    names: Sequence[str],
    progress: Progress | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Path:
    """A folder on this machine with these files of a place.

    Args:
        files: of ``place_of``.
        names: those that are needed, as in ``files.sizes``.
        progress: told how far the fetching is.
        environ: says where the cache is.
    Returns:
        The place itself if it is here.
    Raises:
        ArtifactError: they cannot be fetched, or do not fit on the disk.
    """
    from lmi.artifacts.places.hub import HubFiles

    if files.is_here:
        return Path(files.place)
    if isinstance(files, Wrapped):
        inner = [f"{files.folder}/{name}" for name in names]
        return fetched(files.outer, inner, progress, environ=environ) / files.folder
    try:
        if isinstance(files, HubFiles):
            return files.fetch(names, progress)
        if isinstance(files, RemoteZip):
            return files.fetch(progress)
        return _downloaded(files, names, environ, progress)
    except OSError as error:
        raise _told(error, files.place) from error


def _listed(model_id: str, revision: str | None, environ: Mapping[str, str]) -> ModelFiles:
    if is_object_url(model_id):
        from lmi.artifacts.places.objects import ObjectFiles

        return ObjectFiles(model_id)
    from lmi.artifacts.places.hub import hub_files

    return hub_files(model_id, revision, environ)


def _wrapped(files: ModelFiles) -> ModelFiles:
    """A place, or the one folder that everything of it is in."""
    if files.is_here:
        return LocalFiles(model_root(Path(files.place)))
    folder = wrapped_in(files.sizes)
    return Wrapped(files, folder) if folder else files


def _archive(url: str, environ: Mapping[str, str], progress: Progress | None, *, may_fetch: bool) -> ModelFiles:
    """The files in an archive that is elsewhere."""
    place, name = _holder(url)

    def fetch(told: Progress | None) -> Path:
        path = _downloaded(place, [name], environ, told) / name
        try:
            return extracted(path, environ, told)
        except ArtifactError as error:  # of a file that the user never heard of
            message = error.message.replace(str(path), place.at(name))
            raise ArtifactError(error.code, message, error.problems, error.hint) from error

    if may_fetch:
        return LocalFiles(model_root(fetch(progress)))
    if name.lower().endswith(".zip"):
        return _wrapped(RemoteZip(place, name, fetch))
    message = f"what is in {place.at(name)} can be judged only when it is fetched ({place.sizes[name]} bytes)"
    hint = "Unpack it into an object store or a folder; that is checked in seconds, and starts faster"
    warning = Problem(
        code="model.not-fetched", message=message, hint=hint, path=place.at(name), severity=Severity.WARNING
    )
    raise NotFetchedError("model.not-fetched", message, [warning], hint)


def _holder(url: str) -> tuple[ModelFiles, str]:
    """The place that an archive is in, and its name there."""
    if is_web_url(url):
        from lmi.artifacts.places.web import WebFiles

        web = WebFiles(url)
        return web, web.name
    from lmi.artifacts.places.objects import ObjectFiles

    place = ObjectFiles(url, is_single=True)
    return place, next(iter(place.sizes))


def _downloaded(files: ModelFiles, names: Sequence[str], environ: Mapping[str, str], progress: Progress | None) -> Path:
    from lmi.artifacts.places.web import WebFiles

    root = cache_root(environ)
    if isinstance(files, WebFiles):
        return files.fetch(root, progress).parent
    from lmi.artifacts.places.download import download
    from lmi.artifacts.places.objects import ObjectFiles

    if not isinstance(files, ObjectFiles):
        raise TypeError(f"files of {files.place} can be read where they are, and not be fetched")
    return download(files, names, root=root, progress=progress or _untold)


def _untold(stage: str, fraction: float | None = None) -> None:
    """Progress that nobody wants to know."""


def _told(error: OSError, where: str) -> ArtifactError:
    """What a place says of itself when it cannot be read; its errors carry that."""
    told = getattr(error, "error", None)
    if isinstance(told, ArtifactError):
        return told
    message = " ".join(f"{where} cannot be read: {error}".split())
    return ArtifactError("model.unreachable", message, [], "Check the address, the network and the disk")
