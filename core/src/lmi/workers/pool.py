# SPDX-License-Identifier: Apache-2.0
"""The copies of one model: keeping them alive, and what they have to do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shlex
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from lmi.api.engine import EngineLimits
from lmi.api.errors import EngineDeadError, EngineLoadError, LmiError, NotReadyError, OverloadedError
from lmi.api.machine import GROUP
from lmi.api.requests import FinishReason
from lmi.loading import LoadPlan, ranks_to_start
from lmi.workers.adapters import WantedAdapter
from lmi.workers.flight import Flight, TaskFlight
from lmi.workers.mpi.launch import MpiProgram
from lmi.workers.pace import Pace
from lmi.workers.program import Program
from lmi.workers.queue import RequestQueue
from lmi.workers.sockets import folder_of_sockets
from lmi.workers.wire import Load
from lmi.workers.worker import CLOSE_S, Worker, WorkerState

_LOG = logging.getLogger(__name__)
_DEATHS_WINDOW_S = 600.0
_LONGEST_PAUSE_S = 30.0


class WorkerPool:
    """Keeps the wanted number of workers alive and gives them requests.

    Args:
        plan: everything decided before a worker starts.
        on_state: called when a worker became ready, made progress or died.
        on_failed: called once when the model is given up: the first load failed, or workers died too often.
        adapters: those that each worker holds before it takes requests, by name; asked again when one is ready.
    """

    def __init__(
        self,
        plan: LoadPlan,
        *,
        on_state: Callable[[Worker], None],
        on_failed: Callable[[LmiError, Worker], None],
        adapters: Callable[[], dict[str, WantedAdapter]] = dict,
    ) -> None:
        self.plan = plan
        self._adapters = adapters
        self.workers: list[Worker] = []
        self.n_deaths = 0
        self.is_closing = False
        self.limits: EngineLimits | None = None
        self._on_worker_state = on_state
        self._on_failed = on_failed
        self._folder = Path(tempfile.mkdtemp(prefix="lmi-", dir=folder_of_sockets()))
        self._n_started = 0
        self._failure: LmiError | None = None
        self._deaths_s: deque[float] = deque()
        size, delay_s = plan.gathered
        self._queue = RequestQueue(plan.info, self.workers, self.is_stalled, batch_size=size, batch_delay_s=delay_s)
        self._pace = Pace()
        self._copies: dict[int, asyncio.Task[None]] = {}
        self._closing: asyncio.Task[None] | None = None
        self._retries: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------------ keeping alive

    def fill(self) -> None:
        """Start as many copies as there must be."""
        for _ in range(len(self._copies), self.plan.options.min_workers):
            self._add_copy()

    def _add_copy(self) -> None:
        index = next(index for index in itertools.count() if index not in self._copies)
        task = asyncio.get_running_loop().create_task(self._keep_alive(index))
        self._copies[index] = task
        task.add_done_callback(lambda task: self._ended(index, task))

    def _ended(self, index: int, task: asyncio.Task[None]) -> None:
        del self._copies[index]
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a worker is not kept alive any more", exc_info=task.exception())

    async def close(self, within_s: float = CLOSE_S) -> None:
        """Stop all workers; requests still in flight fail.

        Args:
            within_s: what each engine gets to close.
        """
        self.is_closing = True
        self.fail_all(NotReadyError("model.draining", f"model {self.plan.name!r} was shut down", "Send it elsewhere"))
        await asyncio.gather(*(worker.close(within_s) for worker in self.workers))
        copies = list(self._copies.values())
        for task in copies:
            task.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _keep_alive(self, index: int) -> None:
        while not self.is_closing and self._failure is None:
            worker = self._new_worker(index)
            self.workers.append(worker)
            limit = asyncio.get_running_loop().create_task(self._limit_load(worker))
            try:
                await worker.run()
            except Exception as error:
                worker.failed(error)
            finally:
                limit.cancel()
                self.workers.remove(worker)
            if worker.is_retired:
                return
            if not self.is_closing:
                self._died(worker)
                await asyncio.sleep(min(_LONGEST_PAUSE_S, 0.25 * (2 ** max(0, len(self._deaths_s) - 3)) - 0.25))

    def _new_worker(self, index: int) -> Worker:
        plan, self._n_started = self.plan, self._n_started + 1
        load = Load(
            model=plan.name,
            backend=plan.info.name,
            artifacts=plan.artifacts,
            options=plan.config.model_dump(mode="json", by_alias=False),
            heartbeat_interval_s=plan.options.heartbeat_interval,
            model_file=plan.model_file if plan.model_file is not None and plan.model_file.runs_in_worker else None,
            adapters={name: each.path for name, each in self._adapters().items()},
            # A model that was ready once goes on without an adapter whose files are gone.
            needs_adapters=self.limits is None,
        )
        return Worker(
            label=f"{plan.name}/{index}",
            load=load,
            program=self._program(),
            environ={**plan.options.env, **plan.copies.environ_of(index), GROUP: self._folder.name},
            devices=plan.copies.label_of(index),
            socket_path=self._folder / f"{self._n_started}.sock",
            on_state=self._state_changed,
            on_cleared=self._queue.end_trial,
            on_room=self._ended_one,
            adapters=self._adapters,
        )

    def _program(self) -> Program:
        """What a worker runs as: one process, or one a rank."""
        plan, options = self.plan, self.plan.options
        python, n_ranks = options.python_executable or sys.executable, ranks_to_start(plan)
        if n_ranks == 1:
            return Program(python)
        return MpiProgram(
            python, n_ranks, hostfile=options.mpi_hostfile or "", arguments=shlex.split(options.mpi_arguments),
            forwarded=("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONUNBUFFERED", *options.env),
        )  # fmt: skip

    async def _limit_load(self, worker: Worker) -> None:
        """End a load that overruns its limit."""
        options = self.plan.options
        await asyncio.sleep(options.model_loading_timeout)
        if worker.state is WorkerState.STARTING:
            setting = self.plan.settings.get("option.model_loading_timeout")
            source = setting.source if setting is not None else "the default"
            worker.error = EngineLoadError(
                "worker.load-timeout",
                f"loading was in stage {worker.stage!r} after {options.model_loading_timeout:g} s, "
                f"the limit option.model_loading_timeout={options.model_loading_timeout:g} ({source})",
                "Raise option.model_loading_timeout if the stage only needs more time",
            )
            worker.kill()

    def tend(self) -> None:
        """Stop copies not needed any more, kill those that have hung, end what is late or cannot be answered any more.

        Called every second or so. A worker has hung when it has live requests and made no step for twice the stall
        limit; its requests go on.
        """
        self._retire()
        self._end_expired()
        self._end_lost()
        self._retry_adapters()
        for worker in self.workers:
            if self.stalled_s(worker) > 2 * self.plan.options.stall_timeout:
                worker.error = EngineDeadError(
                    "engine.stalled", f"worker {worker.label} made no step for {self.stalled_s(worker):.0f} s"
                )
                worker.kill()
            elif any(isinstance(flight, TaskFlight) and flight.is_stuck for flight in worker.flights.values()):
                worker.error = EngineDeadError(
                    "script.stuck", f"a call on worker {worker.label} went on after its time had run out"
                )
                worker.kill()

    def _retire(self) -> None:
        options = self.plan.options
        serving = [worker for worker in self.workers if worker.takes_requests]
        longest_s = 0 if len(serving) > options.max_workers else options.max_idle_time
        idle = [worker for worker in serving if worker.idle_s > longest_s]
        if idle and len(serving) > options.min_workers:
            idle[-1].is_retired = True
            self._closing = asyncio.get_running_loop().create_task(idle[-1].close())

    def _end_expired(self) -> None:
        """End requests whose deadline passed where no worker's own clock does it: waiting, or on one that hangs."""
        hanging = [
            flight
            for worker in self.workers
            if self.is_stalled(worker)
            for flight in worker.flights.values()
            if flight.is_expired
        ]
        for flight in hanging:
            self.cancel(flight)
        for flight in [*hanging, *self._queue.take(lambda flight: flight.is_expired)]:
            flight.end(FinishReason.DEADLINE)

    def _end_lost(self) -> None:
        """End requests that wait for an adapter that no worker has any more, nor will have."""
        for flight in self._queue.take(lambda flight: not self.may_serve(flight.request.adapter)):
            name = flight.request.adapter
            message = f"no worker of model {self.plan.name!r} has adapter {name!r} any more"
            hint = f"GET /models/{self.plan.name}/adapters/{name} says why"
            flight.on_error(EngineLoadError("adapter.not-loadable", message, hint))

    def _retry_adapters(self) -> None:
        for worker in self.workers:
            if worker.takes_requests and worker.adapters.has_to_retry:
                task = asyncio.get_running_loop().create_task(self._retry(worker))
                self._retries.add(task)
                task.add_done_callback(self._retries.discard)

    async def _retry(self, worker: Worker) -> None:
        with contextlib.suppress(EngineDeadError):  # its end is noticed elsewhere
            await worker.adapters.retry(self._adapters)
        self._queue.hand_out()

    def may_serve(self, adapter: str) -> bool:
        """Whether a worker has an adapter, or may have it when it is ready; always for the model itself."""
        if not adapter or any(each.takes_requests and adapter in each.adapters.paths for each in self.workers):
            return True
        if adapter not in self._adapters():
            return False
        is_coming = any(not each.takes_requests and adapter not in each.adapters.failures for each in self.workers)
        return is_coming or len(self._copies) > len(self.workers)

    def is_stalled(self, worker: Worker) -> bool:
        return self.stalled_s(worker) > self.plan.options.stall_timeout

    def stalled_s(self, worker: Worker) -> float:
        """Seconds since a ready worker's last sign of life: a heartbeat, and a step if requests are live."""
        if worker.state is not WorkerState.READY:
            return 0.0
        last_s = min(worker.last_beat_s, worker.last_step_s) if worker.flights else worker.last_beat_s
        return time.monotonic() - last_s

    def _state_changed(self, worker: Worker) -> None:
        if worker.state is WorkerState.READY:
            self.limits = worker.limits
            self._queue.n_slots = 0 if worker.limits is None else worker.limits.max_batch_size
            self._queue.hand_out()
        self._on_worker_state(worker)

    def _died(self, worker: Worker) -> None:
        now_s = time.monotonic()
        self.n_deaths += 1
        self._deaths_s.append(now_s)
        while now_s - self._deaths_s[0] > _DEATHS_WINDOW_S:
            self._deaths_s.popleft()
        reason = worker.error or EngineDeadError("engine.died", f"worker {worker.label} {worker.reason}")
        _LOG.error("worker %s (pid %s) %s: %s", worker.shown, worker.pid, worker.reason, reason)
        is_over_budget = len(self._deaths_s) > self.plan.options.retry_threshold
        self._queue.add_suspects(list(worker.flights.values()), reason)
        worker.flights.clear()
        if self.limits is None or (is_over_budget and not any(each.takes_requests for each in self.workers)):
            self._give_up(reason, worker)
        self._queue.hand_out()

    def _give_up(self, reason: LmiError, worker: Worker) -> None:
        if self._failure is not None:
            return
        self._failure = reason
        self.fail_all(EngineDeadError("engine.died", f"the model's workers are gone: {reason}", reason.hint))
        for other in self.workers:
            other.kill()
        self._on_failed(reason, worker)

    def fail_all(self, error: LmiError) -> None:
        """End every request, wherever it is, with an error."""
        running = [flight for worker in self.workers for flight in worker.flights.values()]
        for flight in running:
            self.cancel(flight)
        for flight in [*running, *self._queue.take(lambda flight: True)]:
            flight.on_error(error)

    # ------------------------------------------------------------------------------------------------------ requests

    def submit(self, flights: list[Flight], *, is_admitted: bool = False) -> None:
        """Start requests that arrived together, on the worker with the fewest reserved tokens.

        Args:
            flights: the requests.
            is_admitted: they go on with a request that was let in before: no queue is too long for them, and they are
                the first in it.
        Raises:
            NotReadyError: the model has failed or is closing.
            OverloadedError: job_queue_size requests wait already, or so many that these would not begin in their time.
        """
        self.check_room(0 if is_admitted else len(flights))
        if not is_admitted:
            self._refuse_too_late(flights)
        self._queue.submit(flights, is_first=is_admitted)

    def check_room(self, n_requests: int) -> None:
        """Raise what ``submit`` would for so many requests; start a further copy where many wait."""
        name = self.plan.name
        if self._failure is not None:
            raise NotReadyError("model.failed", f"model {name!r} failed: {self._failure}", "See the server's log")
        if self.is_closing:
            raise NotReadyError("model.draining", f"model {name!r} is shutting down", "Send it to another server")
        n_slots, n_waiting = 0 if self.limits is None else self.limits.max_batch_size, self.n_waiting
        if n_requests and n_waiting + n_requests > self.plan.options.job_queue_size:
            raise OverloadedError(
                "queue.full",
                f"{n_waiting} requests wait for model {self.plan.name!r}, job_queue_size is "
                f"{self.plan.options.job_queue_size}",
                "Try again later, raise job_queue_size, or run more copies (maxWorkers)",
            )
        if n_waiting > 2 * n_slots > 0 and len(self._copies) < self.plan.options.max_workers:
            self._add_copy()

    def _refuse_too_late(self, flights: Sequence[Flight]) -> None:
        """Refuse requests that would wait for longer than they may take."""
        limits_s = [each.request.deadline_s for each in flights if each.request.deadline_s is not None]
        if not limits_s or not (n_waiting := self._queue.n_waiting):
            return
        wait_s = self._pace.wait_s(n_waiting)
        if wait_s is not None and wait_s > min(limits_s):
            raise OverloadedError(
                "queue.too-long",
                f"{n_waiting} requests wait for model {self.plan.name!r}, and this one would wait for about "
                f"{wait_s:.1f} s of its {min(limits_s):g} s",
                "Try again later, give it more time, or run more copies (maxWorkers)",
            )

    def _ended_one(self) -> None:
        self._pace.note()
        self._queue.look()

    def cancel(self, flight: Flight) -> None:
        """Stop a request wherever it is; its slot is free within a step."""
        if flight.worker is not None:
            flight.worker.cancel(flight)
        else:
            self._queue.remove(flight)
        if flight.worker is None:
            self._queue.look()

    @property
    def n_waiting(self) -> int:
        """Requests that wait for a worker, or for a place in its batch."""
        n_slots = 0 if self.limits is None else self.limits.max_batch_size
        return self._queue.n_waiting + sum(max(0, len(each.flights) - n_slots) for each in self.workers)

    @property
    def n_requests(self) -> int:
        """Requests that wait or run."""
        return sum(len(worker.flights) for worker in self.workers) + sum(1 for _ in self._queue)

    def n_using(self, adapter: str) -> int:
        """Requests that wait or run with an adapter."""
        running = (worker.flights.values() for worker in self.workers)
        flights = itertools.chain(*running, self._queue)
        return sum(flight.request.adapter == adapter for flight in flights)
