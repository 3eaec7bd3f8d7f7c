# SPDX-License-Identifier: Apache-2.0
"""Names of files that come from elsewhere: of an archive's entries, of adapters, of objects in a store.

Whoever wrote them may be no friend, so a name counts only where it stays below the folder it is put into.
"""

from __future__ import annotations

import re
from pathlib import Path

from lmi.api import ArtifactError

_DRIVE = re.compile(r"[A-Za-z]:")


def escape_in(name: str) -> str:
    """Why a name does not stay below the folder it is joined to; "" where it does."""
    escapes = {
        "holds a NUL": "\0" in name,
        "holds a backslash": "\\" in name,
        "is absolute": name.startswith("/"),
        "begins with a drive letter": _DRIVE.match(name) is not None,
        "leads out of its folder": ".." in name.split("/"),
        "is empty": not _parts(name),
    }
    return next((escape for escape, is_one in escapes.items() if is_one), "")


def safe_name(name: str) -> str:
    """A name that stays below whatever folder it is joined to.

    Args:
        name: as it came, with ``/`` between folders.
    Returns:
        The same without ``./`` and doubled ``/``.
    Raises:
        ArtifactError: it leads out of its folder, or is none.
    """
    escape = escape_in(name)
    if escape:
        raise ArtifactError(
            "artifacts.unsafe-name", f"the name {name!r} {escape}", [], "Give it a name below the model's folder"
        )
    return "/".join(_parts(name))


def inside(folder: Path, name: str) -> Path:
    """The path of a name below a folder, links resolved.

    Args:
        folder: the folder.
        name: as it came, with ``/`` between folders.
    Raises:
        ArtifactError: the name, or a link on its way, leads out of the folder.
    """
    path = folder / safe_name(name)
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise _leads_out(path, f"cannot be followed: {error}") from error
    if not resolved.is_relative_to(folder.resolve()):
        raise _leads_out(path, f"is a link to {resolved}, outside {folder}")
    return resolved


def _leads_out(path: Path, reason: str) -> ArtifactError:
    return ArtifactError("artifacts.unsafe-name", f"{path} {reason}", [], "Copy the file into the folder")


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]
