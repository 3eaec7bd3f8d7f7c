# SPDX-License-Identifier: Apache-2.0
"""Where an adapter's files are that is to be loaded into a running model, and how they come to this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lmi.api import ArtifactError, LmiError, ModelArtifacts, NotReadyError, Progress, RequestError
from lmi.api.adapters import CONFIG, WEIGHTS
from lmi.artifacts.places.files import ModelFiles
from lmi.artifacts.places.finding import fetched, place_of
from lmi.artifacts.places.location import exists
from lmi.config.names import shown

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")
_LONGEST = 4096
_PLACES = "Give the folder of the adapter, its URL, or ORG/NAME"
_NOT_NOW = ("model.unreachable", "model.rate-limited")
"""Codes of places that may answer another time."""


@dataclass(frozen=True)
class AdapterSource:
    """Where an adapter is.

    Args:
        src: a folder or an archive of this machine by its absolute path, else what the caller sent.
        beside: of ``ORG/NAME``, which is looked for on the hub: the folder that it does not name; else empty.
    """

    src: str
    beside: str = ""

    @classmethod
    def of(cls, src: object, model: ModelArtifacts, url_pattern: str | None = None) -> AdapterSource:
        """What a caller means; whether it is there is not looked at, but for relative paths.

        Args:
            src: a path, absolute or relative to the model's folder; a URL; or ORG/NAME on the hub.
            model: the model.
            url_pattern: what a place elsewhere has to match, where the operator has set that.
        Raises:
            RequestError: it names no place, or one that is not allowed.
        """
        if not isinstance(src, str) or not src.strip() or "\0" in src:
            raise _bad(f"src={src!r} names no place", _PLACES)
        text = src.strip()
        if len(text) > _LONGEST:
            raise _bad(f"src has {len(text)} characters and names no place", _PLACES)
        if text.lower().startswith("file:"):
            return cls(text)
        if "://" not in text:
            path = Path(model.folder) / text
            if path.is_absolute() and (exists(path) or not _HUB_ID.fullmatch(text)):
                return cls(str(path))
            if not _HUB_ID.fullmatch(text):
                hint = "Give an absolute path"
                raise _bad(f"src={src!r} is relative, and this model has no folder", hint)
        if url_pattern is not None and not re.fullmatch(url_pattern, text):
            hint = "Load adapters from places that it allows"
            raise _bad(f"src={shown('', text)} does not match model_url_pattern={url_pattern}", hint)
        return cls(text, str(Path(model.folder) / text) if "://" not in text and model.folder else "")

    @property
    def shown(self) -> str:
        """As it may be told: without signatures and passwords."""
        return shown("", self.src)

    def place(self, progress: Progress) -> ModelFiles:
        """The files, listed; those of an archive are here. Blocking.

        Args:
            progress: told how far an archive's way here is.
        Raises:
            RequestError: there is nothing, or it cannot be read.
            NotReadyError: the place does not answer now.
        """
        try:
            return place_of(self.src, None, None, progress=progress)
        except ArtifactError as error:
            raise self._told(error) from error

    def fetch(self, place: ModelFiles, progress: Progress) -> Path:
        """A folder of this machine with what an engine reads of an adapter. Blocking.

        Args:
            place: of ``place``.
            progress: told how far the fetching is.
        Raises:
            RequestError: it cannot be had.
            NotReadyError: the place does not answer now.
        """
        try:
            return fetched(place, [name for name in (CONFIG, WEIGHTS[0]) if name in place.sizes], progress)
        except ArtifactError as error:
            raise self._told(error) from error

    def _told(self, error: ArtifactError) -> LmiError:
        message = f"{error.message}; nor is there a folder {self.beside}" if self.beside else error.message
        if error.code in _NOT_NOW:
            return NotReadyError("adapter.unreachable", message, error.hint)
        return _bad(message, error.hint)


def _bad(message: str, hint: str) -> RequestError:
    return RequestError("adapter.bad-source", message, hint)
