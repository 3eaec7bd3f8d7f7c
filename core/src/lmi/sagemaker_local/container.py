# SPDX-License-Identifier: Apache-2.0
"""One copy of a container: kept running, asked how it is, sent requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from lmi.client import Answer, Connection, Target
from lmi.sagemaker_limits import BODY_BYTES
from lmi.sagemaker_local.process import Launch, Process
from lmi.sagemaker_local.times import Times
from lmi.sagemaker_local.violations import Violations

_LOG = logging.getLogger(__name__)
_OWN_DELAY_S = 0.05
"""How late this process may look at a connection that was accepted in time."""

_OK = 200


class State(str, Enum):
    """How a copy is: it has never been healthy, is, was, or will not be any more."""

    CREATING = "Creating"
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    FAILED = "Failed"


class NotAcceptedError(ConnectionError):
    """The connection was refused, or not accepted in time."""


class _Timed(Connection):
    """A connection that has to be accepted within a time."""

    def __init__(self, target: Target, headers: Mapping[str, str], accept_s: float, most_bytes: int) -> None:
        super().__init__(target, headers, most_bytes=most_bytes)
        self._accept_s = None if target.is_tls else accept_s  # a handshake takes its time
        self.is_slow = False

    async def connect(self) -> None:
        connecting = asyncio.ensure_future(super().connect())
        try:
            await asyncio.wait({connecting}, timeout=self._accept_s)
            if not connecting.done():
                await asyncio.wait({connecting}, timeout=_OWN_DELAY_S)
        finally:
            self.is_slow = not connecting.done()
            connecting.cancel()
        try:
            await connecting
        except asyncio.CancelledError:
            raise NotAcceptedError(f"the connection was not accepted in {self._accept_s:g} s") from None
        except OSError as error:
            raise NotAcceptedError(str(error)) from error


@dataclass(kw_only=True)
class Container:
    """One copy.

    Args:
        endpoint: name of its endpoint.
        name: its own, for logs.
        target: where it listens.
        launch: how it is started; None where it runs already.
        port: that it is told to bind.
        times: of the platform.
        violations: where those are kept.
        on_healthy: awaited each time when it has become healthy.
    """

    endpoint: str
    name: str
    target: Target
    launch: Launch | None
    port: int
    times: Times
    violations: Violations
    on_healthy: Callable[[Container], Awaitable[None]]
    state: State = State.CREATING
    failure: str = ""
    n_running: int = 0
    _process: Process | None = field(default=None, repr=False)
    _is_slow: bool = False

    @property
    def pid(self) -> int | None:
        """Of its process; None where it was not started here."""
        return self._process.pid if self._process is not None else None

    # -------------------------------------------------------------------------------------------------------- its life

    async def run(self) -> None:
        """Start it, and again when it has ended; watch it until it fails for good, or for ever."""
        while True:
            self.state = State.CREATING
            if self.launch is not None:
                try:
                    self._process = await Process.start(self.launch, self.port, self.name)
                except OSError as error:
                    self._fail(f"{self.launch.command[0]} could not be started: {error.strerror}")
                    return
            rule, how = await self._watch_until_end()
            was_in_service = self.state is not State.CREATING
            self._broke(rule, f"{how}; it is started again" if was_in_service else how)
            await self.stop()  # at least what the process has left behind
            if not was_in_service:
                self._fail(how)
                return

    async def stop(self) -> None:
        """End it as the platform does."""
        process = self._process
        if process is None:
            return
        began_s, runs = time.monotonic(), process.runs
        if not await process.stop(self.times.stop):
            self._broke("stop.time", f"it ran for {self.times.stop:g} s after SIGTERM and got SIGKILL")
        if runs:
            _LOG.info("%s has ended, %.1f s after SIGTERM", self.name, time.monotonic() - began_s)
        self._process = None

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    async def _watch_until_end(self) -> tuple[str, str]:
        """Ask for its health until its process ends or it is not healthy in time; the broken rule, and how."""
        watching = asyncio.ensure_future(self._watch())
        waiting = {watching}
        if self._process is not None:
            waiting.add(asyncio.ensure_future(self._process.ended()))
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if watching in done:
                return "start.time", watching.result()
            [ended] = done
            is_starting = self.state is State.CREATING
            return "start.ended" if is_starting else "process.ended", f"it ended with {ended.result()}"
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _watch(self) -> str:
        """Ask for its health; ends only where it does not become healthy, with the reason."""
        began_s = time.monotonic()
        while True:
            reason = await self._ping()
            if not reason and self.state is not State.HEALTHY:
                if self.state is State.CREATING:
                    _LOG.info("%s is healthy after %.1f s", self.name, time.monotonic() - began_s)
                    await self.on_healthy(self)
                else:
                    _LOG.info("%s is healthy again", self.name)
                self.state = State.HEALTHY
            elif reason and self.state is State.HEALTHY:
                self.state = State.UNHEALTHY
                self._broke("ping.healthy", f"GET /ping: {reason}")
            if self.state is State.CREATING and time.monotonic() - began_s > self.times.startup:
                return f"it was not healthy after {self.times.startup:g} s; the last GET /ping: {reason}"
            is_starting = self.state is State.CREATING
            await asyncio.sleep(self.times.startup_ping_every if is_starting else self.times.ping_every)

    async def _ping(self) -> str:
        """Why it is not healthy; empty if it is."""
        was_slow, self._is_slow = self._is_slow, False
        try:
            answer = await asyncio.wait_for(self.ask("GET", "/ping"), self.times.ping)
        except asyncio.TimeoutError:
            self._is_slow = True
            told = f"no answer in {self.times.ping:g} s"
            if not was_slow:
                self._broke("ping.time", f"GET /ping: {told}")
            return told
        except OSError as error:
            return str(error)
        return "" if answer.status == _OK else f"status {answer.status}"

    def _fail(self, reason: str) -> None:
        self.state, self.failure = State.FAILED, reason
        _LOG.error("%s failed: %s", self.name, reason)

    def _broke(self, rule: str, message: str) -> None:
        self.violations.add(rule, self.endpoint, f"{self.name}: {message}")

    # --------------------------------------------------------------------------------------------------------- requests

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        most_bytes: int = BODY_BYTES,
        on_head: Callable[[Answer], None] | None = None,
        on_part: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Send a request over a connection of its own.

        Args:
            method, path, body, headers: of the request.
            most_bytes: of an answer.
            on_head, on_part: called when status and headers, and parts of a good answer's body, come.
        Raises:
            NotAcceptedError: nobody took the connection in time.
            AnswerTooLongError: the answer has more bytes.
            OSError: the answer was cut.
        """
        connection = _Timed(self.target, {"content-type": "", **(headers or {})}, self.times.accept, most_bytes)
        self.n_running += 1
        try:
            return await connection.ask(method, path, body, on_head=on_head, on_part=on_part)
        except NotAcceptedError:
            if connection.is_slow:
                told = f"{method} {path}: not accepted in {self.times.accept * 1000:g} ms"
                self._broke("tcp.accept", told)
            raise
        finally:
            self.n_running -= 1
            with contextlib.suppress(OSError):
                connection.close()
