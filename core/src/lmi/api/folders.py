# SPDX-License-Identifier: Apache-2.0
"""Folders that the core and the backends share."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from lmi.api.artifacts import MANIFEST

_ROOTS = ("LMI_CACHE_DIR", "SERVING_DOWNLOAD_DIR", "DJL_CACHE_DIR")
_BESIDE_THE_CONFIGURATION = "default"
"""What SERVING_DOWNLOAD_DIR means by it is no place for a cache."""

_DOCUMENTS = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")
_OF_THE_FOLDER = (MANIFEST,)
"""What is true of the folder that it is in alone; and so is an index of weights."""


def cache_root(environ: Mapping[str, str]) -> Path:
    """The folder for everything that can be fetched or made again.

    Args:
        environ: LMI_CACHE_DIR, SERVING_DOWNLOAD_DIR and DJL_CACHE_DIR are looked at, in this order.
    """
    for name in _ROOTS:
        value = environ.get(name, "").strip()
        if value and value != _BESIDE_THE_CONFIGURATION:
            with contextlib.suppress(RuntimeError):  # there is no such user
                return Path(value).expanduser()
            return Path(value)
    try:
        return Path.home() / ".cache" / "lmi"
    except RuntimeError:  # a user without a home, as in some containers
        return Path(tempfile.gettempdir()) / "lmi"


def copy_documents(source: Path, target: Path, *, but: Collection[str] = ()) -> None:
    """Copy what makes a model of weights: its configuration, tokenizer, templates and code, but no weights.

    Files of the same names are replaced; folders below the source, and names that begin with a dot, are left alone.

    Args:
        source: a model's folder.
        target: a folder that is there.
        but: names that are not copied.
    Source:
        What LMI's partition script copies (json, txt and model), and the code and templates of newer models.
    """
    for path in sorted(source.iterdir()):
        is_left = path.name in (*but, *_OF_THE_FOLDER) or path.name.startswith(".") or path.name.endswith(".index.json")
        if path.name.endswith(_DOCUMENTS) and not is_left and path.is_file():
            shutil.copyfile(path, target / path.name)
