# SPDX-License-Identifier: Apache-2.0
"""Where a model's files are, brought to this machine if they are not."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from lmi.api import ArtifactError
from lmi.config.coerce import likely_mistake

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_ARCHIVES = (".tar.gz", ".tgz", ".zip", ".tar")


def model_root(folder: Path) -> Path:
    """The folder itself, or the one folder inside it where an archive wrapped everything once more."""
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if len(visible) == 1 and visible[0].is_dir():
        return visible[0]
    return folder


def is_local(model_id: str, beside: Path | None = None) -> bool:
    """Whether an id is a folder on this machine; relative ones are looked for beside serving.properties too."""
    return _local(model_id, beside) is not None


def locate(
    model_id: str | None, revision: str | None, model_folder: Path | None, *, weights: bool = True
) -> Path | None:
    """Find the folder with the model's files.

    Args:
        model_id: a folder, or ORG/NAME on the hub; None takes ``model_folder`` itself.
        revision: branch, tag or commit on the hub.
        model_folder: the folder that is served; it may hold nothing but serving.properties.
        weights: False leaves the weights of a hub model where they are: enough to choose and to configure by.
    Returns:
        An existing folder, or None where there is no model at all.
    Raises:
        ArtifactError: it is not there, cannot be reached, or is of a kind that cannot be read.
    """
    if model_id is None:
        return model_root(model_folder) if model_folder is not None else None
    local = _local(model_id, model_folder)
    if local is not None:
        return model_root(local)
    refusal = refused_location(model_id)
    if refusal is not None:
        raise refusal
    from lmi.artifacts.hub import fetch

    return fetch(model_id, revision, weights=weights)


def refused_location(model_id: str) -> ArtifactError | None:
    """Why no model can be had from a place that is no folder here; None where the hub can be asked for it."""
    scheme = _URL.match(model_id)
    if scheme is not None:
        message = f"models from {scheme[1].lower()}:// are not supported yet: {model_id}"
        return _failed("model.unsupported-location", message, "Copy the files to this machine and name their folder")
    if model_id.endswith(_ARCHIVES):
        return _failed("model.not-a-folder", f"'{model_id}' is not a folder", "Unpack it and name the folder")
    if exists(Path(model_id)):
        return _failed(
            "model.not-a-folder", f"'{model_id}' is not a folder", f"Name the folder it is in, {Path(model_id).parent}"
        )
    if not _HUB_ID.fullmatch(model_id):
        hint = likely_mistake(model_id) or "Check the path"
        return _failed("model.not-found", f"there is no folder '{model_id}'", hint)
    return None


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


def _local(model_id: str, beside: Path | None) -> Path | None:
    if _URL.match(model_id):
        return None
    candidates = [Path(model_id)]
    if model_id.startswith("~"):
        with contextlib.suppress(RuntimeError):  # there is no such user
            candidates = [Path(model_id).expanduser()]
    if beside is not None:
        candidates.append(beside / model_id)
    return next((path for path in candidates if is_folder(path)), None)


def _failed(code: str, message: str, hint: str) -> ArtifactError:
    return ArtifactError(code, message, [], hint)
