# SPDX-License-Identifier: Apache-2.0
"""One adapter on all copies of a model: all of them load it, or none has it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from lmi.api.errors import (
    DeadlineError,
    EngineDeadError,
    LmiError,
    NotReadyError,
    OutOfMemoryError,
    RequestError,
)
from lmi.workers.adapters import WantedAdapter, not_loadable
from lmi.workers.worker import Worker

_LOG = logging.getLogger(__name__)
_OF_THE_CALLER = ("adapter.too-many-pinned",)
"""Codes of refusals that have nothing to do with the adapter's files."""


async def load_on_all(ready: Callable[[], Sequence[Worker]], name: str, wanted: WantedAdapter, model: str) -> None:
    """Load an adapter on every ready worker; nothing waits between the last load and the end of this.

    Args:
        ready: the workers that take requests.
        name: of the adapter.
        wanted: its folder, and whether it is pinned.
        model: its name, for messages.
    Raises:
        RequestError: a worker could not load it; none has it now.
        NotReadyError: no worker is ready.
        EngineDeadError, OutOfMemoryError: a worker did not survive it; none has it now.
    """
    tried: list[Worker] = []
    # Again, because a further worker may have become ready meanwhile; it has loaded only what stood in the journal.
    while new := [worker for worker in ready() if worker not in tried]:
        tried += new
        loads = (worker.adapters.load(name, wanted) for worker in new)
        results = await asyncio.gather(*loads, return_exceptions=True)
        errors = [error for error in results if isinstance(error, BaseException)]
        if errors:
            await unload_from_all(name, tried)
            raise _refusal(name, wanted.path, new[results.index(errors[0])], errors[0])
    if not tried:
        raise NotReadyError("model.loading", f"no worker of model {model!r} is ready", "Wait until /ping answers 200")


async def pin_on_all(workers: Sequence[Worker], name: str, *, is_pinned: bool, limit_s: float) -> None:
    """Pin an adapter wherever it is, or let it go; where one worker cannot, nothing has changed.

    Args:
        workers: those that have it.
        name: of the adapter.
        is_pinned: what is to hold.
        limit_s: how long it may take: an engine may wait for requests to end.
    Raises:
        LmiError: why a worker could not.
        DeadlineError: it took too long.
    """
    results = await _pinned(workers, name, is_pinned=is_pinned, limit_s=limit_s)
    failed = [error for worker, error in zip(workers, results, strict=True) if error and worker.takes_requests]
    errors = [error for error in failed if not isinstance(error, asyncio.CancelledError)]
    if failed:
        await _pinned(workers, name, is_pinned=not is_pinned, limit_s=limit_s)
    if errors:
        raise errors[0]
    if failed:
        message = f"adapter {name!r} was not pinned within {limit_s:g} s, since requests for others need the room"
        raise DeadlineError("adapter.load-timeout", message, "Pin it when less is going on")


async def _pinned(
    workers: Sequence[Worker], name: str, *, is_pinned: bool, limit_s: float
) -> list[BaseException | None]:
    """Pin on each, or let go; what each said against it, ``CancelledError`` where it took too long."""
    tasks = [asyncio.ensure_future(each.adapters.pin(name, is_pinned=is_pinned)) for each in workers]
    _, late = await asyncio.wait(tasks, timeout=limit_s) if tasks else (set(), set())
    for task in late:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def unload_from_all(name: str, workers: Sequence[Worker]) -> list[BaseException]:
    """Unload an adapter wherever it is; what living workers said against it."""
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


def _refusal(name: str, path: str, worker: Worker, error: BaseException) -> BaseException:
    """What the one who asked for a load is told."""
    if not isinstance(error, LmiError):
        return error
    if not worker.takes_requests:
        message = f"worker {worker.label} did not survive the load of adapter {name!r} from {path}"
        return EngineDeadError("engine.died", message, "See the server's log; nothing was changed")
    if error.code in _OF_THE_CALLER:
        return error
    told = not_loadable(name, path, error)
    return (
        told if isinstance(error, OutOfMemoryError) else RequestError("adapter.not-loadable", told.message, told.hint)
    )
