# SPDX-License-Identifier: Apache-2.0
"""The plugins of one process, and which of their hooks may be called for whom."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pluggy

from lmi.api import BackendConfig, BackendInfo, ModelArtifacts, PluginError, Problem, Severity, Target
from lmi.config.settings import Settings
from lmi.plugins import discovery
from lmi.plugins.choice import Choice, choose, wanted
from lmi.plugins.implementations import BadPluginError, check_hooks, hook_names, is_traced, new_pluggy, trace
from lmi.plugins.records import Kind, PluginRecord, State


class Plugins:
    """What is installed and usable. Make it with ``discover``; nothing is kept between two of them."""

    def __init__(self, found: list[discovery.Found], environ: Mapping[str, str]) -> None:
        """Args:
        found: what was discovered, extensions in the order of their calls.
        environ: see ``discover``; extensions that it names must be usable.
        """
        self._required = frozenset(discovery.allow_list(environ) or [])
        self.records: tuple[PluginRecord, ...] = tuple(each.record for each in found)
        self.backends: dict[str, BackendInfo] = {r.name: r.info for r in self.records if r.info is not None}
        self._features = tuple(environ.get("SERVING_FEATURES", "").split(","))
        self._pluggy = new_pluggy(environ)
        self._is_traced = is_traced(environ)
        self._backend_plugins: dict[str, Any] = {}
        # pluggy calls the last registered first, so registering backwards calls extensions in their order.
        for each in reversed(found):
            if each.record.state is not State.READY:
                continue
            self._pluggy.register(each.plugin, each.record.key)
            if each.record.kind is Kind.BACKEND:
                self._backend_plugins[each.record.name] = each.plugin

    @property
    def extensions(self) -> list[str]:
        """Names of the usable extensions, in the order of their calls."""
        return [r.name for r in self.records if r.kind is Kind.EXTENSION and r.state is State.READY]

    @classmethod
    def discover(cls, environ: Mapping[str, str] = os.environ, *, only_backend: str | None = None) -> Plugins:
        """Load what is installed.

        Args:
            environ: LMI_EXTENSIONS (unset: all; ``a,b``: these, in this order; empty: none), LMI_TRACE_HOOKS=1
                (print each hook call to stderr) and SERVING_FEATURES (backends that the image announces).
            only_backend: load this backend alone, as a worker does.
        """
        return cls(discovery.discover(environ, only_backend), environ)

    def register(self, plugin: Any, name: str) -> None:
        """Add hooks that no entry point brings: the core's own, or a model's.

        They are called before all others unless marked ``@hookimpl(trylast=True)``, as the core's defaults must be.

        Raises:
            PluginError: a hook or one of its parameters does not exist.
        """
        try:
            check_hooks(new_pluggy(), plugin, name)
        except BadPluginError as error:
            raise PluginError(error.code, f"plugin '{name}': {error}") from error
        self._pluggy.register(plugin, name)

    def hooks(self, backend_name: str) -> pluggy.HookRelay:
        """Every hook as this backend, the extensions and the core implement it; no other backend is asked.

        Raises:
            PluginError: the backend is not installed or cannot be used.
        """
        if backend_name not in self._backend_plugins:
            raise self.unusable(backend_name)
        return self._without(each for name, each in self._backend_plugins.items() if name != backend_name)

    @property
    def extension_hooks(self) -> pluggy.HookRelay:
        """Every hook as the extensions and the core implement it."""
        return self._without(self._backend_plugins.values())

    def in_order(self, hook: str) -> list[Callable[..., Any]]:
        """Each extension's implementation of a hook, in the order of their calls; all parameters are given by name.

        For hooks that get each other's answers, which pluggy cannot do.
        """
        caller: pluggy.HookCaller = getattr(self.extension_hooks, hook)
        return [self._by_name(hook, each) for each in reversed(caller.get_hookimpls())]

    def _by_name(self, hook: str, implementation: pluggy.HookImpl) -> Callable[..., Any]:
        names, function, traces = implementation.argnames, implementation.function, self._is_traced

        def call(**arguments: Any) -> Any:
            if traces:
                trace(hook, [implementation])
            return function(*(arguments[name] for name in names))

        return call

    def config_type(self, backend_name: str) -> type[BackendConfig]:
        """The class of a backend's options; BackendConfig itself where it adds none."""
        found: type[BackendConfig] | None = self.hooks(backend_name).lmi_config_type()
        return found or BackendConfig

    def config_types(self) -> dict[str, type[BackendConfig]]:
        """The options of every usable backend, by its name."""
        return {name: self.config_type(name) for name in self.backends}

    def choose(self, settings: Settings, artifacts: ModelArtifacts | None, target: Target) -> Choice:
        """The backend for a model: the one that is asked for, else the one that fits best.

        Args:
            settings: ``option.rolling_batch``, ``option.entryPoint``, ``engine`` and ``option.mpi_mode`` are read.
            artifacts: what the model is; None where there is none or it is not known yet.
            target: the machine.
        Raises:
            PluginError: the wanted backend is missing or broken, or none fits.
            ConfigError: nothing is asked for and there is no model to choose by.
        """
        return choose(self.records, settings, artifacts, target, features=self._features)

    def wanted(self, settings: Settings, target: Target) -> Choice | None:
        """The backend that the settings ask for, before anything is known of the model; None where they do not.

        Raises:
            PluginError: it is missing or broken.
        """
        return wanted(self.records, settings, None, target, features=self._features)

    def unusable(self, backend_name: str) -> PluginError:
        """The error for wanting a backend by its name when it is not ready."""
        for record in self.records:
            if record.kind is Kind.BACKEND and record.name == backend_name:
                return record.error()
        return PluginError(
            "plugin.not-installed",
            f"backend '{backend_name}' is not installed",
            f"Install it into the environment of {sys.executable}",
        )

    def extension_problems(self) -> list[Problem]:
        """Warnings for extensions that cannot be used.

        Raises:
            PluginError: one of them is named in LMI_EXTENSIONS; to go on without a wanted guardrail is no choice.
        """
        unusable = (State.BROKEN, State.DUPLICATE, State.MISSING)
        extensions = [r for r in self.records if r.kind is Kind.EXTENSION and r.state in unusable]
        for record in extensions:
            if record.name in self._required:
                raise record.error()
        return [
            Problem(
                code=record.code,
                message=f"extension '{record.name}' of {record.package} is left out: {record.reason}",
                hint=record.remedy,
                severity=Severity.WARNING,
            )
            for record in extensions
        ]

    def _without(self, left_out: Iterable[Any]) -> pluggy.HookRelay:
        plugins = list(left_out)
        relay = pluggy.HookRelay()
        for name in hook_names():
            setattr(relay, name, self._pluggy.subset_hook_caller(name, plugins))
        return relay
