# SPDX-License-Identifier: Apache-2.0
"""Inside the worker: run the engine's generators and send what they produce, one frame a turn of the loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from lmi.api.engine import Engine
from lmi.api.errors import EngineDeadError, LmiError, OutOfMemoryError
from lmi.api.requests import Finish, FinishReason, GenerationRequest, TokenChunk, Usage
from lmi.workers.wire import Chunks, Commands, ErrorReport

_LOG = logging.getLogger(__name__)

_NOT_ENCODABLE = (TypeError, ValueError, OverflowError)

GenerateBatch = Callable[..., list[AsyncGenerator[TokenChunk, None]]]


class Drive:
    """Runs requests on an engine until they finish, fail, are cancelled or run out of time.

    Args:
        engine: what generates.
        generate_batch: the hook ``lmi_generate_batch``.
        send: takes the chunks of one turn of the loop.
        fail: takes the id and error of a request that failed alone.
        on_dead: called once when the engine itself died.
    """

    def __init__(
        self,
        engine: Engine,
        generate_batch: GenerateBatch,
        *,
        send: Callable[[Chunks], None],
        fail: Callable[[str, ErrorReport], None],
        on_dead: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._generate_batch = generate_batch
        self._send = send
        self._fail = fail
        self._on_dead = on_dead
        self._outbox: Chunks = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()

    def obey(self, commands: Commands) -> None:
        """Start the groups of requests and stop the cancelled ones, which may be among them."""
        for group in commands.groups:
            self._start(group)
        for request_id in commands.cancelled_ids:
            self._stop(request_id)

    def _start(self, group: Sequence[GenerationRequest]) -> None:
        try:
            generators = self._generate_batch(engine=self._engine, requests=group)
            pairs = list(zip(group, generators, strict=True))
        except Exception as error:
            for request in group:
                self._failed(request.request_id, error)
            return
        for request, generator in pairs:
            self._tasks[request.request_id] = self._loop.create_task(self._run(request, generator))

    def _stop(self, request_id: str) -> None:
        task = self._tasks.pop(request_id, None)
        if task is not None:
            task.cancel()

    async def _run(self, request: GenerationRequest, generator: AsyncGenerator[TokenChunk, None]) -> None:
        request_id, n_output, finish = request.request_id, len(request.resumed_ids), None
        is_late, timer = False, None

        def expire() -> None:
            nonlocal is_late
            is_late = True
            self._stop(request_id)

        if request.deadline_s is not None:
            timer = self._loop.call_later(request.deadline_s, expire)
        try:
            async for chunk in generator:
                self._put(request_id, chunk)
                n_output += len(chunk.ids)
                finish = chunk.finish
            if finish is None:
                raise LmiError("engine.no-finish", f"the tokens ended after {n_output} without a reason")
        except asyncio.CancelledError:
            if is_late and finish is None:
                usage = Usage(len(request.prompt_ids), n_output)
                self._put(request_id, TokenChunk([], finish=Finish(FinishReason.DEADLINE), usage=usage))
        except Exception as error:
            self._failed(request_id, error)
        finally:
            if timer is not None:
                timer.cancel()
            self._tasks.pop(request_id, None)
            await generator.aclose()

    def _put(self, request_id: str, chunk: TokenChunk) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append((request_id, chunk))

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        try:
            self._send(outbox)
        except _NOT_ENCODABLE:
            self._send_singly(outbox)

    def _send_singly(self, outbox: Chunks) -> None:
        """Send chunk by chunk, because one holds what cannot be encoded: its request fails, the others go on."""
        for request_id, chunk in outbox:
            try:
                self._send([(request_id, chunk)])
            except _NOT_ENCODABLE as error:
                self._stop(request_id)
                message = f"the engine produced a chunk that cannot be sent: {type(error).__name__}: {error}"
                self._failed(request_id, LmiError("engine.wrong-output", message, "A fault of the backend"))

    def _failed(self, request_id: str, error: Exception) -> None:
        if isinstance(error, EngineDeadError | OutOfMemoryError):
            self._on_dead(error)
            return
        if not isinstance(error, LmiError):
            _LOG.error("request %s failed", request_id, exc_info=error)
        self._fail(request_id, ErrorReport.of(error))
