# SPDX-License-Identifier: Apache-2.0
"""Bytes and seconds as people read them."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30

_STEPS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def shown_bytes(n_bytes: float) -> str:
    """``13.5 GB``, ``0.82 MB``, ``131 kB``: three digits at most behind the first that is not zero."""
    for name, size in _STEPS:
        if n_bytes >= 0.1 * size and (n_bytes >= size or name in ("GB", "MB")):
            number = n_bytes / size
            return f"{number:.0f} {name}" if number >= 100 else f"{number:.3g} {name}"
    return f"{n_bytes:.0f} bytes"


def shown_compiling(seconds: float) -> str:
    """The least time that compiling takes: ``12 min at least``; ``minutes`` where that would be less than one, since
    compilers have a time of their own however small a model is."""
    return "minutes" if seconds < 60 else f"{shown_seconds(seconds)} at least"


def shown_seconds(seconds: float) -> str:
    """``45 s``, ``12 min``, ``1.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
