# SPDX-License-Identifier: Apache-2.0
"""The adapters of a served model: which there are, what a request may name, and how they come and go.

The journal is what counts: every worker loads what stands in it before it takes requests, whenever it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lmi.api.adapters import FOLDER, adapters_of
from lmi.api.backend import BackendInfo, Capability, Progress, Task
from lmi.api.errors import (
    EngineLoadError,
    ExistsError,
    LmiError,
    NotFoundError,
    NotReadyError,
    UnsupportedError,
)
from lmi.api.requests import SamplingParams
from lmi.config.names import did_you_mean
from lmi.loading import LoadPlan
from lmi.serving.adapter_entries import LEFT, TRIED, AdapterEntry, AdapterState, AdapterWish, title
from lmi.serving.adapter_loads import AdapterLoads
from lmi.serving.capabilities import refuse_undeclared
from lmi.workers.adapters import PINNED, WantedAdapter
from lmi.workers.pool import WorkerPool
from lmi.workers.worker import Worker, WorkerState

_NOTHING = SamplingParams(max_tokens=1)


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
        self._entries: dict[str, AdapterEntry] = {}
        self._loads = AdapterLoads(plan, self._entries, self._ready, self._n_using)
        if self.is_serving:
            for name in (each.name for each in adapters_of(plan.artifacts) if each.name):
                path = str(plan.artifacts.path / FOLDER / name)
                wish = AdapterWish(name=name, src=path)
                self._entries[name] = AdapterEntry(wish, AdapterState.LOADED, path, stage="")

    # ------------------------------------------------------------------------------------------------- what there is

    @property
    def is_serving(self) -> bool:
        """Whether requests may name adapters at all."""
        plan = self._plan
        can = Capability.ADAPTERS in plan.info.capabilities and plan.task is Task.GENERATE
        return can and plan.config.serves_adapters and not plan.serves_whole_requests

    def __contains__(self, name: str) -> bool:
        """Whether a name is an adapter's, whatever becomes of that."""
        return name in self._entries

    def wanted(self) -> dict[str, WantedAdapter]:
        """What a worker must hold before it takes requests, by name: also what running requests still need."""
        wanted = ((entry.name, entry.wanted) for entry in self._entries.values())
        return {name: each for name, each in wanted if each is not None}

    def offered(self) -> dict[str, str]:
        """Those that a request may name now, and where each is from."""
        states = (AdapterState.REGISTERED, AdapterState.LOADED)
        offered = (entry for entry in self._entries.values() if entry.state in states or entry.late_load is not None)
        return {entry.name: entry.wish.src for entry in offered if entry.failure is None}

    def described(self) -> list[dict[str, Any]]:
        """All of them by name, as they are shown to operators."""
        return [self._describe(self._entries[name]) for name in sorted(self._entries)]

    def describe(self, name: str, alias: str = "") -> dict[str, Any]:
        """One of them.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._describe(self._entry(name, alias))

    def _describe(self, entry: AdapterEntry) -> dict[str, Any]:
        failure = self._failure(entry)
        is_lost = entry.failure is not None or (entry.wanted is not None and failure is not None)
        is_lost = is_lost and not self._pool().may_serve(entry.name)
        shown = {**entry.shown(), "state": "failed" if is_lost else entry.state.value}
        more = {"waits_for": self._loads.awaited(entry), "failure": str(failure) if failure is not None else None}
        return {**shown, "requests": self._n_using(entry.name), **{key: value for key, value in more.items() if value}}

    def _failure(self, entry: AdapterEntry) -> LmiError | None:
        """Why a copy goes on without it, or all: its files were gone, or unfit, when it was loaded later on."""
        found = (worker.adapters.failures.get(entry.name) for worker in self._ready())
        return entry.failure or next((error for error in found if error is not None), entry.refusal)

    def note(self, worker: Worker) -> None:
        """Learn what became of a worker: an adapter whose load it did not survive is given to no other one."""
        pool = self._pool()
        if worker.state is not WorkerState.DEAD or worker.is_retired or pool.is_closing or pool.limits is None:
            return
        for name in worker.adapters.loading & self.wanted().keys():
            entry = self._entries[name]
            message = f"worker {worker.label} did not survive the load of {entry.title} from {entry.path}"
            reason = worker.error or f"it {worker.reason}"
            entry.give_up(f"{message}: {reason}")

    def _n_using(self, name: str) -> int:
        return self._pool().n_using(name) + self._n_holds[name]

    # ------------------------------------------------------------------------------------------------------ requests

    async def prepare(self, name: str) -> None:
        """Load an adapter that was registered only, since a request names it; others that do wait for the same.

        Args:
            name: of any; nothing is done for one that is there, or is not.
        Raises:
            EngineLoadError: a worker could not load it, or not in time, now or a moment ago.
            EngineDeadError, OutOfMemoryError: a worker did not survive it.
        """
        entry = self._entries.get(name)
        if entry is None or entry.failure is not None:
            return
        if entry.state is AdapterState.REGISTERED:
            if (refusal := entry.fresh_refusal) is not None:
                raise EngineLoadError("adapter.not-loadable", refusal.message, TRIED)
            self._loads.start_late(entry)
        if entry.late_load is not None:
            await asyncio.shield(entry.late_load)

    def refuse_unknown(self, name: str, alias: str = "") -> None:
        """Refuse a request for an adapter that cannot answer it; never is it answered by the base model.

        Args:
            name: of the adapter; empty for the base model.
            alias: what the caller's people call it; empty where that is its name.
        Raises:
            NotFoundError: there is none of that name, or it is being removed.
            NotReadyError: it is being loaded.
            UnsupportedError: this model serves no adapters.
            EngineLoadError: no worker has it any more.
        """
        if not name:
            return
        self._refuse_unserved(name)
        entry = self._entry(name, alias)
        if entry.failure is not None and not self._pool().may_serve(name):
            raise EngineLoadError("adapter.not-loadable", entry.failure.message, LEFT)
        if entry.state in (AdapterState.LOADING, AdapterState.REGISTERED):
            raise NotReadyError("adapter.loading", f"{entry.title} is being loaded", "Send the request again")
        if entry.state is not AdapterState.LOADED:
            raise NotFoundError("adapter.unknown", f"{entry.title} is being removed", self._others(name))
        if not self._pool().may_serve(name) and (failure := self._failure(entry)) is not None:
            raise EngineLoadError("adapter.not-loadable", failure.message, TRIED)

    def called(self, model: str) -> str:
        """The adapter that a request for a model means, where adapters are models; empty for the model itself.

        Args:
            model: as the request names it; empty where it names none.
        Raises:
            NotFoundError: adapters may be named, and this is no name of one nor of the model: of an adapter, perhaps,
                that is not there any more.
        """
        plan = self._plan
        if model in self or not model or not self.is_serving:
            return model if model in self else ""
        own = (plan.name, plan.url, plan.options.model_id, plan.artifacts.folder)
        if model not in own:
            message = f"there is neither a model nor an adapter {model!r}"
            known = ", ".join([plan.name, *sorted(self.offered())])
            raise NotFoundError("model.not-found", message, f"Models here: {known}")
        return ""

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

    def _entry(self, name: str, alias: str = "") -> AdapterEntry:
        if name not in self._entries:
            message = f"model {self._plan.name!r} has no {title(name, alias)}"
            raise NotFoundError("adapter.unknown", message, self._others(name))
        return self._entries[name]

    def _others(self, name: str) -> str:
        known = sorted(self.offered())
        listed = f"Adapters here: {', '.join(known)}" if known else "It has none"
        near = did_you_mean(name, known)
        return f"{near} {listed}" if near else listed

    # ------------------------------------------------------------------------------------------------------- changes

    async def add(self, wish: AdapterWish, bring: Callable[[Progress], Path]) -> None:
        """Take an adapter, and load it into all workers if that is wanted; requests may name it when this returns.

        Args:
            wish: its name is not taken yet.
            bring: gives its folder on this machine, or raises what is wrong with its files; runs in a thread.
        Raises:
            ExistsError: the name is taken, by another adapter or the model.
            RequestError: a worker could not load it; none has it now.
            DeadlineError: it took longer than a model may load; the workers are about to give it up.
            NotReadyError: no worker is ready, or the model is shut down.
            UnsupportedError: this model serves no adapters, or its backend pins none.
            EngineDeadError, OutOfMemoryError: a worker did not survive it; none has it now.
        """
        self._refuse_unserved(wish.name)
        if wish.name in self._entries:
            taken = self._entries[wish.name]
            raise ExistsError(
                "adapter.exists",
                f"model {self._plan.name!r} has an {taken.title} already: {taken.wish.src}, {taken.state.value}",
                "Take another name, or remove it first (DELETE)",
            )
        if wish.name == self._plan.name:
            raise ExistsError("adapter.exists", f"the model itself is called {wish.name!r}", "Take another name")
        if wish.is_pinned:
            self._refuse_unpinnable(wish.name)
        self._entries[wish.name] = entry = AdapterEntry(wish, AdapterState.LOADING)
        await self._loads.add(entry, bring)

    def drain(self) -> None:
        """Take no further adapter: the model is shut down. Those that requests have named are loaded all the same."""
        self._loads.drain()

    async def update(
        self, name: str, *, is_preloaded: bool | None = None, is_pinned: bool | None = None, alias: str = ""
    ) -> None:
        """Change what was asked for with an adapter; None leaves a wish as it is.

        Args:
            name: of the adapter.
            is_preloaded: load it now, if it is not loaded; False leaves it where it is.
            is_pinned: keep it where requests need it, or let it make room for others.
            alias: what people call it.
        Raises:
            NotFoundError: there is none of that name.
            NotReadyError: it is being loaded.
            UnsupportedError: the backend pins none.
            LmiError: it could not be loaded, or not be pinned; nothing has changed.
        """
        self._refuse_moving(self._entry(name, alias))
        if is_pinned:
            self._refuse_unpinnable(name)
        if is_pinned or is_preloaded:
            await self.prepare(name)
            self.refuse_unknown(name, alias)
        entry = self._entry(name, alias)
        async with entry.changing:
            self._refuse_moving(entry)
            if is_pinned is not None and is_pinned is not entry.wish.is_pinned:
                await self._loads.pin(entry, is_pinned=is_pinned)
            preload = entry.wish.is_preloaded if is_preloaded is None else is_preloaded
            entry.wish = dataclasses.replace(entry.wish, is_preloaded=preload, alias=alias or entry.wish.alias)

    def _refuse_moving(self, entry: AdapterEntry) -> None:
        if entry.state is AdapterState.LOADING:
            raise NotReadyError("adapter.loading", f"{entry.title} is being loaded", "Ask again when it is loaded")
        if entry.state in (AdapterState.DRAINING, AdapterState.UNLOADING):
            raise NotFoundError("adapter.unknown", f"{entry.title} is being removed", self._others(entry.name))

    def _refuse_unpinnable(self, name: str) -> None:
        if any(PINNED not in worker.abilities for worker in self._ready()):
            raise UnsupportedError(
                "request.unsupported",
                f"pin=true was asked for adapter {name!r}, and backend {self._plan.info.name!r} pins none",
                "Leave it out: it is loaded all the same",
            )

    async def remove(self, name: str, alias: str = "") -> None:
        """Refuse new requests for an adapter, wait for those that run, and unload it. Others may wait for the same.

        Raises:
            NotFoundError: there is none of that name.
            NotReadyError: it is being loaded.
            LmiError: a worker keeps it in memory; no request can name it all the same.
        """
        entry = self._entry(name, alias)
        if entry.state is AdapterState.LOADING:
            raise NotReadyError("adapter.loading", f"{entry.title} is being loaded", "Remove it when it is loaded")
        await asyncio.shield(self._loads.start_removal(entry))  # it goes on when the one who asked for it has left

    def _ready(self) -> list[Worker]:
        return [worker for worker in self._pool().workers if worker.takes_requests]
