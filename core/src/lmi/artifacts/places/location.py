# SPDX-License-Identifier: Apache-2.0
"""What a model's id means: a folder or an archive here, a place elsewhere, or a model of the hub. Nothing is asked."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lmi.api import ArtifactError
from lmi.artifacts.places.archives import is_archive
from lmi.artifacts.places.objects import is_object_url
from lmi.config.coerce import likely_mistake
from lmi.config.names import nearest, shown

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_FILE_URL = re.compile(r"file:(//)?", re.IGNORECASE)
_WEB_URL = re.compile(r"https?://", re.IGNORECASE)
_HUB_URL = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)/*(?:tree/([^/]+)/*)?", re.IGNORECASE
)

_CUT_URL = re.compile(r"(s3|gs|az|abfss?):/*([^/].*)", re.IGNORECASE | re.DOTALL)
_ARN = re.compile(r"arn:aws[\w-]*:s3:::([^/]+.*)", re.DOTALL)
_BUCKETLESS = re.compile(r"(s3|gs|az|abfss?):/*", re.IGNORECASE)
_HUB_PAGE = re.compile(r"([A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)/(?:tree|blob|resolve)/([^/]+)/?.*")
_S3_HOST = r"s3(?:[.-](?:dualstack\.)?[a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?"
_S3_PAGES = (
    re.compile(rf"https?://([a-z0-9.-]+?)\.{_S3_HOST}(?:/(.*))?", re.IGNORECASE),
    re.compile(rf"https?://{_S3_HOST}/([^/]+)(?:/(.*))?", re.IGNORECASE),
)

_COMPILED = "config.pbtxt"
"""A folder with this file is found from the one it is in, so it is not taken out of that."""

_NO_CONTENT = "__MACOSX"
"""What macOS puts into a zip beside the content."""


def model_root(folder: Path) -> Path:
    """The folder itself, or the one folder inside it where an archive wrapped everything once more."""
    visible = [path for path in folder.iterdir() if _counts(path.name)]
    if len(visible) == 1 and visible[0].is_dir() and not (visible[0] / _COMPILED).exists():
        return visible[0]
    return folder


def wrapped_in(names: Collection[str]) -> str:
    """The one folder that all files are in, which ``model_root`` would go into; "" where there is none.

    Args:
        names: of all files, with ``/`` between folders.
    """
    tops = {name.partition("/")[0] for name in names if _counts(name.partition("/")[0])}
    if len(tops) != 1:
        return ""
    top = tops.pop()
    is_folder_of_all = top not in names and f"{top}/{_COMPILED}" not in names
    return top if is_folder_of_all else ""


def is_local(model_id: str, beside: Path | None = None) -> bool:
    """Whether an id is a folder or an archive on this machine; relative ones are looked for beside
    serving.properties too."""
    return local_path(model_id, beside) is not None


def is_web_url(model_id: str) -> bool:
    """Whether an id is the URL of something on a web server."""
    return _WEB_URL.match(model_id) is not None


def local_path(model_id: str, beside: Path | None = None) -> Path | None:
    """The folder or the archive on this machine that an id is; None where it is none.

    Args:
        model_id: a path, or a ``file:`` URL.
        beside: a folder in which relative paths are looked for too.
    """
    text = _path_text(model_id)
    if text is None:
        return None
    candidates = [Path(text)]
    if text.startswith("~"):
        with contextlib.suppress(RuntimeError):  # there is no such user
            candidates = [Path(text).expanduser()]
    if beside is not None:
        candidates.append(beside / text)
    return next((path for path in candidates if is_folder(path) or (is_archive(path.name) and exists(path))), None)


def refused_location(model_id: str, beside: Path | None = None) -> ArtifactError | None:
    """Why no model can be had from a place that is not on this machine; None where it can be asked for one.

    Args:
        model_id: what is no folder and no archive here.
        beside: the folder in which relative paths were looked for too.
    """
    if is_object_url(model_id):
        return None
    misspelt = _misspelt(model_id)
    if misspelt is not None:
        return misspelt
    scheme = _URL.match(model_id)
    try:
        path = urlsplit(model_id).path
    except ValueError as error:
        return _failed("model.unsupported-location", f"{model_id} is no URL: {error}", "Check its spelling")
    if _FILE_URL.match(model_id):
        return _refused_file_url(model_id)
    if scheme is None:
        return _no_folder(model_id, beside)
    return None if is_web_url(model_id) and is_archive(path) else _no_place(model_id, scheme[1].lower())


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; a text that can be no path is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def exists(path: Path) -> bool:
    """Whether there is anything under that path."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != _NO_CONTENT


