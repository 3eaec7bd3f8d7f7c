# SPDX-License-Identifier: Apache-2.0
"""Which settings name a backend, and the values of them that a backend answers to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lmi.api import BackendInfo

ROLLING_BATCH = "option.rolling_batch"
ENTRY_POINT = "option.entryPoint"
ENGINE = "engine"


@dataclass(frozen=True)
class Selector:
    """One of these settings."""

    key: str
    names: Callable[[BackendInfo], tuple[str, ...]]

    def selects(self, value: str, info: BackendInfo) -> bool:
        """Whether a backend answers to a value; case does not count."""
        return value.lower() in (name.lower() for name in self.names(info))


SELECTORS = (
    Selector(ROLLING_BATCH, lambda info: (info.name, *info.rolling_batch)),
    Selector(ENTRY_POINT, lambda info: info.entry_points),
    Selector(ENGINE, lambda info: (info.name, *info.engine_names)),
)
"""In the order of their weight: a later one narrows what an earlier one left."""
