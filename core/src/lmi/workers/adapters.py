# SPDX-License-Identifier: Apache-2.0
"""The adapters of one worker: what it loads before it is ready, and what the server knows of it afterwards."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from lmi.api.abilities import SupportsAdapters
from lmi.api.backend import Progress
from lmi.api.engine import Engine
from lmi.api.errors import EngineDeadError, EngineLoadError, LmiError, OutOfMemoryError, PluginError
from lmi.workers.wire import ErrorReport, Load

_LOG = logging.getLogger(__name__)


async def load_adapters(engine: Engine, load: Load, progress: Progress) -> dict[str, ErrorReport]:
    """Load the adapters a worker starts with, one after the other.

    Args:
        engine: loaded, and idle.
        load: says which, and whether the model can do without.
        progress: told which one is loaded.
    Returns:
        What could not be loaded, and why; always empty where the model cannot do without.
    Raises:
        EngineLoadError, OutOfMemoryError: an adapter that is needed could not be loaded; its name is in the message.
        EngineDeadError: the engine did not survive it.
    """
    if not load.adapters:
        return {}
    if not isinstance(engine, SupportsAdapters):
        raise PluginError(
            "plugin.hook-failed",
            f"{load.backend} declares adapters, and its engine has no load_adapter",
            "A fault of the plugin: give the engine the methods of SupportsAdapters",
        )
    lost: dict[str, ErrorReport] = {}
    for number, (name, path) in enumerate(load.adapters.items()):
        progress(f"load adapter {name}", number / len(load.adapters))
        try:
            await engine.load_adapter(name, path)
        except EngineDeadError:
            raise
        except Exception as error:
            failure = not_loadable(name, path, error)
            if load.needs_adapters:
                raise failure from error
            _LOG.exception("the model goes on without an adapter")
            lost[name] = ErrorReport.of(failure)
    return lost


def not_loadable(name: str, path: str, error: Exception) -> LmiError:
    """What says that an engine could not load an adapter, and which.

    Args:
        name: of the adapter.
        path: its folder.
        error: what the engine raised.
    """
    told = error.message if isinstance(error, LmiError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, LmiError) else ""
    says_which = repr(name) in told and path in told
    message = told if says_which else f"adapter {name!r} could not be loaded from {path}: {told}"
    if isinstance(error, OutOfMemoryError):
        return OutOfMemoryError("engine.out-of-memory", message, hint or "Remove adapters that are not needed")
    return EngineLoadError("adapter.not-loadable", message, hint or "Check that it is an adapter of this model")


class HeldAdapters:
    """The adapters that one worker holds, as the server knows them.

    Args:
        call: calls a method of the worker's ability ``adapters`` with arguments.
    """

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call
        self.paths: dict[str, str] = {}
        """Name -> path of what is loaded."""
        self.failures: dict[str, LmiError] = {}
        """Name -> why it is not, of those that were wanted when the worker started."""

    def begin(self, asked: Mapping[str, str], lost: Mapping[str, ErrorReport]) -> None:
        """The worker has loaded what it was asked to, but for some."""
        self.paths = {name: path for name, path in asked.items() if name not in lost}
        self.failures = {name: report.error() for name, report in lost.items()}

    async def load(self, name: str, path: str) -> None:
        """Load one; what may be left under its name, because it could not be unloaded, goes first.

        Raises:
            LmiError: the worker could not.
        """
        await self.unload(name)
        await self._call("load_adapter", name, path)
        self.paths[name] = path

    async def unload(self, name: str) -> None:
        """Unload one; nothing happens where the worker has none of that name.

        Raises:
            LmiError: the worker could not.
        """
        self.failures.pop(name, None)
        if name in self.paths:
            await self._call("unload_adapter", name)
            self.paths.pop(name, None)

    async def follow(self, wanted: Callable[[], Mapping[str, str]], show: Callable[[str], None]) -> None:
        """Load and unload until the worker holds what is wanted, which may change meanwhile.

        When this returns, ``wanted`` was asked after the last change, and nothing ran in between.

        Args:
            wanted: name -> path.
            show: told what is done.
        Raises:
            LmiError: one could not be unloaded. One that cannot be loaded is among ``failures``.
            EngineDeadError: the worker died.
        """
        while True:
            now = wanted()
            extra = next((name for name, path in self.paths.items() if now.get(name) != path), None)
            if extra is not None:
                show(f"unload adapter {extra}")
                await self.unload(extra)
                continue
            name = next((name for name in now if name not in self.paths and name not in self.failures), None)
            if name is None:
                return
            show(f"load adapter {name}")
            try:
                await self.load(name, now[name])
            except EngineDeadError:
                raise
            except LmiError as error:
                self.failures[name] = not_loadable(name, now[name], error)
                _LOG.error("the model goes on without an adapter: %s", self.failures[name])
