# SPDX-License-Identifier: Apache-2.0
"""What is known of each installed plugin, usable or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        hint: what to do about it; empty where only the traceback can tell.
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
    hint: str = ""
    traceback: str = ""
    info: BackendInfo | None = None

    @property
    def key(self) -> str:
        """Kind and name, which no other plugin has: ``backend:acme``."""
        return f"{self.kind.value}:{self.name}"

    @property
    def remedy(self) -> str:
        """What to do about a plugin that is not ready."""
        return self.hint or f"Full traceback: lmi plugins --check {self.name}"

    @property
    def package(self) -> str:
        """Distribution and version, as people say it: ``lmi-acme 0.1.0``."""
        return f"{self.distribution} {self.version}".strip()

    def unusable(self, state: State, code: str, reason: str, hint: str = "", traceback: str = "") -> PluginRecord:
        """This record with what makes its plugin unusable."""
        return replace(self, state=state, code=code, reason=reason, hint=hint, traceback=traceback)

    def error(self) -> PluginError:
        """The error for wanting this plugin although it is not ready."""
        if self.state is not State.BROKEN:
            return PluginError(self.code, self.reason, self.remedy)
        message = f"{self.package or self.name} is installed but {self.reason}. The other plugins are unaffected"
        return PluginError(self.code, message, self.remedy)
