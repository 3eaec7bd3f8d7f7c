# SPDX-License-Identifier: Apache-2.0
"""Files that lie with a model and look as if they counted, and do not: each is told, none is a surprise."""

from __future__ import annotations

from pathlib import Path

from lmi.api import ArtifactError, Problem, Severity
from lmi.artifacts import exists, is_object_url, read_object
from lmi.artifacts.places.archives import is_archive
from lmi.artifacts.places.files import ModelFiles
from lmi.config import Settings
from lmi.config.model_entries import ModelEntry
from lmi.config.properties import FILE_NAME
from lmi.config.values import is_placeholder
from lmi.custom.source import FILE_NAME as CODE_NAME

_MODEL_ID = "option.model_id"
_GLANCE_S = 2.0
"""Longest time for a look whose result is no more than a warning."""


def unread_file(settings: Settings, folder: Path | None, url: str | None) -> list[Problem]:
    """A warning where the model lies beside a serving.properties that is not read: option.model_id led there.

    Args:
        settings: of the model.
        folder: the one whose serving.properties is read; None where there is none.
        url: of the model's entry, where that is no folder.
    """
    setting = settings.get(_MODEL_ID)
    if setting is None or setting.value == url or is_placeholder(setting.value):
        return []
    where = setting.value
    if is_object_url(where):
        try:
            is_there = read_object(where, FILE_NAME, timeout_s=_GLANCE_S) is not None
        except ArtifactError:  # which is told when the model is wanted
            is_there = False
    else:
        path = Path(where)
        is_there = exists(path / FILE_NAME) and (folder is None or path.resolve() != folder.resolve())
    if not is_there:
        return []
    return [
        Problem(
            code="config.file-not-read",
            message=f"{where} has a {FILE_NAME}, which is not read, because '{setting.key}' names that place",
            hint=f"Serve that place itself, as `lmi serve {where}` does, or write its lines where the others are",
            source=setting.source,
            severity=Severity.WARNING,
        )
    ]


def unread_elsewhere(entry: ModelEntry, files: ModelFiles) -> list[Problem]:
    """A warning for each file of an object store's prefix that would count in a folder of this machine.

    Args:
        entry: the model.
        files: its files.
    """
    # An archive is unpacked here before it is served, and its code is run like that of any folder.
    if files.is_here or entry.url is None or not is_object_url(entry.url) or is_archive(entry.url):
        return []
    found = []
    if CODE_NAME in files.sizes:
        hint = f"Put it into a folder here, with option.model_id={entry.url} in its {FILE_NAME}, and serve that"
        found.append((CODE_NAME, "is not run: a model's own code is taken from this machine alone", hint))
    return [
        Problem(
            code="config.file-not-read",
            message=f"{files.at(name)} {reason}",
            hint=hint,
            path=files.at(name),
            source=entry.source,
            severity=Severity.WARNING,
        )
        for name, reason, hint in found
    ]
