# SPDX-License-Identifier: Apache-2.0
"""What is below a prefix of an object store: names that can be files, with the content each stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmi.api import ArtifactError
from lmi.artifacts.places.names import escape_in
from lmi.artifacts.places.stores import Absent, Location, Store, asked, head
from lmi.config.names import nearest

_N_FILES = 20_000
"""More files than that are no model, but a bucket."""

_PAGE = 1000
_FIRST_PRINTABLE = 32
_MAX_PART_BYTES = 255
"""The longest name of a file or a folder that file systems take."""


@dataclass(frozen=True, kw_only=True)
class ObjectVersion:
    """Which content an object had when it was listed.

    Args:
        key: of the object, from the root of its bucket.
        n_bytes: its size.
        etag: what the store calls the content; "" where it does not.
        modified: when it was written.
    """

    key: str
    n_bytes: int
    etag: str
    modified: str

    @property
    def identity(self) -> str:
        """A text that differs where the content does."""
        return f"{self.n_bytes} {self.etag or self.modified}"


def listed(store: Store, location: Location) -> dict[str, ObjectVersion]:
    """The files below a prefix, by their names relative to it; hidden ones and what only stands for a folder left out.

    Args:
        store: it is in.
        location: of the prefix.
    Raises:
        ArtifactError: there are none, or one cannot be a file; the store cannot be reached, or does not let us in.
    """
    n = len(location.key) + 1 if location.key else 0
    found = asked(store, location.url, lambda: _pages(store, location))
    kept = {each["path"][n:]: version_of(each) for each in found if len(each["path"]) > n}
    kept = {name: version for name, version in kept.items() if not _is_hidden(name)}
    folders = {name[:i] for name in kept for i, letter in enumerate(name) if letter == "/"}
    for name in [name for name, version in kept.items() if not version.n_bytes]:
        # The object ``x/`` of no bytes, by which some programs make a folder, is listed as ``x``.
        if name in folders or ("." not in name.rpartition("/")[2] and _is_marker(store, location, kept[name])):
            del kept[name]
    for name in kept:
        _judge(name, location, is_folder=name in folders)
    if not kept:
        raise _nothing(store, location)
    return dict(sorted(kept.items()))


def single(store: Store, location: Location) -> ObjectVersion:
    """The one object at a location.

    Raises:
        ArtifactError: there is none; the store cannot be reached, or does not let us in.
    """
    try:
        return version_of(head(store, location))
    except Absent as error:
        raise ArtifactError("model.not-found", f"there is no {location.url}", [], "Check the spelling") from error


def version_of(found: Any) -> ObjectVersion:
    """What obstore tells of an object."""
    return ObjectVersion(
        key=found["path"],
        n_bytes=found["size"],
        etag=found["e_tag"] or "",
        modified=found["last_modified"].isoformat(),
    )


def _pages(store: Store, location: Location) -> list[Any]:
    import obstore

    found: list[Any] = []
    for page in obstore.list(store.opened(), location.key or None, chunk_size=_PAGE):
        found += page
        if len(found) > _N_FILES:
            message = f"there are more than {_N_FILES} files below {location.url}"
            raise ArtifactError("model.too-many-files", message, [], "Name the prefix of the model itself")
    return found


def _judge(name: str, location: Location, *, is_folder: bool) -> None:
    reason = escape_in(name)
    if not reason and any(ord(character) < _FIRST_PRINTABLE for character in name):
        reason = "holds a control character"
    if not reason and any(len(part.encode("utf-8", "replace")) > _MAX_PART_BYTES for part in name.split("/")):
        reason = f"has more than {_MAX_PART_BYTES} bytes between two '/'"
    if not reason and is_folder:
        reason = "is that of a folder too"
    if reason:
        message = f"{location.url} holds an object that cannot be a file: its name {name!r} {reason}"
        raise ArtifactError("artifacts.unsafe-name", message, [], "Rename or delete the object")


def _nothing(store: Store, location: Location) -> ArtifactError:
    """Nothing is below the prefix: there is an object of that name, or a prefix nearly of that name, or neither."""
    above = location.url.rpartition("/")[0]
    near = ""
    if location.key:
        try:
            head(store, location)
        except (ArtifactError, Absent):
            near = nearest(location.key.rpartition("/")[2], _beside(store, location))
        else:
            message = f"{location.url} is one object, not the prefix of a model's files"
            return ArtifactError("model.not-a-folder", message, [], f"Name {above}/")
    hint = f"Did you mean {above}/{near}?" if near else "Check the spelling"
    return ArtifactError("model.not-found", f"there are no files below {location.url}", [], hint)


def _beside(store: Store, location: Location) -> list[str]:
    import obstore

    above = location.key.rpartition("/")[0]
    try:
        found = asked(store, location.url, lambda: obstore.list_with_delimiter(store.opened(), above or None))
    except (ArtifactError, Absent):  # who may not look around can do without the hint
        return []
    return [str(each).rstrip("/").rpartition("/")[2] for each in found["common_prefixes"]]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _is_marker(store: Store, location: Location, version: ObjectVersion) -> bool:
    try:
        head(store, Location(location.root, version.key))
    except Absent:
        return True
    return False
