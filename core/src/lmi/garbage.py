# SPDX-License-Identifier: Apache-2.0
"""Python's garbage collector in a process that serves: what a start has made is not looked through again and again."""

from __future__ import annotations

import gc

_THRESHOLDS = (20_000, 25, 50)
"""Objects made before a collection of the youngest, and collections before one of the older generations. Python's own
numbers take a quarter of the CPU time of a server that streams."""


def settle() -> None:
    """Leave what is in memory now alone from here on; called when a start, a load or an unload is over.

    What has become garbage since the last call is freed, cycles of earlier calls included.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
