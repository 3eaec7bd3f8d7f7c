# SPDX-License-Identifier: Apache-2.0
"""Find entry points, load each in a try of its own, and check that it keeps the hook specifications."""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any

import pluggy

import lmi
from lmi.api import BackendConfig, BackendInfo
from lmi.config.names import did_you_mean
from lmi.plugins.compatibility import CORE, other_core
from lmi.plugins.implementations import BadPluginError, check_hooks, new_pluggy
from lmi.plugins.records import Kind, PluginRecord, State

GROUPS = {Kind.BACKEND: "lmi.backends", Kind.EXTENSION: "lmi.extensions"}
ALLOW_LIST = "LMI_EXTENSIONS"


@dataclass(frozen=True)
class Found:
    """An entry point after loading: its record, and the plugin itself if it is ready."""

    record: PluginRecord
    plugin: Any = None


def discover(environ: Mapping[str, str], only_backend: str | None) -> list[Found]:
    """Load what is installed: backends by name, then extensions in the order they are called.

    Args:
        environ: read for LMI_EXTENSIONS and LMI_TRACE_HOOKS.
        only_backend: load this backend alone; the others are neither imported nor listed.
    """
    backends = [
        each for each in _find(Kind.BACKEND) if only_backend is None or each.record.name == only_backend
    ]  # fmt: skip
    extensions = _allowed(_find(Kind.EXTENSION), allow_list(environ))
    return [_load(each, environ) for each in backends + extensions]


def _find(kind: Kind) -> list[Found]:
    """Entry points of one kind by name, not yet imported; those with one name twice are marked and stay so."""
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry_point in entry_points(group=GROUPS[kind]):
        by_name[entry_point.name].append(entry_point)
    found = []
    for name in sorted(by_name):
        records = [_record(kind, entry_point) for entry_point in by_name[name]]
        if len(records) > 1:
            owners = " and ".join(sorted(record.package for record in records))
            reason = f"{kind.value} '{name}' is offered by {owners}"
            hint = "Uninstall one of them"
            records = [record.unusable(State.DUPLICATE, "plugin.duplicate", reason, hint) for record in records]
        found += [Found(record, point) for record, point in zip(records, by_name[name], strict=True)]
    return found


def _record(kind: Kind, entry_point: EntryPoint) -> PluginRecord:
    owner = entry_point.dist
    return PluginRecord(
        kind=kind,
        name=entry_point.name,
        distribution=_written(owner, "Name"),
        version=_written(owner, "Version"),
        state=State.READY,
    )


def _written(owner: Distribution | None, field: str) -> str:
    """A field of the metadata; "" where an uninstall that broke off left a folder without them."""
    metadata: Any = owner.metadata if owner else None
    return str(metadata[field]) if metadata and field in metadata else ""


def allow_list(environ: Mapping[str, str]) -> list[str] | None:
    """The extensions that LMI_EXTENSIONS names, in its order; None where it is unset, which allows all."""
    text = environ.get(ALLOW_LIST)
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _allowed(extensions: list[Found], wanted: list[str] | None) -> list[Found]:
    """Keep the wanted extensions in the wanted order; the others are blocked, so never imported."""
    if wanted is None:
        return extensions
    chosen = [each for name in wanted for each in extensions if each.record.name == name]
    blocked = [
        replace(each, record=replace(each.record, state=State.BLOCKED, reason=f"not named in {ALLOW_LIST}"))
        for each in extensions
        if each.record.name not in wanted
    ]
    installed = [each.record.name for each in extensions]
    missing = [Found(_missing(name, installed)) for name in wanted if name not in installed]
    return chosen + blocked + missing


def _missing(name: str, installed: list[str]) -> PluginRecord:
    near = did_you_mean(name, installed)
    reason = f"{ALLOW_LIST} names the extension '{name}', which is not installed"
    return PluginRecord(
        kind=Kind.EXTENSION,
        name=name,
        distribution="",
        version="",
        state=State.MISSING,
        code="plugin.not-installed",
        reason=f"{reason}. {near}" if near else reason,
        hint=f"Install it, or take its name out of {ALLOW_LIST}",
    )


def _load(found: Found, environ: Mapping[str, str]) -> Found:
    """Import one plugin and check it; whatever goes wrong stays in its record."""
    if found.record.state is not State.READY:
        return Found(found.record)
    if wanted := other_core(found.plugin.dist):
        return Found(_incompatible(found.record, wanted))
    try:
        plugin = found.plugin.load()
    except (Exception, SystemExit) as error:
        return Found(_broken(found.record, "plugin.import-failed", f"cannot be imported: {_said(error)}"))
    try:
        return Found(replace(found.record, info=_checked(plugin, found.record, environ)), plugin)
    except BadPluginError as error:
        if error.__cause__ is not None:
            return Found(_broken(found.record, error.code, str(error)))
        # Nothing but LMI's own lines would be in the traceback.
        hint = "Mend it, or install another version of it"
        return Found(found.record.unusable(State.BROKEN, error.code, str(error), hint))


def _incompatible(record: PluginRecord, wanted: str) -> PluginRecord:
    """The record of a plugin that was made for another version of the core, which is why it is not imported."""
    reason = f"was made for {CORE}{wanted}, and this is {CORE} {lmi.__version__}"
    hint = f"Let pip find a version that fits: pip install --upgrade {CORE}=={lmi.__version__} {record.distribution}"
    return record.unusable(State.BROKEN, "plugin.incompatible", reason, hint)


def _broken(record: PluginRecord, code: str, reason: str) -> PluginRecord:
    """To be called while the exception is handled: the record keeps its traceback."""
    return record.unusable(State.BROKEN, code, reason, traceback=traceback.format_exc())


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"


def _checked(plugin: Any, record: PluginRecord, environ: Mapping[str, str]) -> BackendInfo | None:
    """Check hooks, and a backend's description.

    Raises:
        BadPluginError: with everything that is wrong with its hooks, or the first thing with its description.
    """
    registry = new_pluggy(environ)
    check_hooks(registry, plugin, record.key)
    if record.kind is Kind.EXTENSION:
        return None
    for hook in ("lmi_describe_backend", "lmi_load_engine"):
        if not getattr(registry.hook, hook).get_hookimpls():
            raise BadPluginError("plugin.bad-hooks", f"it has no hook {hook}, which every backend needs")
    info = _answer(registry.hook.lmi_describe_backend, "lmi_describe_backend")
    if not isinstance(info, BackendInfo):
        raise BadPluginError("plugin.bad-description", f"lmi_describe_backend gave {info!r}, not a BackendInfo")
    if info.name != record.name:
        reason = f"its entry point is called '{record.name}' and it calls itself '{info.name}'; both must be the same"
        raise BadPluginError("plugin.bad-description", reason)
    config_type = _answer(registry.hook.lmi_config_type, "lmi_config_type")
    if config_type is not None and not (isinstance(config_type, type) and issubclass(config_type, BackendConfig)):
        raise BadPluginError(
            "plugin.bad-description", f"lmi_config_type gave {config_type!r}, not a BackendConfig class"
        )
    return info


def _answer(hook: pluggy.HookCaller, name: str) -> Any:
    try:
        return hook()
    except Exception as error:
        raise BadPluginError("plugin.hook-failed", f"its hook {name} failed: {_said(error)}") from error