def _path_text(model_id: str) -> str | None:
    """A path as it was written or as a URL has it; None where the id is a URL of something else."""
    if not _FILE_URL.match(model_id):
        return None if _URL.match(model_id) else model_id
    try:
        parts = urlsplit(model_id)
    except ValueError:
        return None
    if parts.netloc.lower() not in ("", "localhost"):
        return None
    return unquote(parts.path) or None


def _refused_file_url(url: str) -> ArtifactError | None:
    text = _path_text(url)
    if text is not None:
        return _no_folder(text)
    message = f"{url} is on another machine"
    return _failed("model.unsupported-location", message, "Write file:///path, and the path of this machine")


def _no_place(url: str, scheme: str) -> ArtifactError:
    """The refusal of a URL, with what comes next to it."""
    url = url.partition("?")[0]  # what follows may be a signature
    bucket = next((match for match in (page.fullmatch(url) for page in _S3_PAGES) if match), None)
    if bucket is not None:
        meant = f"s3://{bucket[1]}/{bucket[2] or ''}"
        return _failed(
            "model.unsupported-location", f"{url} is the address of an object or a page", f"Did you mean {meant}?"
        )
    hub = _HUB_URL.fullmatch(url)
    if hub is not None:
        revision = f" with option.revision={hub[2]}" if hub[2] else ""
        return _failed(
            "model.unsupported-location", f"{url} is a page", f"Write the id of its model, {hub[1]}{revision}"
        )
    if scheme in ("http", "https"):
        message = f"{url} is no archive; of web servers, archives alone are read"
        hint = "Name an archive (.tar.gz, .tgz, .tar, .zip), an object store's prefix (s3://), or a model of the hub"
        return _failed("model.unsupported-location", message, hint)
    return _failed(
        "model.unsupported-location",
        f"models are not read from {scheme}://: {url}",
        "Name a folder, an archive, s3://, gs:// or az:// with bucket and prefix, or a model of the hub (ORG/NAME)",
    )


def _misspelt(text: str) -> ArtifactError | None:
    """The refusal of what was meant to be an URL of a store, or is one part of a hub's page; None of others."""
    bare = _BUCKETLESS.fullmatch(text)
    if bare:
        return _failed("model.not-found", f"{text} names no bucket", f"Write {bare[1].lower()}://BUCKET/PREFIX")
    cut, arn, page = _CUT_URL.fullmatch(text), _ARN.fullmatch(text), _HUB_PAGE.fullmatch(text)
    if cut or arn:
        meant = f"{cut[1].lower()}://{cut[2]}" if cut else f"s3://{arn[1] if arn else ''}"
        return _failed("model.unsupported-location", f"'{text}' is no URL of a store", f"Did you mean {meant}?")
    if page and not exists(Path(text)):
        hint = f"Write {page[1]} with option.revision={page[2]}"
        return _failed("model.unsupported-location", f"'{text}' is part of a page's address", hint)
    return None


def _no_folder(text: str, beside: Path | None = None) -> ArtifactError | None:
    path, mistake = Path(text), likely_mistake(text)
    is_one_file = is_archive(text)
    if not is_one_file and exists(path):
        return _failed("model.not-a-folder", f"'{text}' is not a folder", f"Name the folder it is in, {path.parent}")
    if not is_one_file and _HUB_ID.fullmatch(text):
        return None
    message = f"there is no {'archive' if is_one_file else 'folder'} '{text}'"
    if mistake:
        return _failed("model.not-found", message, mistake)
    return _failed("model.not-found", message + _looked_in(path, beside), _near(path) or "Check the path")


def _looked_in(path: Path, beside: Path | None) -> str:
    """Where a relative path was looked for; "" of an absolute one."""
    if path.is_absolute() or str(path).startswith("~"):
        return ""
    places = dict.fromkeys(str(each) for each in (Path.cwd(), beside) if each is not None)
    return f" in {' or '.join(places)}"


def _near(path: Path) -> str:
    """What the folder that a path is in has under nearly that name, as a question; "" where it has nothing."""
    try:
        names = [each.name for each in path.parent.iterdir() if is_folder(each) or is_archive(each.name)]
    except (OSError, ValueError):  # there is none, it is closed to us, or the text can be no path
        return ""
    near = nearest(path.name, names)
    return f"Did you mean {path.parent / near}?" if near else ""


def _failed(code: str, message: str, hint: str) -> ArtifactError:
    return ArtifactError(code, shown("", message), [], hint)
