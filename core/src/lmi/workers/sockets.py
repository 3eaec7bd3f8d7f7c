# SPDX-License-Identifier: Apache-2.0
"""Where sockets of this machine lie."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_MOST_BYTES = 107
"""Of a socket's path. Source: unix(7), sun_path, less its NUL."""
_OWN_BYTES = 40
"""What LMI adds to the folder of temporary files: a folder of its own, and the socket's name."""
_SHORT = "/tmp"  # noqa: S108 - folders in it are made by tempfile


def folder_of_sockets() -> str:
    """The folder for temporary files, or ``/tmp`` where its path is too long for that of a socket in it."""
    usual = tempfile.gettempdir()
    is_short = len(os.fsencode(usual)) + _OWN_BYTES <= _MOST_BYTES
    return usual if is_short or not Path(_SHORT).is_dir() else _SHORT
