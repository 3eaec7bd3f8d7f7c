# SPDX-License-Identifier: Apache-2.0
"""The copies of one model: which one answers, and what happens to requests when one dies.

After a death the requests that were in flight are *suspects*. They are resubmitted one at a time: the next one follows
when the one *on trial* has produced a chunk. A suspect that was on trial at a further death is next tried alone on a
worker; if that worker dies too, it is the killer and fails. So a killer costs at most three deaths and fails alone.
"""

from __future__ import annotations

import asyncio
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
from lmi.api.requests import Finish, FinishReason, SamplingParams, TokenChunk, Usage
from lmi.loading import LoadPlan
from lmi.workers.flight import Flight
from lmi.workers.wire import Load
from lmi.workers.worker import Worker, WorkerState

_LOG = logging.getLogger(__name__)
_DEATHS_WINDOW_S = 600.0
_LONGEST_PAUSE_S = 30.0


class WorkerPool:
    """Keeps the wanted number of workers alive and hands requests to them.

    Args:
        plan: everything decided before a worker starts.
        on_state: called when a worker became ready, made progress or died.
        on_failed: called once when the model is given up: the first load failed, or workers died too often.
    """

    def __init__(
        self, plan: LoadPlan, *, on_state: Callable[[Worker], None], on_failed: Callable[[LmiError, Worker], None]
    ) -> None:
        self.plan = plan
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
        self._suspects: deque[Flight] = deque()
        self._trial: Flight | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------------ keeping alive

    def start(self) -> None:
        for index in range(self.plan.options.min_workers):
            task = asyncio.get_running_loop().create_task(self._keep_alive(index))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a worker is not kept alive any more", exc_info=task.exception())

    async def close(self) -> None:
        """Stop all workers; requests still in flight fail."""
        self.is_closing = True
        await asyncio.gather(*(worker.close() for worker in self.workers))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _keep_alive(self, index: int) -> None:
        while not self.is_closing and self._failure is None:
            worker = self._new_worker(index)
            self.workers.append(worker)
            watch = asyncio.get_running_loop().create_task(self._watch(worker))
            try:
                await worker.run()
            finally:
                watch.cancel()
                self.workers.remove(worker)
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
        )
        return Worker(
            label=f"{plan.name}/{index}",
            load=load,
            python=plan.options.python_executable or sys.executable,
            environ=plan.options.env,
            socket_path=self._folder / f"{self._n_started}.sock",
            on_state=self._state_changed,
            on_cleared=self._cleared,
            on_idle=self._idle,
        )

    async def _watch(self, worker: Worker) -> None:
        """End a load that overruns its limit, and a worker that has hung."""
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

    def kill_stalled(self) -> None:
        """Kill workers that have live requests and made no step for twice the stall limit; their requests go on."""
        for worker in self.workers:
            if self.stalled_s(worker) > 2 * self.plan.options.stall_timeout:
                worker.error = EngineDeadError(
                    "engine.stalled", f"worker {worker.label} made no step for {self.stalled_s(worker):.0f} s"
                )
                worker.kill()

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
        _LOG.error("worker %s (pid %s) %s: %s", worker.label, worker.pid, worker.exit, reason)
        n_allowed = self.plan.options.retry_threshold
        if self.limits is None or len(self._deaths_s) > n_allowed:
            self._give_up(reason, worker)
        else:
            self._suspect(list(worker.flights.values()), worker, reason)
        self._dispatch()

    def _give_up(self, reason: LmiError, worker: Worker) -> None:
        self._failure = reason
        flights = [*worker.flights.values(), *self._suspects, *(f for group in self._waiting for f in group)]
        worker.flights.clear()
        self._suspects.clear()
        self._waiting.clear()
        for flight in flights:
            flight.on_error(EngineDeadError("engine.died", f"the model's workers are gone: {reason}", reason.hint))
        self._on_failed(reason, worker)

    # ------------------------------------------------------------------------------------------------------ requests

    def submit(self, flights: list[Flight]) -> None:
        """Start requests that arrived together, on the worker with the fewest reserved tokens.

        Raises:
            NotReadyError: the model has failed or is closing.
            OverloadedError: job_queue_size requests wait already.
        """
        if self._failure is not None or self.is_closing:
            raise NotReadyError(
                "model.failed", f"model {self.plan.name!r} is not serving: {self._failure or 'closing'}"
            )
        n_slots = 0 if self.limits is None else self.limits.max_batch_size
        n_waiting = sum(map(len, self._waiting)) + sum(max(0, len(w.flights) - n_slots) for w in self.workers)
        if n_waiting + len(flights) > self.plan.options.job_queue_size:
            raise OverloadedError(
                "queue.full",
                f"{n_waiting} requests wait for model {self.plan.name!r}, job_queue_size is "
                f"{self.plan.options.job_queue_size}",
                "Try again later, raise job_queue_size, or run more copies (maxWorkers)",
            )
        worker = None if self._suspects or self._waiting else self._freest()
        if worker is None:
            self._waiting.append(flights)
        else:
            worker.submit(flights)

    def cancel(self, flight: Flight) -> None:
        """Stop a request wherever it is; its slot is free within a step."""
        if flight.worker is not None:
            flight.worker.cancel(flight)
        elif flight in self._suspects:
            self._suspects.remove(flight)
        else:
            for group in self._waiting:
                if flight in group:
                    group.remove(flight)

    def _freest(self) -> Worker | None:
        ready = [w for w in self.workers if w.state is WorkerState.READY and not self._is_reserved(w)]
        return min(ready, key=lambda worker: worker.n_reserved_tokens, default=None)

    def _is_reserved(self, worker: Worker) -> bool:
        trial = self._trial
        return trial is not None and trial.is_alone and trial.worker is worker

    def _dispatch(self) -> None:
        """Hand out suspects one at a time, then what waits."""
        while self._suspects and self._trial is None:
            worker = self._worker_for(self._suspects[0])
            if worker is None:
                return
            flight = self._suspects.popleft()
            flight.is_on_trial, self._trial = True, flight
            worker.submit([flight])
        while not self._suspects and self._waiting:
            worker = self._freest()
            if worker is None:
                return
            group = self._waiting.popleft()
            if group:
                worker.submit(group)

    def _worker_for(self, suspect: Flight) -> Worker | None:
        if not suspect.is_alone:
            return self._freest()
        return next((w for w in self.workers if w.state is WorkerState.READY and not w.flights), None)

    def _idle(self) -> None:
        if self._suspects:  # one of them may wait for a worker of its own
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _cleared(self, flight: Flight) -> None:
        flight.is_on_trial = flight.is_alone = False
        self._trial = None
        asyncio.get_running_loop().call_soon(self._dispatch)

    # -------------------------------------------------------------------------------------------------- after a death

    def _suspect(self, flights: list[Flight], worker: Worker, reason: LmiError) -> None:
        worker.flights.clear()
        was_alone = len(flights) == 1
        innocent: list[Flight] = []
        tried: list[Flight] = []
        for flight in flights:
            flight.worker = None
            flight.n_deaths += 1
            if flight.is_on_trial:
                self._trial = None
            if was_alone and flight.n_deaths > 1:
                flight.on_error(
                    EngineDeadError(
                        "engine.killed-by-request",
                        f"the worker died twice with this request, the last time with it alone: {reason}",
                        "The request is not tried again; the worker's log says where it died",
                    )
                )
            elif self._is_complete(flight) or self._cannot_resume(flight, reason):
                continue
            else:
                flight.is_alone = flight.is_on_trial or flight.is_alone
                (tried if flight.is_alone else innocent).append(flight)
            flight.is_on_trial = False
        # Those that are probably innocent go first: they need not wait for a worker of their own.
        rest = list(self._suspects)
        self._suspects.clear()
        self._suspects.extend(sorted([*innocent, *rest, *tried], key=lambda flight: flight.is_alone))

    def _is_complete(self, flight: Flight) -> bool:
        """Finish a request that died between its last id and the word that it was the last."""
        n_output = len(flight.request.resumed_ids) + len(flight.ids)
        if n_output < flight.request.sampling.max_tokens:
            return False
        usage = Usage(len(flight.request.prompt_ids), n_output)
        flight.on_chunk(TokenChunk([], finish=Finish(FinishReason.LENGTH), usage=usage))
        return True

    def _cannot_resume(self, flight: Flight, reason: LmiError) -> bool:
        """Fail a request whose state this backend cannot restore."""
        resume = self.plan.info.resume
        if not flight.ids and resume is not Resume.NEVER:
            return False
        if resume is Resume.EXACT or (resume is Resume.CONTINUES and not _has_history(flight.request.sampling)):
            return False
        flight.on_error(
            EngineDeadError(
                "engine.died",
                f"the worker died after {len(flight.ids)} tokens of this request: {reason}",
                f"Backend {self.plan.info.name!r} cannot go on with this request; send it again",
            )
        )
        return True


def _has_history(sampling: SamplingParams) -> bool:
    """Whether the next token depends on the output so far by more than the ids themselves."""
    return (
        sampling.constraint is not None
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )
