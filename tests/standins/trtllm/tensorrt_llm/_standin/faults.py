# SPDX-License-Identifier: Apache-2.0
"""What the stand-in can be told to do wrong, by variables; unset, nothing goes wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

OUT_OF_MEMORY = "LMI_STANDIN_OUT_OF_MEMORY"
"""Any value: loading fails for want of memory, in the worker's words behind the executor's."""

BUILD_S = "LMI_STANDIN_BUILD_S"
"""Seconds that building engines takes."""

STEP_S = "LMI_STANDIN_STEP_S"
"""Seconds that a step takes."""

DEATH_FILE = "LMI_STANDIN_DEATH_FILE"
"""A file: the executor dies, and removes it, at the first step with a request of DEATH_AFTER ids or more."""

DEATH_AFTER = 8

DEAF = "LMI_STANDIN_DEAF"
"""Any value: weights taken as they are answer without the adapter that a request names, and say nothing."""


def load() -> None:
    """Raise what the library raises where memory runs out while it loads."""
    if os.environ.get(OUT_OF_MEMORY):
        cause = MemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.21 GiB free (stand-in)")
        raise RuntimeError("Executor worker returned error") from cause


def build() -> None:
    time.sleep(float(os.environ.get(BUILD_S, "0")))


def hears_adapters() -> bool:
    return not os.environ.get(DEAF)


def step_s() -> float:
    return float(os.environ.get(STEP_S, "0.001"))


def dies_now(n_longest: int) -> bool:
    """Whether the executor shall die at this step; only once, whatever process asks."""
    name = os.environ.get(DEATH_FILE)
    if not name or n_longest < DEATH_AFTER or not Path(name).exists():
        return False
    Path(name).unlink(missing_ok=True)
    return True
