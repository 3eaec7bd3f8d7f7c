# SPDX-License-Identifier: Apache-2.0
"""Loading one model's adapters into its workers, each within its time, and unloading them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from lmi.api.backend import Progress
from lmi.api.errors import (
    DeadlineError,
    EngineDeadError,
    EngineLoadError,
    LmiError,
    NotReadyError,
    OutOfMemoryError,
    counted,
)
from lmi.loading import LoadPlan
from lmi.serving.adapter_copies import load_on_all, pin_on_all, unload_from_all
from lmi.serving.adapter_entries import TRIED, AdapterEntry, AdapterState
from lmi.serving.progress import LoggedProgress
from lmi.threads import in_own_thread
from lmi.workers.adapters import WantedAdapter
from lmi.workers.worker import Worker

_LOG = logging.getLogger(__name__)
_LIMIT = "option.model_loading_timeout"
_LOOK_INTERVAL_S = 0.02


class AdapterLoads:
    """What is done with adapters on the workers of one model.

    Args:
        plan: of the model.
        entries: its adapters by name; one that is gone for good is taken out.
        ready: gives the workers that take requests.
        n_using: how many requests wait or run with an adapter.
    """

    def __init__(
        self,
        plan: LoadPlan,
        entries: dict[str, AdapterEntry],
        ready: Callable[[], list[Worker]],
        n_using: Callable[[str], int],
    ) -> None:
        self._plan, self._entries, self._ready, self._n_using = plan, entries, ready, n_using
        self._progress = LoggedProgress()
        self._is_draining = False
        self._drained: set[asyncio.Future[None]] = set()

    async def add(self, entry: AdapterEntry, bring: Callable[[Progress], Path]) -> None:
        """Bring a new adapter here, and load it if that is wanted; if that fails, it is none.

        Args:
            entry: of it; it is LOADING.
            bring: gives its folder on this machine, or raises what is wrong with its files; runs in a thread.
        Raises:
            LmiError: it could not be loaded in its time.
            NotReadyError: no worker is ready; or the model is shut down meanwhile.
        """
        await self._limited(entry, self._add(entry, bring), ends_as=None)

    def drain(self) -> None:
        """Nobody waits for a new adapter any more; what requests have named is loaded all the same."""
        self._is_draining = True
        for future in self._drained:
            future.set_result(None)
        self._drained.clear()

    async def _add(self, entry: AdapterEntry, bring: Callable[[Progress], Path]) -> None:
        try:
            entry.path = str(await in_own_thread(partial(bring, partial(self._tell, entry))))
            entry.stage = ""
            if entry.wish.is_eager:
                await self._load(entry)
            else:
                entry.state = AdapterState.REGISTERED
                _LOG.info("%s of model %r was registered", entry.title, self._plan.name)
        finally:
            if entry.state is AdapterState.LOADING:
                del self._entries[entry.name]

    def start_late(self, entry: AdapterEntry) -> None:
        """Begin to load one that is registered; ``entry.late_load`` ends with that."""
        entry.state = AdapterState.LOADING
        entry.late_load = asyncio.get_running_loop().create_task(self._load_late(entry))
        entry.late_load.add_done_callback(_seen)

    async def _load_late(self, entry: AdapterEntry) -> None:
        try:
            await self._limited(entry, self._load(entry), ends_as=AdapterState.REGISTERED)
        except NotReadyError:  # the workers that start load it before they take requests
            entry.state = AdapterState.LOADED
        except EngineDeadError as error:
            entry.give_up(error.message)
            raise
        except OutOfMemoryError as error:
            entry.refuse(error)
            raise
        except LmiError as error:
            entry.refuse(error)
            raise EngineLoadError("adapter.not-loadable", error.message, TRIED) from error
        finally:
            entry.late_load = None
            if entry.state is AdapterState.LOADING and entry.removal is None:
                entry.state = AdapterState.REGISTERED

    async def _load(self, entry: AdapterEntry) -> None:
        wanted = WantedAdapter(entry.path, entry.wish.is_pinned)
        await load_on_all(self._ready, entry.name, wanted, self._plan.name)
        # Nothing waits between the last load and this: a worker that is ready from now on has it.
        entry.state, entry.refusal = AdapterState.LOADED, None
        _LOG.info("%s of model %r was loaded from %s", entry.title, self._plan.name, entry.path)

    def _tell(self, entry: AdapterEntry, stage: str, fraction: float | None = None) -> None:
        entry.stage = stage if fraction is None else f"{stage} {fraction:.0%}"
        self._progress.show(f"{self._plan.name}: adapter {entry.name}", stage, fraction)

    async def _limited(
        self, entry: AdapterEntry, load: Coroutine[Any, Any, None], *, ends_as: AdapterState | None
    ) -> None:
        """Load within the time that a model may take; what a load that is broken off leaves, or None for nothing."""
        loop = asyncio.get_running_loop()
        task, drained = loop.create_task(load), loop.create_future()
        if ends_as is None and self._is_draining:
            drained.set_result(None)
        elif ends_as is None:
            self._drained.add(drained)
        limit_s = self._plan.options.model_loading_timeout
        try:
            await asyncio.wait({task, drained}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._draining() if drained.done() else self._too_slow(entry)
            task.result()
        finally:
            self._drained.discard(drained)
            if not task.done():  # or nobody waits for it any more
                task.cancel()
                if ends_as is None:
                    entry.state = AdapterState.UNLOADING
                entry.removal = loop.create_task(self._give_up(entry, task, ends_as))
                entry.removal.add_done_callback(_seen)

    def _draining(self) -> NotReadyError:
        message = f"model {self._plan.name!r} is shutting down"
        return NotReadyError("model.draining", message, "Load the adapter into another server")

    def _too_slow(self, entry: AdapterEntry) -> DeadlineError:
        limit_s, setting = self._plan.options.model_loading_timeout, self._plan.settings.get(_LIMIT)
        limit = f"{_LIMIT}={limit_s:g} ({setting.source if setting is not None else 'the default'})"
        message = f"{entry.title} was not loaded from {entry.wish.src} within {limit_s:g} s, the limit {limit}"
        awaited = " and ".join(self.awaited(entry))
        message += f"; it waited for {awaited}" if awaited else ""
        return DeadlineError("adapter.load-timeout", message, f"Load it when less is going on, or raise {_LIMIT}")

    def awaited(self, entry: AdapterEntry) -> list[str]:
        """What a load waits for, where it is known."""
        if entry.state not in (AdapterState.LOADING, AdapterState.UNLOADING):
            return []
        if entry.stage:
            return [entry.stage]
        loading = [worker for worker in self._ready() if entry.name in worker.adapters.loading]
        return [f"worker {each.label} ({counted(len(each.flights), 'request')} there)" for each in loading]

    async def _give_up(self, entry: AdapterEntry, load: asyncio.Task[None], ends_as: AdapterState | None) -> None:
        """Wait until the workers have ended a load that was broken off, and unload what some have loaded by then."""
        await asyncio.gather(load, return_exceptions=True)
        if ends_as is None:
            await self._remove(entry)
            return
        await unload_from_all(entry.name, self._ready())
        entry.removal, entry.state = None, ends_as

    async def pin(self, entry: AdapterEntry, *, is_pinned: bool) -> None:
        """Pin an adapter on all workers, or let it go.

        Raises:
            LmiError: a worker could not; nothing has changed.
        """
        before = entry.wish
        entry.wish = dataclasses.replace(before, is_pinned=is_pinned)  # what a worker obeys that is ready from now on
        try:
            limit_s = self._plan.options.model_loading_timeout
            await pin_on_all(self._ready(), entry.name, is_pinned=is_pinned, limit_s=limit_s)
        except BaseException:
            entry.wish = before
            raise

    def start_removal(self, entry: AdapterEntry) -> asyncio.Task[None]:
        """Begin to remove one, or go on with it; the task ends with that, or with what a worker said against it."""
        if entry.removal is None:
            entry.state = AdapterState.DRAINING
            entry.removal = asyncio.get_running_loop().create_task(self._remove(entry))
        return entry.removal

    async def _remove(self, entry: AdapterEntry) -> None:
        # A request ends, dies, waits and resumes in many places; looking now and then needs to know none of them.
        while self._n_using(entry.name):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_INTERVAL_S)
        entry.state = AdapterState.UNLOADING
        try:
            errors = await unload_from_all(entry.name, self._ready())
        finally:
            del self._entries[entry.name]
        _LOG.info("%s of model %r was removed", entry.title, self._plan.name)
        if errors:
            raise LmiError(
                "adapter.not-unloaded",
                f"{entry.title} cannot be asked for any more, but stays in memory: {errors[0]}",
                "Restart the server to free its memory",
            )


def _seen(task: asyncio.Task[None]) -> None:
    """Take the error of a task that nobody may wait for; it was logged where it was found."""
    if not task.cancelled():
        task.exception()
