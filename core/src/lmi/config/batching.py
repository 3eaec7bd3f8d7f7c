# SPDX-License-Identifier: Apache-2.0
"""Continuous batching or whole batches: what ``rolling_batch=disable`` and ``batch_size`` come to.

A backend here runs requests together in any case. Where continuous batching is off, at most ``batch_size`` of them run
at the same time in one copy of the model.
"""

from __future__ import annotations

from dataclasses import replace

from lmi.api import BackendInfo, Problem, Severity
from lmi.config.coerce import is_true
from lmi.config.settings import Setting, Settings

OFF = "disable"
UNDECIDED = ("", "auto", OFF)
"""Values of ``option.rolling_batch`` that name no backend."""

_ALIAS = "max_dynamic_batch_size"


def with_batch_size(settings: Settings) -> tuple[Settings, list[Problem]]:
    """The settings with ``max_dynamic_batch_size`` as ``batch_size``, which wins where both are set."""
    alias, batch_size = settings.get(_ALIAS), settings.get("batch_size")
    if alias is None:
        return settings, []
    others = settings.without({_ALIAS})
    if batch_size is None:
        return others.replaced(replace(alias, key="batch_size")), []
    if batch_size.value == alias.value:
        return others, []
    overruled = Problem(
        code="config.overruled",
        message=f"batch_size={batch_size.value} ({batch_size.source}) is set too, and holds; "
        f"'{_ALIAS}={alias.value}' is left out",
        hint="Keep one of them",
        source=alias.source,
        severity=Severity.WARNING,
    )
    return others, [overruled]


def turned_off_by(settings: Settings, info: BackendInfo) -> Setting | None:
    """The setting that turns continuous batching off; None where it is on."""
    rolling_batch = settings.get("option.rolling_batch")
    named = "" if rolling_batch is None else rolling_batch.value.lower()
    if named not in UNDECIDED:
        return None
    if named == OFF:
        return None if _is_async(settings, info) else rolling_batch
    batch_size = settings.get("batch_size") or settings.get(_ALIAS)
    return batch_size if batch_size is not None and batch_size.value.isdecimal() and int(batch_size.value) > 1 else None


def _is_async(settings: Settings, info: BackendInfo) -> bool:
    entry_point = (settings.text("option.entryPoint") or "").lower()
    is_on = is_true(settings.text("option.async_mode") or "")
    return is_on or entry_point in (each.lower() for each in info.async_entry_points)
