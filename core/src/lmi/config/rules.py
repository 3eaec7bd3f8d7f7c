# SPDX-License-Identifier: Apache-2.0
"""Rules over several options at once. A rule is a function in ``RULES``; each sees typed options only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lmi.api import BackendConfig, Problem
from lmi.config.options import ModelOptions
from lmi.config.settings import Settings

Rule = Callable[[ModelOptions, BackendConfig, Settings], Iterator[Problem]]


def workers_in_order(options: ModelOptions, config: BackendConfig, settings: Settings) -> Iterator[Problem]:
    """No more copies are started than there may be."""
    if options.min_workers > options.max_workers:
        yield Problem(
            code="config.conflict",
            message=f"minWorkers={options.min_workers} is more than maxWorkers={options.max_workers}",
            hint="Lower minWorkers or raise maxWorkers",
            source=sources(settings, "minWorkers", "maxWorkers"),
        )


def sources(settings: Settings, *keys: str) -> str:
    """Where the given keys were set, in their order."""
    return ", ".join(settings[key].source for key in keys if key in settings)


RULES: tuple[Rule, ...] = (workers_in_order,)
