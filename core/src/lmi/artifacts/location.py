# SPDX-License-Identifier: Apache-2.0
"""Where a model's files are, brought to this machine if they are not."""

from __future__ import annotations

import re
from pathlib import Path

from lmi.api import ArtifactError

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
    scheme = _URL.match(model_id)
    if scheme is not None:
        message = f"models from {scheme[1].lower()}:// are not supported yet: {model_id}"
        raise _failed("model.unsupported-location", message, "Copy the files to this machine and name their folder")
    if Path(model_id).is_file() or model_id.endswith(_ARCHIVES):
        raise _failed("model.not-a-folder", f"'{model_id}' is not a folder", "Unpack it and name the folder")
    if not _HUB_ID.fullmatch(model_id):
        raise _failed("model.not-found", f"there is no folder '{model_id}'", "Check the path")
    from lmi.artifacts.hub import fetch

    return fetch(model_id, revision, weights=weights)


def _local(model_id: str, beside: Path | None) -> Path | None:
    if _URL.match(model_id):
        return None
    candidates = [Path(model_id).expanduser()]
    if beside is not None:
        candidates.append(beside / model_id)
    return next((path for path in candidates if path.is_dir()), None)


def _failed(code: str, message: str, hint: str) -> ArtifactError:
    return ArtifactError(code, message, [], hint)
