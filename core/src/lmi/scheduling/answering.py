# SPDX-License-Identifier: Apache-2.0
"""An answerer as an Engine: one thread answers one call after the other, the event loop never waits for one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from lmi.api import (
    Answerer,
    Classifier,
    Compute,
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineStats,
    GenerationRequest,
    Inputs,
    LmiError,
    OutOfMemoryError,
    PluginError,
    TaskPart,
    TaskRequest,
    TaskRunner,
    TokenChunk,
    UnsupportedError,
)

log = logging.getLogger(__name__)

_JSON = {"content-type": "application/json"}
_T = TypeVar("_T")


class _LeftError(Exception):
    """Nobody waits for the answer any more."""


class _Call:
    """A call on its way through the thread."""

    def __init__(self, work: Callable[[Compute], Any]) -> None:
        self.work = work
        self.has_left = False
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def end(self, result: Any, error: BaseException | None = None) -> None:
        """Hand over what came of it; in the thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._set, result, error)

    def _set(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class AnswererEngine(Engine):
    """Whole calls to a model, one at a time.

    Args:
        answerer: loaded and ready; closed with the engine.
        compute: runs the model; None for the answerer's own.
        close: ends what ``compute`` runs on; None for the answerer's own.
    """

    def __init__(
        self, answerer: Answerer, compute: Compute | None = None, close: Callable[[], None] | None = None
    ) -> None:
        self.answerer = answerer
        limits = answerer.limits
        self.limits = EngineLimits(
            max_context_tokens=limits.max_context_tokens, max_batch_size=1, vocab_size=limits.vocab_size
        )
        self._compute = compute or answerer.compute
        self._close = close or answerer.close
        # Appending to a deque needs no lock; the event ends a sleep.
        self._inbox: deque[_Call] = deque()
        self._wake = threading.Event()
        self._is_closing = False
        self._death: BaseException | None = None
        self._n_running = self._n_steps = 0
        self._thread = threading.Thread(target=self._run, name="lmi-answers", daemon=True)
        self._thread.start()

    async def call(self, work: Callable[[Compute], _T]) -> _T:
        """What ``work`` returns, called in the engine's thread.

        Args:
            work: gets the model's ``compute``; where this call is cancelled, it ends there.
        Raises:
            EngineDeadError: the model failed, now or before.
            Exception: whatever else ``work`` raised.
        """
        self._refuse_if_ended()
        call = _Call(work)
        self._inbox.append(call)
        self._wake.set()
        try:
            self._refuse_if_ended()  # it may have ended after the first look, and emptied the inbox before we sent
            result: _T = await call.future
            return result
        finally:
            call.has_left = True
            call.future.cancel()  # nothing, where it is done

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        raise UnsupportedError("request.unsupported", "this model answers whole requests and continues no text")

    def stats(self) -> EngineStats:
        return EngineStats(n_running=self._n_running, n_waiting=len(self._inbox), n_steps=self._n_steps)

    async def check_health(self) -> None:
        self._refuse_if_ended()

    async def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    def _refuse_if_ended(self) -> None:
        end = self._end()
        if end is not None:
            raise end

    def _end(self) -> LmiError | None:
        if isinstance(self._death, OutOfMemoryError):
            return self._death
        if self._death is not None:
            text = f"the model failed with {type(self._death).__name__}: {self._death}"
            error = EngineDeadError("engine.died", text, "Its worker ends, and another takes its place; see its log")
            error.__cause__ = self._death
            return error
        if self._is_closing:
            return EngineDeadError("engine.closed", "the engine is closed", "Send the request to a running engine.")
        return None

    # -------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        while not self._is_closing and self._death is None:
            self._wake.clear()  # before the inbox is read: what comes later sets it again
            while self._inbox and not self._is_closing and self._death is None:
                self._answer(self._inbox.popleft())
            if not self._is_closing and self._death is None:
                self._wake.wait()
        while self._inbox:
            self._inbox.popleft().end(None, self._end())
        try:
            self._close()
        except Exception:
            log.exception("The model could not be closed.")

    def _answer(self, call: _Call) -> None:
        if call.has_left:
            return
        self._n_running = 1
        try:
            result, error = call.work(lambda inputs: self._computed(call, inputs)), None
        except BaseException as raised:
            result, error = None, raised
            if not isinstance(raised, Exception):
                self._death = self._death or raised
            if self._death is None and not isinstance(raised, LmiError | _LeftError):
                log.exception("A request could not be answered.")
        finally:
            self._n_running = 0
        call.end(result, self._end() if self._death is not None else error)

    def _computed(self, call: _Call, inputs: Inputs) -> Any:
        if call.has_left or self._is_closing:
            raise self._end() or _LeftError
        try:
            result = self._compute(inputs)
        except BaseException as error:  # ranks may be out of step now, and nobody can tell
            log.exception("The model failed; the engine stops.")
            self._death = error
            raise
        self._n_steps += 1
        return result


class ClassifierEngine(AnswererEngine):
    """An answerer that gives labels."""

    answerer: Classifier

    async def classify(self, prompts: list[list[int]]) -> list[list[float]]:
        return await self.call(lambda compute: self.answerer.classify(prompts, compute))


class TaskEngine(AnswererEngine):
    """An answerer that gets whole requests."""

    answerer: TaskRunner

    async def run_task(self, request: TaskRequest) -> AsyncGenerator[TaskPart, None]:
        body = await self.call(lambda compute: self.answerer.run_task(request, compute))
        yield TaskPart(body=body, headers=_JSON)


def engine_of(
    answerer: Answerer, compute: Compute | None = None, close: Callable[[], None] | None = None
) -> AnswererEngine:
    """An engine with the ability that the answerer has.

    Args:
        answerer, compute, close: as AnswererEngine has them.
    Raises:
        PluginError: it has none.
    """
    for kind, engine in ((Classifier, ClassifierEngine), (TaskRunner, TaskEngine)):
        if isinstance(answerer, kind):
            return engine(answerer, compute, close)
    name = type(answerer).__qualname__
    raise PluginError("plugin.hook-failed", f"{name} is an Answerer, and neither a Classifier nor a TaskRunner")
