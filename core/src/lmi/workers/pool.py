# SPDX-License-Identifier: Apache-2.0
"""The copies of one model: keeping them alive, and which one answers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from lmi.api.backend import Resume
from lmi.api.engine import EngineLimits
from lmi.api.errors import EngineDeadError, EngineLoadError, LmiError, NotReadyError, OverloadedError
from lmi.api.requests import FinishReason
from lmi.loading import LoadPlan
from lmi.workers.flight import Flight, TaskFlight
from lmi.workers.suspects import Suspects
from lmi.workers.wire import Load
from lmi.workers.worker import Worker, WorkerState

_LOG = logging.getLogger(__name__)
_DEATHS_WINDOW_S = 600.0
_LONGEST_PAUSE_S = 30.0
_N_QUEUED_AHEAD = 8
"""Requests a worker gets beyond its slots, so that a slot that becomes free never waits for the server."""


class WorkerPool:
    """Keeps the wanted number of workers alive and hands requests to them.

    Args:
        plan: everything decided before a worker starts.
        on_state: called when a worker became ready, made progress or died.
        on_failed: called once when the model is given up: the first load failed, or workers died too often.
        adapters: those that each worker holds before it takes requests, name -> path; asked again when one is ready.
    """

    def __init__(
        self,
        plan: LoadPlan,
        *,
        on_state: Callable[[Worker], None],
        on_failed: Callable[[LmiError, Worker], None],
        adapters: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self.plan = plan
        self._adapters = adapters
        self.workers: list[Worker] = []
        self.n_deaths = 0
        self.is_closing = False
        self.limits: EngineLimits | None = None
        self._on_worker_state = on_state
        self._on_failed = on_failed
        self._folder = Path(tempfile.mkdtemp(prefix="lmi-"))
        self._n_started = 0
        self._failure: LmiError | None = None
        self._deaths_s: deque[float] = deque()
        self._waiting: deque[list[Flight]] = deque()
        self._suspects = Suspects(plan.info)
        self._copies: dict[int, asyncio.Task[None]] = {}
        self._closing: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------------------ keeping alive

    def start(self) -> None:
        for _ in range(self.plan.options.min_workers):
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

    async def close(self) -> None:
        """Stop all workers; requests still in flight fail."""
        self.is_closing = True
        self.fail_all(NotReadyError("model.draining", f"model {self.plan.name!r} was shut down", "Send it elsewhere"))
        await asyncio.gather(*(worker.close() for worker in self.workers))
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
            adapters=self._adapters(),
            # A model that was ready once goes on without an adapter whose files are gone.
            needs_adapters=self.limits is None,
        )
        return Worker(
            label=f"{plan.name}/{index}",
            load=load,
            python=plan.options.python_executable or sys.executable,
            environ={**plan.options.env, **plan.copies.environ_of(index)},
            devices=plan.copies.label_of(index),
            socket_path=self._folder / f"{self._n_started}.sock",
            on_state=self._state_changed,
            on_cleared=self._cleared,
            on_room=self._room,
            adapters=self._adapters,
        )

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
        """Stop copies not needed any more, kill those that have hung, end what is late; called every second or so.

        A worker has hung when it has live requests and made no step for twice the stall limit; its requests go on.
        """
        self._retire()
        self._end_expired()
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
        idle = [worker for worker in serving if worker.idle_s > options.max_idle_time]
        if idle and len(serving) > options.min_workers:
            idle[-1].is_retired = True
            self._closing = asyncio.get_running_loop().create_task(idle[-1].close())

    def _end_expired(self) -> None:
        """End requests whose deadline passed where no worker's own clock does it: waiting, or on one that hangs."""
        waiting = [flight for group in self._waiting for flight in group if flight.is_expired]
        hanging = [
            flight
            for worker in self.workers
            if self.is_stalled(worker)
            for flight in worker.flights.values()
            if flight.is_expired
        ]
        for flight in [*waiting, *hanging]:
            self.cancel(flight)
        for flight in [*waiting, *hanging, *self._suspects.take_expired()]:
            flight.end(FinishReason.DEADLINE)

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
            self._dispatch()
        self._on_worker_state(worker)

    def _died(self, worker: Worker) -> None:
        now_s = time.monotonic()
        self.n_deaths += 1
        self._deaths_s.append(now_s)
        while now_s - self._deaths_s[0] > _DEATHS_WINDOW_S:
            self._deaths_s.popleft()
        reason = worker.error or EngineDeadError("engine.died", f"worker {worker.label} {worker.exit}")
        _LOG.error("worker %s (pid %s) %s: %s", worker.shown, worker.pid, worker.exit, reason)
        is_over_budget = len(self._deaths_s) > self.plan.options.retry_threshold
        self._suspects.add(list(worker.flights.values()), reason)
        worker.flights.clear()
        if self.limits is None or (is_over_budget and not any(each.takes_requests for each in self.workers)):
            self._give_up(reason, worker)
        self._dispatch()

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
        waiting = list(itertools.chain(*self._waiting))
        self._waiting.clear()
        for flight in [*running, *self._suspects.take_all(), *waiting]:
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
            OverloadedError: job_queue_size requests wait already.
        """
        self.check_room(0 if is_admitted else len(flights))
        worker = None if self._suspects or self._waiting else self._freest()
        if worker is not None:
            worker.submit(flights)
        elif is_admitted:
            self._waiting.appendleft(flights)
        else:
            self._waiting.append(flights)

    def check_room(self, n_requests: int) -> None:
        """Raise what ``submit`` would for so many requests; start a further copy where many wait."""
        name = self.plan.name
        if self._failure is not None:
            raise NotReadyError("model.failed", f"model {name!r} failed: {self._failure}", "See the server's log")
        if self.is_closing:
            raise NotReadyError("model.draining", f"model {name!r} is shutting down", "Send it to another server")
        n_slots = 0 if self.limits is None else self.limits.max_batch_size
        n_waiting = sum(map(len, self._waiting)) + sum(max(0, len(w.flights) - n_slots) for w in self.workers)
        if n_requests and n_waiting + n_requests > self.plan.options.job_queue_size:
            raise OverloadedError(
                "queue.full",
                f"{n_waiting} requests wait for model {self.plan.name!r}, job_queue_size is "
                f"{self.plan.options.job_queue_size}",
                "Try again later, raise job_queue_size, or run more copies (maxWorkers)",
            )
        if n_waiting > 2 * n_slots > 0 and len(self._copies) < self.plan.options.max_workers:
            self._add_copy()

    def cancel(self, flight: Flight) -> None:
        """Stop a request wherever it is; its slot is free within a step."""
        if flight.worker is not None:
            flight.worker.cancel(flight)
        elif not self._suspects.remove(flight):
            for group in self._waiting:
                if flight in group:
                    group.remove(flight)
        if flight.worker is None:
            self._room()

    def n_using(self, adapter: str) -> int:
        """Requests that wait or run with an adapter."""
        running = (worker.flights.values() for worker in self.workers)
        flights = itertools.chain(*running, *self._waiting, self._suspects)
        return sum(flight.request.adapter == adapter for flight in flights)

    def _freest(self) -> Worker | None:
        """The worker with the fewest reserved tokens of those that have room; one that stalls only if all do."""
        # What cannot resume waits here, where no worker's death can take it along.
        n_ahead = 0 if self.plan.info.resume is Resume.NEVER else _N_QUEUED_AHEAD
        most = 0 if self.limits is None else self.limits.max_batch_size + n_ahead
        ready = [
            worker
            for worker in self.workers
            if worker.takes_requests and len(worker.flights) < most and not self._suspects.has_for_itself(worker)
        ]
        if len(ready) > 1:
            ready.sort(key=lambda worker: (self.is_stalled(worker), worker.n_reserved_tokens))
        return ready[0] if ready else None

    def _dispatch(self) -> None:
        """Hand out suspects one at a time, then what waits."""
        while (suspect := self._suspects.next) is not None:
            idle = (w for w in self.workers if w.takes_requests and not w.flights)
            worker = next(idle, None) if suspect.is_alone else self._freest()
            if worker is None:
                return
            self._suspects.start_trial()
            worker.submit([suspect])
        while self._waiting and not self._suspects:
            worker = self._freest()
            if worker is None:
                return
            group = self._waiting.popleft()
            if group:
                worker.submit(group)

    def _room(self) -> None:
        """A request ended somewhere: what waits may go on."""
        if self._suspects or self._waiting:
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _cleared(self, flight: Flight) -> None:
        self._suspects.end_trial(flight)
        asyncio.get_running_loop().call_soon(self._dispatch)
