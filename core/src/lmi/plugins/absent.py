# SPDX-License-Identifier: Apache-2.0
"""The errors for a backend that is wanted and not there: what is there, and how to get it.

The core knows no backend; which package brings which is data, in known.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lmi.api import Accelerator, BackendInfo, PluginError, Task
from lmi.config.batching import UNDECIDED
from lmi.config.coerce import likely_mistake
from lmi.config.names import nearest
from lmi.config.settings import Setting
from lmi.plugins.records import Kind, PluginRecord, State
from lmi.plugins.selectors import ENTRY_POINT, ROLLING_BATCH, SELECTORS

_FILE = Path(__file__).with_name("known.json")


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_FILE.read_text("utf-8"))
    return table


def packages_of(key: str, value: str) -> list[str]:
    """The packages of this project whose backends answer to a value of this setting."""
    return [each["package"] for each in _table()["packages"] if value.lower() in each[key]]


def entry_points_of(rolling_batch: str) -> list[str]:
    """The entry points under which this project's backends of that name are found."""
    found = [each for each in _table()["packages"] if rolling_batch.lower() in each[ROLLING_BATCH]]
    return [entry_point for each in found for entry_point in each["option.entryPoint"]]


def known_backends() -> list[tuple[BackendInfo, str]]:
    """This project's backends with their packages, as far as it takes to rank them where they are not installed."""
    return [(_described(each), entry["package"]) for entry in _table()["packages"] for each in entry["backends"]]


def _described(entry: dict[str, Any]) -> BackendInfo:
    lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
    accelerators = tuple(Accelerator(each) for each in entry["accelerators"])
    tasks = tuple(Task(each) for each in entry.get("tasks", (Task.GENERATE,)))
    return BackendInfo(**{"summary": "", **entry, **lists, "accelerators": accelerators, "tasks": tasks})


def not_served(setting: Setting) -> PluginError | None:
    """The error for something of LMI's that has no backend and gets none; None for anything else."""
    for value, what in _table()["not_served"][setting.key].items():
        if value.lower() == setting.value.lower():
            return PluginError(
                "plugin.not-served",
                f"{setting.key}={setting.value} ({setting.source}) stands for {what}, which LMI does not serve",
                "Serve a language model, or write a model.py with a function handle",
            )
    return None


def not_installed(setting: Setting, records: Sequence[PluginRecord]) -> PluginError:
    """A wanted backend that cannot be used: broken and duplicate ones are told from absent ones."""
    backends = [record for record in records if record.kind is Kind.BACKEND]
    for record in backends:
        if record.name == setting.value.lower() and record.state is not State.READY:
            return record.error()
    refused = not_served(setting)
    if refused is not None:
        return refused
    ready = {record.name: record for record in backends if record.info is not None}
    installed = ", ".join(f"{name} ({record.package})" for name, record in ready.items()) or "none"
    name = setting.key.removeprefix("option.")
    message = f"{name}={setting.value} ({setting.source}) needs a backend that is not installed. Installed: {installed}"
    message += broken(records)
    return PluginError("plugin.not-installed", message, _hint(setting, [r.info for r in ready.values() if r.info]))


def _hint(setting: Setting, infos: Sequence[BackendInfo]) -> str:
    packages = packages_of(setting.key, setting.value)
    if packages:
        return f"Try: pip install {' or '.join(packages)}"
    if mistake := likely_mistake(setting.value):
        return mistake
    entry_point = f"djl_python.{setting.value.lower()}"
    if setting.key == ROLLING_BATCH and packages_of(ENTRY_POINT, entry_point):
        return f"Set {ENTRY_POINT}={entry_point}, which is a module and no way of batching"
    selector = next(each for each in SELECTORS if each.key == setting.key)
    known = [value for each in _table()["packages"] for value in each[setting.key]]
    near = nearest(setting.value, [*known, *(value for info in infos for value in selector.names(info))])
    if near:
        return f"Did you mean '{near}'?"
    if setting.key != ROLLING_BATCH:
        return "Install the backend that has this name"
    value = setting.value.lower()
    return f"Try: pip install {value if value.startswith('lmi-') else f'lmi-{value}'}"


def not_under(setting: Setting, entry: Setting, infos: Sequence[BackendInfo]) -> PluginError:
    """The error for a value of rolling_batch that the entry point does not have."""
    values = dict.fromkeys(name for info in infos for name in (info.name, *info.rolling_batch))
    choices = ", ".join(each for each in (*UNDECIDED, *values) if each)
    message = (
        f"rolling_batch={setting.value} ({setting.source}) is not among what entryPoint={entry.value} "
        f"({entry.source}) takes: {choices}"
    )
    if packages_of(ROLLING_BATCH, setting.value):
        return PluginError("plugin.conflict", message, f"Take {entry.key} out: {setting.key} alone selects a backend")
    near = nearest(setting.value, values)
    return PluginError("plugin.conflict", message, f"Did you mean '{near}'?" if near else "Set one of these")


def broken(records: Sequence[PluginRecord], *, start: str = ". ") -> str:
    """A sentence on backends that are there and cannot be used; one of them may be the wanted one."""
    found = [record for record in records if record.kind is Kind.BACKEND and record.state is State.BROKEN]
    listed = "; ".join(f"{record.name} ({record.package}): {record.reason}" for record in found)
    return f"{start}Broken: {listed}" if listed else ""


def none_installed(records: Sequence[PluginRecord]) -> PluginError:
    """The error where no backend is usable."""
    backends = [record for record in records if record.kind is Kind.BACKEND]
    if not backends:
        return PluginError(
            "plugin.none-installed",
            "no backend is installed, so nothing can be served",
            "Install one for your device: backends are packages called lmi-<name>, the README lists them",
        )
    listed = "; ".join(f"{record.name} ({record.package}): {record.reason}" for record in backends)
    return PluginError("plugin.none-usable", f"no installed backend can be used. {listed}", "Run: lmi plugins")
