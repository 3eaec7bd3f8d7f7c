# SPDX-License-Identifier: Apache-2.0
"""Models from the hub: described by listing and ranged reads, fetched by the hub's own client into its own cache."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lmi.api import ArtifactError, Progress
from lmi.artifacts.places.files import LocalFiles, ModelFiles
from lmi.artifacts.places.hub_cache import fetch_snapshot, snapshot_of, whole_snapshot
from lmi.artifacts.places.hub_errors import HubReadError, explained, is_final, of_status
from lmi.config.coerce import is_true
from lmi.config.names import shown

_LOG = logging.getLogger(__name__)

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DJL_OFFLINE")
_ENDPOINT = "https://huggingface.co"
_TIMEOUT_S = 10.0
_N_TRIES = 3
_FIRST_WAIT_S = 0.5
_MAX_WAIT_S = 5.0
_WORTH_ANOTHER_TRY = (429, 500, 502, 503, 504)
_CHUNK_BYTES = 1 << 16
_CAN_BE_SENT = re.compile(r"[!-~]*")


def is_offline(environ: Mapping[str, str]) -> bool:
    """Whether a variable forbids the network: HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE or DJL_OFFLINE."""
    return any(is_true(environ.get(name, "")) for name in _OFFLINE)


def hub_files(model_id: str, revision: str | None, environ: Mapping[str, str]) -> ModelFiles:
    """A model of the hub; its cached snapshot where the network is forbidden or fails.

    Args:
        model_id: ORG/NAME.
        revision: branch, tag or commit; None for the newest.
        environ: read for the hub's address, the token, and whether the network is forbidden.
    Raises:
        ArtifactError: it does not exist, is closed to this token, or can neither be reached nor found whole in the
            cache.
    """
    if is_offline(environ):
        variable = next(name for name in _OFFLINE if is_true(environ.get(name, "")))
        return LocalFiles(whole_snapshot(model_id, revision, f"{variable} forbids the network"))
    try:
        return HubFiles(model_id, revision, environ)
    except ArtifactError as error:
        cause = error.__cause__
        if cause is None or is_final(cause) or snapshot_of(model_id, revision) is None:
            raise
        _LOG.warning("the hub cannot be asked for %s (%s); what its cache has is taken", model_id, error.message)
        return LocalFiles(whole_snapshot(model_id, revision, "the hub cannot be asked"))


def token_of(environ: Mapping[str, str]) -> str | None:
    """What HF_TOKEN says; None where it says nothing.

    Raises:
        ArtifactError: it can be no token. Its value is not told.
    """
    token = environ.get("HF_TOKEN", "").strip()
    if not _CAN_BE_SENT.fullmatch(token):
        message = "HF_TOKEN holds a line break, a space or another character that no token has"
        raise ArtifactError("model.access-denied", message, [], "Set it to the token alone, as hf.co/settings shows it")
    return token or None


class HubFiles(ModelFiles):
    """A repository of the hub at one commit, so what is listed, read and fetched belongs together.

    Args:
        model_id: ORG/NAME.
        revision: branch, tag or commit; None for the newest.
        environ: HF_ENDPOINT and HF_TOKEN are read.
    Raises:
        ArtifactError: it does not exist, is closed to this token, or cannot be reached.
    """

    def __init__(self, model_id: str, revision: str | None, environ: Mapping[str, str] = os.environ) -> None:
        from huggingface_hub import HfApi

        self.model_id, self.revision = model_id, revision
        self.endpoint = (environ.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")
        # Without one, the client looks where people log in.
        self._token = token_of(environ)
        self.place = f"{shown('', self.endpoint)}/{model_id}/resolve/{revision or 'main'}"
        try:
            info = HfApi(endpoint=self.endpoint, token=self._token).model_info(
                model_id, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
            )
        except Exception as error:
            # What the client raises differs with its version and its HTTP library; none of it may be lost.
            raise explained(model_id, revision, error, self.endpoint) from error
        self.commit = str(info.sha)
        listed = sorted((each.rfilename, each.size or 0) for each in info.siblings or [])
        self.sizes = {name: size for name, size in listed if not _is_hidden(name)}
        if getattr(info, "gated", False):
            self._try_to_read()

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        from huggingface_hub import try_to_load_from_cache

        size = self.sizes.get(name)
        if size is None:
            raise FileNotFoundError(2, "no such file", self.at(name))
        end = size if n_bytes is None else min(start + n_bytes, size)
        if end <= start:
            return b""
        cached = try_to_load_from_cache(self.model_id, name, revision=self.commit)
        if isinstance(cached, str):
            with Path(cached).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        return self._requested(name, start, end)

    def fetch(self, names: Sequence[str], progress: Progress | None = None) -> Path:
        """Bring files into the hub's cache; what is there already is not fetched again.

        Args:
            names: exactly these, as in ``sizes``.
            progress: told how far it is.
        Returns:
            The snapshot's folder.
        Raises:
            ArtifactError: they could not be fetched, or do not fit on the disk.
        """
        wanted = {name: self.sizes[name] for name in names}
        return fetch_snapshot(self.model_id, self.revision, self.commit, wanted, self.endpoint, self._token, progress)

    def _try_to_read(self) -> None:
        """Whoever may see the listing of a gated model may not see its files."""
        name = min(self.sizes, key=lambda each: self.sizes[each] or 1 << 62, default="")
        try:
            self.read(name, 0, 1)
        except HubReadError as error:
            raise error.error from error

    def _requested(self, name: str, start: int, end: int) -> bytes:
        url = f"{self.endpoint}/{self.model_id}/resolve/{self.commit}/{quote(name)}"
        wait_s = _FIRST_WAIT_S
        for i in range(_N_TRIES):
            try:
                return self._requested_once(url, name, start, end)
            except HubReadError as error:
                if i == _N_TRIES - 1 or not error.is_passing:
                    raise
                time.sleep(min(error.retry_after_s or wait_s, _MAX_WAIT_S))
                wait_s *= 2
        raise AssertionError("the last try returns or raises")

    def _requested_once(self, url: str, name: str, start: int, end: int) -> bytes:
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = {
            **build_hf_headers(token=self._token),
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        try:
            with _opened(url, headers) as (response, chunks):
                if response.status_code not in (200, 206):
                    error = of_status(self.model_id, self.revision, name, response.status_code, response.headers)
                    raise HubReadError(
                        error,
                        is_passing=response.status_code in _WORTH_ANOTHER_TRY,
                        retry_after_s=_seconds(response.headers.get("Retry-After", "")),
                    )
                # A mirror without ranges sends everything, of which no more is read than is needed.
                n_skipped = start if response.status_code == 200 else 0
                content = _taken(chunks, n_skipped + end - start)[n_skipped:]
        except HubReadError:
            raise
        except Exception as error:
            told = explained(self.model_id, self.revision, error, self.endpoint)
            raise HubReadError(told, is_passing=True) from error
        if len(content) < end - start:
            short = ConnectionError(f"{name} ended after {len(content)} of {end - start} bytes")
            told = explained(self.model_id, self.revision, short, self.endpoint)
            raise HubReadError(told, is_passing=True) from short
        return content


@contextlib.contextmanager
def _opened(url: str, headers: Mapping[str, str]) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """A response and its content; before its version 1.0, the client speaks through another HTTP library."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    session: Any = get_session()
    if callable(getattr(session, "stream", None)):
        with session.stream("GET", url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True) as response:
            yield response, response.iter_bytes(_CHUNK_BYTES)
    else:
        with session.get(url, headers=headers, timeout=_TIMEOUT_S, stream=True) as response:
            yield response, response.iter_content(_CHUNK_BYTES)


def _taken(chunks: Iterator[bytes], n_bytes: int) -> bytes:
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) >= n_bytes:
            break
    return bytes(content[:n_bytes])


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
