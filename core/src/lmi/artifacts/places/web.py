# SPDX-License-Identifier: Apache-2.0
"""One file behind an http or https URL."""

from __future__ import annotations

import base64
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar
from urllib.parse import unquote, urlsplit

from lmi.api import ArtifactError, Progress
from lmi.artifacts.places.archives import made_once
from lmi.artifacts.places.cache import PlaceCache
from lmi.artifacts.places.files import ModelFiles

_STAGE = "fetch"
_FOLDER = "web"
_TIMEOUT_S = 20.0
_N_READ_TRIES, _N_FETCH_TRIES = 3, 5
_FIRST_WAIT_S = 0.5
_MAX_WAIT_S = 8.0
_CHUNK_BYTES = 1 << 20
_T = TypeVar("_T")
_PASSING = (408, 429, 500, 502, 503, 504)


class WebReadError(OSError):
    """The file cannot be read.

    Args:
        error: what to tell.
        is_passing: another try may succeed.
    """

    def __init__(self, error: ArtifactError, *, is_passing: bool = False) -> None:
        super().__init__(str(error))
        self.error, self.is_passing = error, is_passing


class WebFiles(ModelFiles):
    """A place with one file, read by ranges where its server offers them.

    Args:
        url: of the file; a name and a password in it are sent to its server, and told nobody.
    Raises:
        WebReadError: there is no such file, or it cannot be had.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        login, _, host = parts.netloc.rpartition("@")
        self._url, self._login = parts._replace(netloc=host).geturl(), unquote(login)
        path = PurePosixPath(unquote(parts.path))
        # A signature in the query is nobody's business, and no part of the place.
        self.place = f"{parts.scheme}://{host}{path.parent}".rstrip("/")
        self.name, self.tag = path.name, ""
        self.has_ranges, n_bytes = self._repeated(self._first_answer, _N_READ_TRIES)
        self.sizes = {self.name: n_bytes}

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        if name != self.name:
            raise FileNotFoundError(2, "no such file", self.at(name))
        n_bytes = self.sizes[name] - start if n_bytes is None else n_bytes
        if n_bytes <= 0:
            return b""
        return self._repeated(lambda: self._read(start, n_bytes), _N_READ_TRIES)

    def fetch(self, root: Path, progress: Progress | None = None) -> Path:
        """The file, in the cache; a fetch that was cut off goes on where it stopped.

        Args:
            root: the cache's folder.
            progress: told how far it is.
        Raises:
            ArtifactError: it cannot be had, does not fit on the disk, or the cache cannot be written.
        """
        key = f"{self.place}/{self.name}\0{self.tag}\0{self.sizes[self.name]}"
        folder = root / _FOLDER / hashlib.sha256(key.encode()).hexdigest()[:32]
        try:
            return made_once(folder, lambda to: self._fetch(to, progress)) / self.name
        except OSError as error:
            raise PlaceCache(root, self.at(self.name)).refused(error) from error

    def _fetch(self, folder: Path, progress: Progress | None) -> None:
        partial = folder.with_name(folder.name + ".partial")
        # What has no tag may have changed since, so nothing of it is kept.
        if not self.has_ranges or not self.tag:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(exist_ok=True)
        self._check_disk(partial)
        try:
            self._repeated(lambda: self._fetch_rest(partial / self.name, progress), _N_FETCH_TRIES)
        except WebReadError as error:
            raise error.error from error
        partial.replace(folder)

    def _repeated(self, ask: Callable[[], _T], n_tries: int) -> _T:
        """What the server answers; asked again after a failure that may pass.

        Raises:
            WebReadError: it did not pass.
        """
        wait_s = _FIRST_WAIT_S
        for i in range(n_tries):
            try:
                return ask()
            except (WebReadError, http.client.HTTPException) as error:
                failure = error if isinstance(error, WebReadError) else self._failed(error)
                if i == n_tries - 1 or not failure.is_passing:
                    raise failure from error
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, _MAX_WAIT_S)
        raise AssertionError("the last try returns or raises")

    def _first_answer(self) -> tuple[bool, int]:
        """Whether the server knows ranges, and the file's size, 0 where it does not tell; keeps the file's tag."""
        with self._opened(0, 1) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            has_ranges = answer.status == 206 and total.isdecimal()
            length = total if has_ranges else answer.headers.get("Content-Length", "")
            self.tag = answer.headers.get("ETag", "") or answer.headers.get("Last-Modified", "")
        return has_ranges, int(length) if length.isdecimal() else 0

    def _read(self, start: int, n_bytes: int) -> bytes:
        with self._opened(start, start + n_bytes) as answer:
            n_skipped = start if answer.status == 200 else 0
            content = self._chunk(answer, n_skipped + n_bytes)[n_skipped:]
        if len(content) < min(n_bytes, self.sizes[self.name] - start):
            raise self._failed(ConnectionError(f"it ended after {len(content)} of {n_bytes} bytes"))
        return content

    def _fetch_rest(self, path: Path, progress: Progress | None) -> None:
        n_all_bytes = self.sizes[self.name]
        start = path.stat().st_size if path.exists() and self.has_ranges else 0
        if start and start >= n_all_bytes:
            return
        with self._opened(start, None) as answer, path.open("ab" if answer.status == 206 else "wb") as file:
            n_bytes = start if answer.status == 206 else 0
            while chunk := self._chunk(answer, _CHUNK_BYTES):
                file.write(chunk)
                n_bytes += len(chunk)
                if progress is not None and n_all_bytes:
                    progress(_STAGE, min(n_bytes / n_all_bytes, 1.0))
        if n_all_bytes and n_bytes != n_all_bytes:
            raise self._failed(ConnectionError(f"it ended after {n_bytes} of {n_all_bytes} bytes"))

    def _chunk(self, answer: IO[bytes], n_bytes: int) -> bytes:
        try:
            return answer.read(n_bytes)
        except OSError as error:  # told apart from those of writing
            raise self._failed(error) from error

    def _opened(self, start: int, end: int | None) -> http.client.HTTPResponse:
        headers = {"Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if start and self.tag:
            headers["If-Range"] = self.tag
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 - only http and https come here
        if self._login:  # for this server alone, wherever it leads
            login = base64.b64encode(self._login.encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {login}")
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error.code) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(error) from error
        return answer

    def _refused(self, status: int) -> WebReadError:
        url = self.at(self.name)
        if status in (401, 403):
            error = _error("model.access-denied", f"{url} may not be read ({status})", "Use a URL that needs no login")
        elif status in (404, 410):
            error = _error("model.not-found", f"there is no {url} ({status})", "Check the spelling")
        else:
            error = _error("model.unreachable", f"{url} cannot be read: its server answers {status}", "Try again later")
        return WebReadError(error, is_passing=status in _PASSING)

    def _failed(self, error: Exception) -> WebReadError:
        message = f"{self.at(self.name)} cannot be read: {type(error).__name__}: {error}"
        return WebReadError(_error("model.unreachable", message, "Check the URL and the network"), is_passing=True)

    def _check_disk(self, folder: Path) -> None:
        needed_bytes, free_bytes = self.sizes[self.name], shutil.disk_usage(folder).free
        if needed_bytes > free_bytes:
            message = f"{self.at(self.name)} has {needed_bytes} bytes, {folder.parent} has {free_bytes} bytes free"
            raise _error("model.disk-full", message, "Free some space, or set LMI_CACHE_DIR to another disk")


def _error(code: str, message: str, hint: str) -> ArtifactError:
    return ArtifactError(code, " ".join(message.split()), [], hint)
