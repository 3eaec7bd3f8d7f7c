# SPDX-License-Identifier: Apache-2.0
"""Folders that the core and the backends share."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

_ROOTS = ("LMI_CACHE_DIR", "SERVING_DOWNLOAD_DIR", "DJL_CACHE_DIR")
_BESIDE_THE_CONFIGURATION = "default"
"""What SERVING_DOWNLOAD_DIR means by it is no place for a cache."""


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
