# SPDX-License-Identifier: Apache-2.0
"""Progress that nobody looks at."""

from __future__ import annotations


def untold(model: str, stage: str, fraction: float | None = None) -> None:
    """See ``lmi.starting.ProgressOfModels``."""
