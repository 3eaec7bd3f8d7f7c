# SPDX-License-Identifier: Apache-2.0
"""The adapters of one worker: what it loads before it is ready, and what the server knows of it afterwards."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from lmi.api.abilities import SupportsAdapters
from lmi.api.engine import Engine
from lmi.api.errors import EngineDeadError, EngineLoadError, LmiError, OutOfMemoryError, PluginError
from lmi.workers.wire import ErrorReport, Load, Loading

RETRY_S = 30.0
"""How long a worker leaves an adapter alone that it could not load."""

PINNED = "pinned-adapters"
"""The ability of engines that can pin adapters."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class WantedAdapter:
    """What a worker is to have under a name.

    Args:
        path: folder on this machine.
        is_pinned: it makes no room for others.
    """

    path: str
    is_pinned: bool = False


async def load_adapters(engine: Engine, load: Load, send: Callable[[Loading], None]) -> dict[str, ErrorReport]:
    """Load the adapters a worker starts with, one after the other.

    Args:
        engine: loaded, and idle.
        load: says which, and whether the model can do without.
        send: tells the server which one is loaded.
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
        send(Loading(f"load adapter {name}", number / len(load.adapters), name))
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
        call: calls a method of an ability of the worker with arguments.
    """

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call
        self.paths: dict[str, str] = {}
        """Name -> path of what is loaded."""
        self.pinned: Set[str] = set()
        """Those of them that are pinned."""
        self.failures: dict[str, LmiError] = {}
        """Name -> why it is not, of those that were wanted when the worker started."""
        self.loading: Set[str] = set()
        """Those whose load has begun and not ended; of a worker that is dead, what it did not survive."""
        self._doubtful: set[str] = set()
        """Those whose load or unload failed or was broken off: the engine is asked what it has."""
        self._perhaps_pinned: set[str] = set()
        """Those whose pin failed or was broken off: the engine is told once more what holds."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tried_s = 0.0
        self._is_trying = False

    def begin(self, asked: Mapping[str, str], lost: Mapping[str, ErrorReport]) -> None:
        """The worker has loaded what it was asked to, but for some."""
        self.paths = {name: path for name, path in asked.items() if name not in lost}
        self.failures = {name: report.error() for name, report in lost.items()}
        self.pinned, self.loading = set(), set()
        self._tried_s = time.monotonic()

    def hold(self, names: Set[str]) -> bool:
        """Whether the worker has all of these."""
        return names <= self.paths.keys()

    def _lock(self, name: str) -> asyncio.Lock:
        """Held by whoever changes what the worker has under a name."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def load(self, name: str, wanted: WantedAdapter) -> None:
        """Load one, and pin it if that is wanted; what may be left under its name, because it could not be unloaded,
        goes first.

        Raises:
            LmiError: the worker could not.
        """
        async with self._lock(name):
            await self._load(name, wanted.path)
            await self._pin(name, is_pinned=wanted.is_pinned)

    async def pin(self, name: str, *, is_pinned: bool) -> None:
        """Pin one, or let it go; nothing happens where the worker has none of that name.

        Raises:
            LmiError: the worker could not.
        """
        async with self._lock(name):
            if name in self.paths:
                await self._pin(name, is_pinned=is_pinned)

    async def unload(self, name: str) -> None:
        """Unload one, after its load if that was given up; nothing happens where the worker has none of that name.

        Raises:
            LmiError: the worker could not.
        """
        async with self._lock(name):
            self.failures.pop(name, None)
            await self._unload(name)

    async def follow(self, wanted: Callable[[], Mapping[str, WantedAdapter]], show: Callable[[str], None]) -> None:
        """Load and unload until the worker holds what is wanted, which may change meanwhile.

        When this returns, ``wanted`` was asked after the last change, and nothing ran in between.

        Args:
            wanted: name -> what is to be there.
            show: told what is done.
        Raises:
            LmiError: one could not be unloaded. One that cannot be loaded is among ``failures``; one that cannot be
                pinned is there without that.
            EngineDeadError: the worker died.
        """
        unpinnable: set[str] = set()
        while True:
            now = wanted()
            extra = next((name for name, path in self.paths.items() if name not in now or now[name].path != path), None)
            if extra is not None:
                show(f"unload adapter {extra}")
                await self.unload(extra)
                continue
            name = next((name for name in now if name not in self.paths and name not in self.failures), None)
            if name is not None:
                show(f"load adapter {name}")
                async with self._lock(name):
                    await self._try(name, now[name].path)
                continue
            held = {name: each.is_pinned for name, each in now.items() if name in self.paths.keys() - unpinnable}
            name = next((name for name, is_pinned in held.items() if is_pinned is not (name in self.pinned)), None)
            if name is None:
                return
            async with self._lock(name):
                if not await self._try_pin(name, is_pinned=held[name]):
                    unpinnable.add(name)

    @property
    def has_to_retry(self) -> bool:
        """Whether it is time to try those again that could not be loaded."""
        return bool(self.failures) and not self._is_trying and time.monotonic() - self._tried_s >= RETRY_S

    async def retry(self, wanted: Callable[[], Mapping[str, WantedAdapter]]) -> None:
        """Try those again that could not be loaded and are still wanted.

        Args:
            wanted: name -> what is to be there.
        Raises:
            EngineDeadError: the worker died.
        """
        self._is_trying = True
        try:
            for name in list(self.failures):
                async with self._lock(name):  # it may be removed meanwhile
                    now = wanted().get(name)
                    if name in self.failures and now is not None:
                        await self._try(name, now.path)
                        if name in self.paths:
                            await self._try_pin(name, is_pinned=now.is_pinned)
        finally:
            self._is_trying, self._tried_s = False, time.monotonic()

    async def _try(self, name: str, path: str) -> None:
        """Load one, or keep why it cannot be.

        Raises:
            EngineDeadError: the worker died.
        """
        try:
            await self._load(name, path)
        except LmiError as error:
            if _is_death(error):
                raise
            self.failures[name] = not_loadable(name, path, error)
            _LOG.error("the model goes on without an adapter: %s", self.failures[name])

    async def _try_pin(self, name: str, *, is_pinned: bool) -> bool:
        """Pin one, or let it go; whether that could be done.

        Raises:
            EngineDeadError: the worker died.
        """
        try:
            await self._pin(name, is_pinned=is_pinned)
        except LmiError as error:
            if _is_death(error):
                raise
            _LOG.error("adapter %r is loaded, but could not be pinned or let go: %s", name, error)
            return False
        return True

    async def _load(self, name: str, path: str) -> None:
        await self._unload(name)
        self.loading = {*self.loading, name}
        try:
            await self._call("adapters", "load_adapter", name, path)
        except BaseException as error:
            self._doubtful.add(name)
            if not _is_death(error):
                self.loading = self.loading - {name}
            raise
        self.loading = self.loading - {name}
        self.paths[name] = path
        self.failures.pop(name, None)

    async def _unload(self, name: str) -> None:
        is_held = name in self.paths
        if name in self._doubtful:
            is_held = name in await self._call("adapters", "list_adapters")
            self._doubtful.discard(name)
        if is_held:
            self._doubtful.add(name)
            await self._call("adapters", "unload_adapter", name)
            self._doubtful.discard(name)
        self.paths.pop(name, None)
        self.pinned = self.pinned - {name}
        self._perhaps_pinned.discard(name)

    async def _pin(self, name: str, *, is_pinned: bool) -> None:
        if is_pinned is not (name in self.pinned) or name in self._perhaps_pinned:
            self._perhaps_pinned.add(name)
            await self._call(PINNED, "pin_adapter", name, is_pinned)
            self._perhaps_pinned.discard(name)
            self.pinned = self.pinned | {name} if is_pinned else self.pinned - {name}


def _is_death(error: BaseException) -> bool:
    """Whether an engine died of a call; any exception that is no LmiError crosses the wire as ``engine.failed``."""
    return isinstance(error, EngineDeadError) and error.code != "engine.failed"
