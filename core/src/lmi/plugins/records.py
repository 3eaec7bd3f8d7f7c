# SPDX-License-Identifier: Apache-2.0
"""What is known of each installed plugin, usable or not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lmi.api import BackendInfo, PluginError


class Kind(str, Enum):
    BACKEND = "backend"
    EXTENSION = "extension"


class State(str, Enum):
    """READY: usable. BROKEN: installed, but it cannot be used. BLOCKED: left out by LMI_EXTENSIONS, not imported.
    DUPLICATE: another distribution has the same name, neither is imported. MISSING: asked for, not installed.
    """

    READY = "ready"
    BROKEN = "broken"
    BLOCKED = "blocked"
    DUPLICATE = "duplicate"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One entry point.

    Args:
        kind: backend or extension.
        name: the entry point's name; for a backend also the backend's.
        distribution: the package it came with.
        version: of that package.
        state: whether it can be used.
        code: slug of what is wrong with it; empty when nothing is.
        reason: what is wrong, in words.
        traceback: the whole traceback where there is one.
        info: a ready backend's description.
    """

    kind: Kind
    name: str
    distribution: str
    version: str
    state: State
    code: str = ""
    reason: str = ""
    traceback: str = ""
    info: BackendInfo | None = None

    @property
    def package(self) -> str:
        """Distribution and version, as people say it: ``lmi-acme 0.1.0``."""
        return f"{self.distribution} {self.version}".strip()

    def error(self) -> PluginError:
        """The error for wanting this plugin although it is not ready."""
        if self.state is State.DUPLICATE:
            return PluginError(self.code, self.reason, "Uninstall one of them")
        if self.state is State.MISSING:
            return PluginError(self.code, self.reason, "Install it, or take its name out of LMI_EXTENSIONS")
        return PluginError(
            self.code,
            f"{self.package} is installed but {self.reason}. The other plugins are unaffected",
            f"Full traceback: lmi plugins --check {self.name}",
        )
