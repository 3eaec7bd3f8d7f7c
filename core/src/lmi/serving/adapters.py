# SPDX-License-Identifier: Apache-2.0
"""The adapters of a served model: which there are, what a request may name, and how they come and go.

The journal is what counts: every worker loads what stands in it before it takes requests, whenever it starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lmi.api.adapters import FOLDER, adapters_of
from lmi.api.backend import BackendInfo, Capability, Task
from lmi.api.errors import (
    EngineDeadError,
    EngineLoadError,
    ExistsError,
    LmiError,
    NotFoundError,
    NotReadyError,
    OutOfMemoryError,
    RequestError,
    UnsupportedError,
)
from lmi.api.requests import SamplingParams
from lmi.config.names import did_you_mean
from lmi.loading import LoadPlan
from lmi.serving.capabilities import refuse_undeclared
from lmi.threads import in_own_thread
from lmi.workers.adapters import not_loadable
from lmi.workers.pool import WorkerPool
from lmi.workers.worker import Worker

_LOG = logging.getLogger(__name__)
_LOOK_INTERVAL_S = 0.02
_NOTHING = SamplingParams(max_tokens=1)


class AdapterState(str, Enum):
    """LOADING until all ready workers have it; DRAINING while its last requests run; then UNLOADING, and it is gone."""

    LOADING = "loading"
    LOADED = "loaded"
    DRAINING = "draining"
    UNLOADING = "unloading"


@dataclass
class _Entry:
    name: str
    path: str
    state: AdapterState
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
        if can and plan.config.serves_adapters and not plan.serves_tasks:
            for name in (each.name for each in adapters_of(plan.artifacts) if each.name):
                path = str(plan.artifacts.path / FOLDER / name)
                self._entries[name] = _Entry(name, path, AdapterState.LOADED)

    # ------------------------------------------------------------------------------------------------- what there is

    def wanted(self) -> dict[str, str]:
        """What a worker must hold before it takes requests, name -> path: also what running requests still need."""
        states = (AdapterState.LOADED, AdapterState.DRAINING)
        return {entry.name: entry.path for entry in self._entries.values() if entry.state in states}

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
        shown = {"name": entry.name, "src": entry.path, "state": "failed" if failure else entry.state.value}
        return {**shown, "requests": self._n_using(entry.name), **({"failure": str(failure)} if failure else {})}

    def _failure(self, entry: _Entry) -> LmiError | None:
        """Why a worker goes on without it: its files were gone when the worker was restarted."""
        found = (worker.adapters.failures.get(entry.name) for worker in self._pool().workers)
        return next((error for error in found if error is not None), None)

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
            EngineLoadError: it was lost when a worker was restarted.
        """
        if not name:
            return
        self._refuse_unserved(name)
        entry = self._entry(name)
        if entry.state is AdapterState.LOADING:
            raise NotReadyError("adapter.loading", f"adapter {name!r} is being loaded", "Send the request again")
        if entry.state is not AdapterState.LOADED:
            raise NotFoundError("adapter.unknown", f"adapter {name!r} is being removed", self._others(name))
        if failure := self._failure(entry):
            hint = f"Remove it (DELETE), and load it again when its files are back in {entry.path}"
            raise EngineLoadError("adapter.not-loadable", failure.message, hint)

    @contextmanager
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
        try:
            await in_own_thread(check)
            await self._load_everywhere(entry)
        except BaseException:
            del self._entries[name]
            raise
        entry.state = AdapterState.LOADED
        _LOG.info("adapter %r of model %r was loaded from %s", name, self._plan.name, path)

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

    async def _remove(self, entry: _Entry) -> None:
        # A request ends, dies, waits and resumes in many places; looking now and then needs to know none of them.
        while self._n_using(entry.name):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_INTERVAL_S)
        entry.state = AdapterState.UNLOADING
        try:
            errors = await self._unload(entry.name, self._ready())
        finally:
            del self._entries[entry.name]
        _LOG.info("adapter %r of model %r was removed", entry.name, self._plan.name)
        if errors:
            raise LmiError(
                "adapter.not-unloaded",
                f"adapter {entry.name!r} cannot be asked for any more, but stays in memory: {errors[0]}",
                "Restart the server to free its memory",
            )

    async def _load_everywhere(self, entry: _Entry) -> None:
        tried: list[Worker] = []
        # Again, because a further worker may have become ready meanwhile; it has loaded only what stood in the journal.
        while new := [worker for worker in self._ready() if worker not in tried]:
            tried += new
            loads = (worker.adapters.load(entry.name, entry.path) for worker in new)
            results = await asyncio.gather(*loads, return_exceptions=True)
            errors = [error for error in results if isinstance(error, BaseException)]
            if errors:
                await self._unload(entry.name, tried)
                raise _refusal(entry, new[results.index(errors[0])], errors[0])
        if not tried:
            raise NotReadyError(
                "model.loading", f"no worker of model {self._plan.name!r} is ready", "Wait until /ping answers 200"
            )

    async def _unload(self, name: str, workers: Sequence[Worker]) -> list[BaseException]:
        """Unload it wherever it is; what living workers said against it."""
        unloads = (worker.adapters.unload(name) for worker in workers)
        results = await asyncio.gather(*unloads, return_exceptions=True)
        failed = [
            (worker, error)
            for worker, error in zip(workers, results, strict=True)
            if isinstance(error, BaseException) and worker.takes_requests
        ]
        for worker, error in failed:
            _LOG.error("worker %s keeps adapter %r: %s", worker.label, name, error)
        return [error for _, error in failed]

    def _ready(self) -> list[Worker]:
        return [worker for worker in self._pool().workers if worker.takes_requests]


def _refusal(entry: _Entry, worker: Worker, error: BaseException) -> BaseException:
    """What the one who asked for a load is told."""
    if not isinstance(error, LmiError):
        return error
    if not worker.takes_requests:
        message = f"worker {worker.label} did not survive the load of adapter {entry.name!r} from {entry.path}"
        return EngineDeadError("engine.died", message, "See the server's log; nothing was changed")
    if isinstance(error, OutOfMemoryError):
        return not_loadable(entry.name, entry.path, error)
    told = not_loadable(entry.name, entry.path, error)
    return RequestError("adapter.not-loadable", told.message, told.hint)
