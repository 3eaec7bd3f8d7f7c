# SPDX-License-Identifier: Apache-2.0
"""The folder that a build ends in: there as a whole, or without the manifest that says so."""

from __future__ import annotations

import contextlib
import filecmp
import os
from pathlib import Path

from lmi.api import MANIFEST

_COPIED = (".json", ".txt", ".model", ".jinja")
"""Endings of what is copied with a build. Source: LMI's partition script, for all but the last."""
_OF_A_DISK = "lost+found"


def is_fixed(target: Path) -> bool:
    """Whether a folder cannot be replaced, only filled: a volume of a container, or the one thing that is writable."""
    return target.is_dir() and (target.is_mount() or not os.access(target.parent, os.W_OK))


def part_of(target: Path) -> str:
    """What the name of a folder begins with in which a build for this one is made."""
    return f".{target.name}.part-"


def is_empty(target: Path) -> bool:
    """Whether a folder holds nothing but builds that broke off."""
    mine = part_of(target)
    return all(path.name == _OF_A_DISK or path.name.startswith(mine) for path in target.iterdir())


def put(built: Path, target: Path) -> None:
    """Move a build to its place.

    Args:
        built: the folder, on the same disk.
        target: nothing, or an empty folder. One that can only be filled gets the manifest last.
    """
    if not is_fixed(target):
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
        built.rename(target)
        return
    for path in sorted(built.iterdir(), key=lambda each: each.name == MANIFEST):
        path.rename(target / path.name)


def remove_copies(built: Path, source: Path) -> None:
    """Take out of a build what is just a document of the model's; its ``config.json`` says what it is, and stays.

    Args:
        built: the folder.
        source: of the model.
    """
    for path in [*built.rglob("*")]:
        original = source / path.name
        is_document = path.suffix in _COPIED and path.name != "config.json" and path.is_file()
        if is_document and original.is_file() and filecmp.cmp(path, original, shallow=False):
            path.unlink()
