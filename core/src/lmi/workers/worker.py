# SPDX-License-Identifier: Apache-2.0
"""The server's side of one worker process: its state, its wire, and the requests it is answering."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from lmi.api.backend import CONTRACT_VERSION
from lmi.api.engine import EngineLimits, EngineStats
from lmi.api.errors import EngineDeadError, EngineLoadError, LmiError, OutOfMemoryError, RequestError
from lmi.versions import other_contract
from lmi.workers.adapters import HeldAdapters, WantedAdapter
from lmi.workers.flight import CallFlight, Flight
from lmi.workers.places import Places
from lmi.workers.process import Exit, Process
from lmi.workers.program import Program
from lmi.workers.wire import (
    Call,
    CancelCall,
    Channel,
    Chunks,
    Close,
    Commands,
    Dying,
    Failed,
    FromWorker,
    Heartbeat,
    Hello,
    Load,
    Loading,
    Ready,
    Reply,
)

CLOSE_S = 5.0
"""What an engine gets to close, and then what is asked to end to end."""
_LAST_WORDS_S = 1.0


class WorkerState(str, Enum):
    STARTING = "starting"
    READY = "ready"
    DEAD = "dead"


class Worker:
    """One copy of a model in a process of its own.

    Args:
        label: for logs, ``model/0``.
        load: what it loads.
        program: what is started.
        environ: its environment, beside what the program needs.
        devices: the devices it has, for logs: ``cuda:0,1``; empty on CPU.
        socket_path: where it connects to; in a folder only this user can enter.
        on_state: called when it became ready, made progress or died.
        on_cleared: called when a request that is on trial produced enough ids or ended.
        on_room: called when a request ended.
        adapters: those it holds before it takes requests, by name.
    """

    def __init__(
        self,
        *,
        label: str,
        load: Load,
        program: Program,
        environ: Mapping[str, str],
        socket_path: Path,
        on_state: Callable[[Worker], None],
        on_cleared: Callable[[Flight], None],
        on_room: Callable[[], None],
        devices: str = "",
        adapters: Callable[[], Mapping[str, WantedAdapter]] = dict,
    ) -> None:
        self.label, self.devices, self.started_at_s = label, devices, time.time()
        self.shown = f"{label} on {devices}" if devices else label
        self.state = WorkerState.STARTING
        self.stage = "start process"
        self.fraction: float | None = None
        self.limits: EngineLimits | None = None
        self.abilities: list[str] = []
        self.adapters = HeldAdapters(self.call)
        self.stats = EngineStats()
        self.flights: dict[str, Flight] = {}
        self.n_reserved_tokens, self._places = 0, Places()
        self.exit: Exit | None = None
        self.reason = "could not be started"
        self.error: LmiError | None = None
        self.is_retired = False
        self.idle_since_s = self.last_step_s = self.last_beat_s = time.monotonic()
        self._load = load
        self._program = program
        self._environ = environ
        self._socket_path = socket_path
        self._on_state = on_state
        self._on_cleared = on_cleared
        self._on_room = on_room
        self._wanted_adapters = adapters
        self._settling: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._groups: list[list[Flight]] = []
        self._cancelled_ids: list[str] = []
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._called: dict[int, CallFlight] = {}
        self._n_calls = 0
        self._disconnected: asyncio.Future[None] = self._loop.create_future()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._channel = Channel(
            FromWorker, Chunks, on_message=self._on_message, on_stream=self._on_chunks, on_closed=self._on_disconnect
        )

    # ------------------------------------------------------------------------------------------------- its life

    async def run(self) -> None:
        """Start the process and return when it ended."""
        listener = await self._loop.create_unix_server(lambda: self._channel, str(self._socket_path))
        try:
            given = {**os.environ, **self._environ, "PYTHONUNBUFFERED": "1"}
            environ = self._program.environ(given, self._socket_path.parent)
            command = self._program.command(self._socket_path, environ)
            try:
                self._process = await Process.start(
                    command, label=self.shown, environ=environ, is_asked_to_end=self._program.is_asked_to_end
                )
            except (FileNotFoundError, PermissionError) as error:
                raise EngineLoadError(
                    "worker.no-python",
                    f"{self._program.python!r} cannot be started: {error}",
                    "Correct option.pythonExecutable",
                ) from error
            exit_ = await self._process.wait()
        except asyncio.CancelledError:
            if self._process is not None:
                self._process.kill()
            raise
        finally:
            listener.close()
            with contextlib.suppress(OSError):
                self._socket_path.unlink()
        if self._channel.is_open:  # the last words of the worker may still be in the socket
            await asyncio.wait([self._disconnected], timeout=_LAST_WORDS_S)
        self._ended(exit_)

    def failed(self, error: Exception) -> None:
        """Its process could not be started or watched."""
        if self.state is not WorkerState.DEAD:
            self.kill()
            self.error = error if isinstance(error, LmiError) else _start_error(error)
            self._ended(None)

    def _ended(self, exit_: Exit | None) -> None:
        self.exit = exit_
        if exit_ is not None:
            self.reason = self._program.reason(exit_)
        if exit_ is not None and exit_.is_out_of_memory and self.error is None:
            self.error = OutOfMemoryError(
                "engine.out-of-memory",
                f"worker {self.label} was {self.reason}",
                "Lower option.max_rolling_batch_size or the memory the backend may use, or take a larger machine",
            )
        self.state = WorkerState.DEAD
        self._end.set_result(None)
        self._channel.close()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(EngineDeadError("engine.died", f"worker {self.label} {self.reason}"))
        self._on_state(self)

    def _on_disconnect(self, _: Exception | None) -> None:
        if not self._disconnected.done():
            self._disconnected.set_result(None)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def close(self, within_s: float = CLOSE_S) -> None:
        """Let the engine close and the process exit; kill it when that takes too long."""
        if self.state is WorkerState.DEAD:
            return
        if self._channel.is_open:
            self._channel.send(Close())
            await asyncio.wait([self._end], timeout=within_s)
        self.kill()
        if self._program.is_asked_to_end and self._process is not None:
            await asyncio.wait([self._end], timeout=within_s)

    @property
    def takes_requests(self) -> bool:
        return self.state is WorkerState.READY and not self.is_retired and self._channel.is_open

    @property
    def idle_s(self) -> float:
        """Seconds since the last request ended; 0 while there are any, or while it is not ready."""
        is_idle = self.takes_requests and not self.flights
        return time.monotonic() - self.idle_since_s if is_idle else 0.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    # --------------------------------------------------------------------------------------------------- requests

    def submit(self, flights: list[Flight]) -> None:
        """Send requests that belong together; they leave with everything else of this turn of the loop."""
        for flight in flights:
            flight.worker = self
            self.flights[flight.request.request_id] = flight
            self.n_reserved_tokens += flight.n_reserved_tokens
            self._places.take(flight, len(self.flights))
        if len(self.flights) == len(flights):
            self.last_step_s = time.monotonic()
        called = [flight for flight in flights if isinstance(flight, CallFlight)]
        for each in called:
            self._called[self._call(each.ability, each.method, *each.args)] = each
        if not called:
            self._schedule_flush()
            self._groups.append(flights)

    def cancel(self, flight: Flight) -> None:
        if isinstance(flight, CallFlight):
            self._cancel_call(flight)
        elif self._forget(flight.request.request_id) is not None:
            self._schedule_flush()
            self._cancelled_ids.append(flight.request.request_id)

    def _cancel_call(self, flight: CallFlight) -> None:
        for call_id in [number for number, each in self._called.items() if each is flight]:
            self._channel.send(CancelCall(call_id))
            if not flight.stays_when_cancelled:
                del self._called[call_id]
                self._forget(flight.request.request_id)

    def _schedule_flush(self) -> None:
        if not self._groups and not self._cancelled_ids:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        groups, self._groups = self._groups, []
        cancelled_ids, self._cancelled_ids = self._cancelled_ids, []
        requests = [[flight.resumed_request() for flight in group] for group in groups]
        try:
            self._channel.send_stream(Commands(requests, cancelled_ids))
        except (OverflowError, TypeError, ValueError):
            self._flush_singly(groups, cancelled_ids)

    def _flush_singly(self, groups: list[list[Flight]], cancelled_ids: list[str]) -> None:
        """Send group by group, because one holds a value that cannot be encoded: it fails, the others go on."""
        for group in groups:
            try:
                self._channel.send_stream(Commands([[flight.resumed_request() for flight in group]], []))
            except (OverflowError, TypeError, ValueError) as error:
                for flight in group:
                    self._forget(flight.request.request_id)
                    flight.on_error(
                        RequestError("request.not-encodable", f"the request holds a value no engine takes: {error}")
                    )
        self._channel.send_stream(Commands([], cancelled_ids))

    def _forget(self, request_id: str) -> Flight | None:
        flight = self.flights.pop(request_id, None)
        if flight is not None:
            self.n_reserved_tokens -= flight.n_reserved_tokens
            self._places.leave(flight)
            flight.worker = None
            if flight.is_on_trial:
                self._on_cleared(flight)
            if not self.flights:
                self.idle_since_s = time.monotonic()
            self._on_room()
        return flight

    async def call(self, ability: str, method: str, *args: Any) -> Any:
        """Call a method of an ability in the worker, whose model has loaded, and return its result.

        When this is cancelled, so is the call; and this ends when that has.

        Raises:
            EngineDeadError: the worker is gone, or goes meanwhile.
            LmiError: what the method raised.
        """
        if not self._channel.is_open:
            raise EngineDeadError("engine.died", f"worker {self.label} is gone")
        future: asyncio.Future[Any] = self._loop.create_future()
        call_id = self._call(ability, method, *args)
        self._calls[call_id] = future
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._channel.send(CancelCall(call_id))
            await asyncio.wait([future, self._disconnected], return_when=asyncio.FIRST_COMPLETED)
            raise

    def _call(self, ability: str, method: str, *args: Any) -> int:
        self._n_calls += 1
        self._channel.send(Call(self._n_calls, ability, method, list(args)))
        return self._n_calls

    def _on_called_reply(self, flight: CallFlight, reply: Reply) -> None:
        if reply.is_last:
            del self._called[reply.call_id]
            self._forget(flight.request.request_id)
        if reply.error is not None:
            flight.on_error(reply.error.error())
        else:
            flight.on_reply(reply)

    # ---------------------------------------------------------------------------------------- what the worker says

    def _on_chunks(self, chunks: Chunks) -> None:
        self.last_step_s = time.monotonic()
        flights = self.flights
        for request_id, chunk in chunks:
            flight = flights.get(request_id)
            if flight is None:
                continue  # cancelled meanwhile
            flight.ids += chunk.ids
            if chunk.finish is not None:
                self._forget(request_id)
            elif flight.is_on_trial:
                flight.n_trial_ids_left -= len(chunk.ids)
                if flight.n_trial_ids_left <= 0:
                    self._on_cleared(flight)
            flight.on_chunk(chunk)

    def _on_message(self, message: FromWorker) -> None:
        match message:
            case Heartbeat(stats):
                self.last_beat_s = time.monotonic()
                if stats.n_steps != self.stats.n_steps:
                    self.last_step_s = self.last_beat_s
                self.stats = stats
            case Failed(request_id, report):
                flight = self._forget(request_id)
                if flight is not None:
                    flight.on_error(report.error())
            case Reply(call_id) if call_id in self._called:
                self.last_step_s = time.monotonic()
                self._on_called_reply(self._called[call_id], message)
            case Reply(call_id, result, report):
                future = self._calls.pop(call_id, None)
                if future is not None and not future.done():
                    future.set_result(result) if report is None else future.set_exception(report.error())
            case Loading(stage, fraction, adapter):
                self.stage, self.fraction = stage, fraction
                self.adapters.loading = {adapter} - {""}
                self._on_state(self)
            case Ready(limits, abilities, lost_adapters):
                self.limits, self.abilities = limits, abilities
                self._places.n_places = limits.max_batch_size
                self.adapters.begin(self._load.adapters, lost_adapters)
                self._settling = self._loop.create_task(self._settle())
            case Dying(report):
                self.error = report.error()
            case Hello():
                self._greet(message)

    async def _settle(self) -> None:
        """Catch up with the adapters that came and went while the worker loaded; then it is ready."""

        def show(stage: str) -> None:
            self.stage, self.fraction = stage, None
            self._on_state(self)

        try:
            await self.adapters.follow(self._wanted_adapters, show)
        except LmiError as error:
            if self._channel.is_open:  # the worker lives, and nobody knows what it holds
                self.error = error
                self.kill()
            return
        if self.state is WorkerState.DEAD:
            return
        self.state, self.stage, self.fraction = WorkerState.READY, "ready", None
        self.last_beat_s = self.last_step_s = self.idle_since_s = time.monotonic()
        self._on_state(self)

    def _greet(self, hello: Hello) -> None:
        if hello.contract_version != CONTRACT_VERSION:
            self.error = other_contract(hello.python, hello.core_version, hello.contract_version)
            self.kill()
            return
        self._channel.send(self._load)


def _start_error(error: Exception) -> EngineLoadError:
    return EngineLoadError(
        "worker.no-process",
        f"the worker's process cannot be started or watched: {type(error).__name__}: {error}",
        "Check open files, processes and the folder for temporary files (TMPDIR)",
    )
