# SPDX-License-Identifier: Apache-2.0
"""An engine of several ranks, in the processes that a server would start, driven from this one."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import psutil

from lmi.api import (
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineStats,
    GenerationRequest,
    LmiError,
    TokenChunk,
)
from lmi.loading import LoadPlan, ranks_to_start
from lmi.workers.flight import Flight
from lmi.workers.mpi.launch import MpiProgram
from lmi.workers.sockets import folder_of_sockets
from lmi.workers.wire import Load
from lmi.workers.worker import Worker, WorkerState

_BEAT_S = 0.01


def has_ranks(plan: LoadPlan) -> bool:
    """Whether the core starts a process for each rank of a plan."""
    return ranks_to_start(plan) > 1


def python_path() -> dict[str, str]:
    """The variable by which another process imports what this one does."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class RemoteEngine(Engine):
    """A worker of several ranks as an engine; made in the loop that uses it.

    Args:
        plan: what the ranks load.
        on_progress: told how far they are.
    """

    limits: EngineLimits

    def __init__(self, plan: LoadPlan, on_progress: Callable[[str, float | None], None]) -> None:
        self._on_progress = on_progress
        self._folder = tempfile.TemporaryDirectory(prefix="lmi-contract-", dir=folder_of_sockets())
        self._changed = asyncio.Event()
        options = plan.config.model_dump(mode="json", by_alias=False)
        self._worker = Worker(
            label=plan.name,
            load=Load(
                model=plan.name, backend=plan.info.name, artifacts=plan.artifacts, options=options,
                heartbeat_interval_s=_BEAT_S,
            ),
            program=MpiProgram(plan.options.python_executable or sys.executable, plan.config.tensor_parallel_degree),
            environ=python_path(),
            socket_path=Path(self._folder.name) / "worker.sock",
            on_state=self._on_state,
            on_cleared=lambda flight: None,
            on_room=lambda: None,
        )  # fmt: skip
        self._life = asyncio.get_running_loop().create_task(self._worker.run())
        self._life.add_done_callback(lambda _: self._changed.set())

    async def ready(self) -> RemoteEngine:
        """This engine, when all ranks have loaded.

        Raises:
            LmiError: they could not.
        """
        while self._worker.state is WorkerState.STARTING and not self._life.done():
            self._changed.clear()
            await self._changed.wait()
        if self._worker.limits is None:
            raise self._end()
        self.limits = self._worker.limits
        return self

    def kill_rank(self) -> None:
        """End the last rank, as a crash would."""
        ranks = psutil.Process(self._worker.pid).children()
        max(ranks, key=lambda rank: int(rank.environ().get("OMPI_COMM_WORLD_RANK", -1))).kill()

    def _on_state(self, worker: Worker) -> None:
        self._on_progress(worker.stage, worker.fraction)
        self._changed.set()

    def _end(self) -> LmiError:
        return self._worker.error or EngineDeadError(
            "engine.died", f"worker {self._worker.label} {self._worker.reason}"
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        await self.check_health()
        came: asyncio.Queue[TokenChunk | LmiError] = asyncio.Queue()
        flight = Flight(request, came.put_nowait, came.put_nowait)
        self._worker.submit([flight])
        waiting: asyncio.Future[TokenChunk | LmiError] | None = None
        try:
            while True:
                waiting = asyncio.ensure_future(came.get())
                await asyncio.wait([waiting, self._life], return_when="FIRST_COMPLETED")
                if not waiting.done():
                    raise self._end()
                item = waiting.result()
                if isinstance(item, LmiError):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            if waiting is not None:
                waiting.cancel()
            if flight.worker is not None:
                self._worker.cancel(flight)

    def stats(self) -> EngineStats:
        return self._worker.stats

    async def check_health(self) -> None:
        if self._worker.state is not WorkerState.READY:
            raise self._end()

    async def close(self) -> None:
        await self._worker.close()
        await asyncio.wait([self._life])
        self._folder.cleanup()
