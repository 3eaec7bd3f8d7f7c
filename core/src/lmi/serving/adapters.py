# SPDX-License-Identifier: Apache-2.0
"""The adapters of a served model: which there are, what a request may name, and how they come and go.

The journal is what counts: every worker loads what stands in it before it takes requests, whenever it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lmi.api.adapters import FOLDER, adapters_of
from lmi.api.backend import BackendInfo, Capability, Task
from lmi.api.errors import (
    DeadlineError,
    EngineLoadError,
    ExistsError,
    LmiError,
    NotFoundError,
    NotReadyError,
    UnsupportedError,
    counted,
)
from lmi.api.requests import SamplingParams
from lmi.config.names import did_you_mean
from lmi.loading import LoadPlan
from lmi.serving.adapter_copies import load_on_all, unload_from_all
from lmi.serving.capabilities import refuse_undeclared
from lmi.threads import in_own_thread
from lmi.workers.pool import WorkerPool
from lmi.workers.worker import Worker, WorkerState

_LOG = logging.getLogger(__name__)
_LIMIT = "option.model_loading_timeout"
_LOOK_INTERVAL_S = 0.02
_TRIED = "It is tried again now and then; or mend its files, remove it (DELETE) and load it again"
_LEFT = "It is not tried again: mend its files, remove it (DELETE) and load it again"
_NOTHING = SamplingParams(max_tokens=1)


class AdapterState(str, Enum):
    """LOADING until all ready workers have it; DRAINING while its last requests run; then UNLOADING, and it is gone.

    One whose load took too long is UNLOADING until the workers have given it up.
    """

    LOADING = "loading"
    LOADED = "loaded"
    DRAINING = "draining"
    UNLOADING = "unloading"


@dataclass
class _Entry:
    name: str
    path: str
    state: AdapterState
    is_checked: bool = False
    failure: LmiError | None = None
    """Why no worker loads it any more: one did not survive it."""
    removal: asyncio.Task[None] | None = None


class AdapterJournal:
    """The adapters of one model, and what changes them.

    Args:
        plan: of the model; the adapters beside it are there from the start, where they are served.
        pool: gives the model's workers.
        backends: what is installed, to name those that serve adapters.
    """

    def __init__(self, plan: LoadPlan, pool: Callable[[], WorkerPool], backends: Mapping[str, BackendInfo]) -> None:
        self._plan = plan
        self._pool = pool
        self._backends = backends
        self._n_holds: Counter[str] = Counter()
        self._entries: dict[str, _Entry] = {}
        can = Capability.ADAPTERS in plan.info.capabilities and plan.task is Task.GENERATE
        if can and plan.config.serves_adapters and not plan.serves_whole_requests:
            for name in (each.name for each in adapters_of(plan.artifacts) if each.name):
                path = str(plan.artifacts.path / FOLDER / name)
                self._entries[name] = _Entry(name, path, AdapterState.LOADED)

    # ------------------------------------------------------------------------------------------------- what there is

    def wanted(self) -> dict[str, str]:
        """What a worker must hold before it takes requests, name -> path: also what running requests still need."""
        states = (AdapterState.LOADED, AdapterState.DRAINING)
        entries = (entry for entry in self._entries.values() if entry.state in states and entry.failure is None)
        return {entry.name: entry.path for entry in entries}

    def described(self) -> list[dict[str, Any]]:
        """All of them by name, as they are shown to operators."""
        return [self._describe(self._entries[name]) for name in sorted(self._entries)]

    def describe(self, name: str) -> dict[str, Any]:
        """One of them.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._describe(self._entry(name))

    def _describe(self, entry: _Entry) -> dict[str, Any]:
        failure = self._failure(entry)
        is_lost = failure is not None and not self._pool().may_serve(entry.name)
        shown = {"name": entry.name, "src": entry.path, "state": "failed" if is_lost else entry.state.value}
        more = {"waits_for": self._awaited(entry), "failure": str(failure) if failure is not None else None}
        return {**shown, "requests": self._n_using(entry.name), **{key: value for key, value in more.items() if value}}

    def _failure(self, entry: _Entry) -> LmiError | None:
        """Why a copy goes on without it, or all: its files were gone, or unfit, when a worker was restarted."""
        found = (worker.adapters.failures.get(entry.name) for worker in self._ready())
        return entry.failure or next((error for error in found if error is not None), None)

    def _awaited(self, entry: _Entry) -> list[str]:
        """What a load waits for, where it is known."""
        if entry.state not in (AdapterState.LOADING, AdapterState.UNLOADING):
            return []
        if not entry.is_checked:
            return ["the check of its files"]
        loading = [worker for worker in self._pool().workers if entry.name in worker.adapters.loading]
        return [f"worker {each.label} ({counted(len(each.flights), 'request')} there)" for each in loading]

    def note(self, worker: Worker) -> None:
        """Learn what became of a worker: an adapter whose load it did not survive is given to no other one."""
        pool = self._pool()
        if worker.state is not WorkerState.DEAD or worker.is_retired or pool.is_closing or pool.limits is None:
            return
        for name in worker.adapters.loading & self.wanted().keys():
            entry = self._entries[name]
            message = f"worker {worker.label} did not survive the load of adapter {name!r} from {entry.path}"
            reason = worker.error or f"it {worker.reason}"
            entry.failure = EngineLoadError("adapter.not-loadable", f"{message}: {reason}", _LEFT)
            _LOG.error("no worker loads it any more: %s", entry.failure)

    def _n_using(self, name: str) -> int:
        return self._pool().n_using(name) + self._n_holds[name]

    # ------------------------------------------------------------------------------------------------------ requests

    def refuse_unknown(self, name: str) -> None:
        """Refuse a request for an adapter that cannot answer it; never is it answered by the base model.

        Args:
            name: of the adapter; empty for the base model.
        Raises:
            NotFoundError: there is none of that name, or it is being removed.
            NotReadyError: it is being loaded.
            UnsupportedError: this model serves no adapters.
            EngineLoadError: no worker has it any more.
        """
        if not name:
            return
        self._refuse_unserved(name)
        entry = self._entry(name)
        if entry.state is AdapterState.LOADING:
            raise NotReadyError("adapter.loading", f"adapter {name!r} is being loaded", "Send the request again")
        if entry.state is not AdapterState.LOADED:
            raise NotFoundError("adapter.unknown", f"adapter {name!r} is being removed", self._others(name))
        if not self._pool().may_serve(name) and (failure := self._failure(entry)) is not None:
            raise EngineLoadError("adapter.not-loadable", failure.message, _LEFT if entry.failure else _TRIED)

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Keep an adapter where it is for the length of a block, for a request that runs as one after the other."""
        self._n_holds[name] += 1
        try:
            yield
        finally:
            self._n_holds[name] -= 1

    def _refuse_unserved(self, name: str) -> None:
        info, config = self._plan.info, self._plan.config
        refuse_undeclared(info, _NOTHING, name, self._backends)
        if self._plan.task is not Task.GENERATE:
            raise UnsupportedError(
                "request.unsupported",
                f"adapter={name!r} was asked, and adapters are for models that generate text",
                f"Leave it out, or merge the adapter into model {self._plan.name!r}",
            )
        if not config.serves_adapters:
            raise UnsupportedError(
                "request.unsupported",
                f"adapter={name!r} was asked, and option.{config.adapters_switch} of model {self._plan.name!r} is off",
                f"Set option.{config.adapters_switch}=true and start the server again",
            )

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise NotFoundError(
                "adapter.unknown", f"model {self._plan.name!r} has no adapter {name!r}", self._others(name)
            )
        return self._entries[name]

    def _others(self, name: str) -> str:
        known = sorted(entry.name for entry in self._entries.values() if entry.state is AdapterState.LOADED)
        listed = f"Adapters here: {', '.join(known)}" if known else "It has none"
        near = did_you_mean(name, known)
        return f"{near} {listed}" if near else listed

    # ------------------------------------------------------------------------------------------------------- changes

    async def add(self, name: str, path: str, check: Callable[[], None]) -> None:
        """Load an adapter into all workers; requests may name it when this returns.

        Args:
            name: not taken yet.
            path: folder on this machine.
            check: raises what is wrong with its files; runs in a thread.
        Raises:
            ExistsError: the name is taken.
            RequestError: a worker could not load it; none has it now.
            DeadlineError: it took longer than a model may load; the workers are about to give it up.
            NotReadyError: no worker is ready.
            UnsupportedError: this model serves no adapters.
            EngineDeadError, OutOfMemoryError: a worker did not survive it; none has it now.
        """
        self._refuse_unserved(name)
        if name in self._entries:
            taken = self._entries[name]
            raise ExistsError(
                "adapter.exists",
                f"model {self._plan.name!r} has an adapter {name!r} already: {taken.path}, {taken.state.value}",
                "Take another name, or remove it first (DELETE)",
            )
        self._entries[name] = entry = _Entry(name, path, AdapterState.LOADING)
        load = asyncio.get_running_loop().create_task(self._load(entry, check))
        try:
            await asyncio.wait({load}, timeout=self._plan.options.model_loading_timeout)
            if not load.done():
                raise self._too_slow(entry)
            load.result()
        finally:
            if not load.done():  # or nobody waits for it any more
                load.cancel()
                entry.state = AdapterState.UNLOADING
                entry.removal = asyncio.get_running_loop().create_task(self._give_up(entry, load))
                entry.removal.add_done_callback(_seen)

    async def _load(self, entry: _Entry, check: Callable[[], None]) -> None:
        try:
            await in_own_thread(check)
            entry.is_checked = True
            await load_on_all(self._ready, entry.name, entry.path, self._plan.name)
            # Nothing waits between the last load and this: a worker that is ready from now on has it.
            entry.state = AdapterState.LOADED
        finally:
            if entry.state is AdapterState.LOADING:
                del self._entries[entry.name]
        _LOG.info("adapter %r of model %r was loaded from %s", entry.name, self._plan.name, entry.path)

    def _too_slow(self, entry: _Entry) -> DeadlineError:
        limit_s, setting = self._plan.options.model_loading_timeout, self._plan.settings.get(_LIMIT)
        limit = f"{_LIMIT}={limit_s:g} ({setting.source if setting is not None else 'the default'})"
        message = f"adapter {entry.name!r} was not loaded from {entry.path} within {limit_s:g} s, the limit {limit}"
        awaited = " and ".join(self._awaited(entry))
        message += f"; it waited for {awaited}" if awaited else ""
        return DeadlineError("adapter.load-timeout", message, f"Load it when less is going on, or raise {_LIMIT}")

    async def remove(self, name: str) -> None:
        """Refuse new requests for an adapter, wait for those that run, and unload it. Others may wait for the same.

        Raises:
            NotFoundError: there is none of that name.
            NotReadyError: it is being loaded.
            LmiError: a worker keeps it in memory; no request can name it all the same.
        """
        entry = self._entry(name)
        if entry.state is AdapterState.LOADING:
            raise NotReadyError("adapter.loading", f"adapter {name!r} is being loaded", "Remove it when it is loaded")
        if entry.removal is None:
            entry.state = AdapterState.DRAINING
            entry.removal = asyncio.get_running_loop().create_task(self._remove(entry))
        await asyncio.shield(entry.removal)  # it goes on when the one who asked for it has left

    async def _give_up(self, entry: _Entry, load: asyncio.Task[None]) -> None:
        """Wait until the workers have ended a load that was broken off, and unload what some have loaded by then."""
        await asyncio.gather(load, return_exceptions=True)
        await self._remove(entry)

    async def _remove(self, entry: _Entry) -> None:
        # A request ends, dies, waits and resumes in many places; looking now and then needs to know none of them.
        while self._n_using(entry.name):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_INTERVAL_S)
        entry.state = AdapterState.UNLOADING
        try:
            errors = await unload_from_all(entry.name, self._ready())
        finally:
            del self._entries[entry.name]
        _LOG.info("adapter %r of model %r was removed", entry.name, self._plan.name)
        if errors:
            raise LmiError(
                "adapter.not-unloaded",
                f"adapter {entry.name!r} cannot be asked for any more, but stays in memory: {errors[0]}",
                "Restart the server to free its memory",
            )

    def _ready(self) -> list[Worker]:
        return [worker for worker in self._pool().workers if worker.takes_requests]


def _seen(task: asyncio.Task[None]) -> None:
    """Take the error of a task that nobody may wait for; it was logged where it was found."""
    if not task.cancelled():
        task.exception()
