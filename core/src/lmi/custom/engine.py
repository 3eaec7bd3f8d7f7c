# SPDX-License-Identifier: Apache-2.0
"""A model's own function as an engine: it answers requests as they came, and knows no tokens.

Its code runs in one thread with an event loop of its own, from the import on, so that whatever it does (computing for
minutes, blocking, starting an OpenMP team) never holds the loop that talks to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from djl_python import Input, Output
from djl_python.inputs import NotJsonError
from lmi.api import (
    BackendConfig,
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineLoadError,
    EngineStats,
    GenerationRequest,
    LmiError,
    OutOfMemoryError,
    Progress,
    RequestError,
    TaskPart,
    TaskRequest,
    TokenChunk,
    UnsupportedError,
)
from lmi.custom.importing import function_of, import_file, said
from lmi.custom.inputs import OVERRIDE, empty_input, input_of
from lmi.custom.model_file import ModelFile
from lmi.custom.parts import body_of, checked_output, headers_of, pieces, whole

_LOG = logging.getLogger(__name__)
_FAILED = 400


@dataclass(frozen=True)
class _End:
    """An answer is over; ``error`` says why it is not whole."""

    error: BaseException | None


def load_custom(file: ModelFile, options: dict[str, Any], progress: Progress) -> CustomEngine:
    """Import a model's own file and let its function load the model.

    Args:
        file: of kind CUSTOM.
        options: plain values of a BackendConfig.
        progress: told how far it is.
    Raises:
        EngineLoadError, OutOfMemoryError: the file cannot be imported, or its function failed.
    """
    engine = CustomEngine(file, BackendConfig.model_validate(options))
    engine.load(progress)
    return engine


class CustomEngine(Engine):
    """Calls one function: one request at a time, or as many as the batch is large if the function is asynchronous.

    Args:
        file: of kind CUSTOM.
        config: ``max_rolling_batch_size`` is how many asynchronous calls run at a time.
    """

    def __init__(self, file: ModelFile, config: BackendConfig) -> None:
        self.limits = EngineLimits(max_context_tokens=0, max_batch_size=1, vocab_size=0)
        self._file = file
        self._max_async = config.max_rolling_batch_size
        self._module: Any = None
        self._slots = asyncio.Semaphore(1)
        self._n_running = self._n_waiting = self._n_steps = 0
        self._allows_override = os.environ.get(OVERRIDE, "").lower() == "true"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name=file.name, daemon=True)
        self._thread.start()

    def _run_loop(self) -> None:
        loop = self._loop
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    # ------------------------------------------------------------------------------------------------------- loading

    def load(self, progress: Progress) -> None:
        """See ``load_custom``."""
        asyncio.run_coroutine_threadsafe(self._load(progress), self._loop).result()

    async def _load(self, progress: Progress) -> None:
        file, path = self._file, Path(self._file.path)
        progress(f"import {file.name}")
        self._module = import_file(path, path.stem, folder_first=True)
        function = function_of(self._module, file.function)
        if inspect.iscoroutinefunction(function):
            self.limits = EngineLimits(max_context_tokens=0, max_batch_size=self._max_async, vocab_size=0)
        self._slots = asyncio.Semaphore(self.limits.max_batch_size)
        progress(f"{file.function} loads the model")
        try:
            answer = await _call(function, empty_input(file.properties))
        except LmiError:
            raise
        except Exception as error:
            _LOG.exception("%s failed at load", file.function)
            if _is_out_of_memory(error):
                raise OutOfMemoryError("engine.out-of-memory", self._raised(error)) from error
            raise EngineLoadError("engine.load-failed", self._raised(error), "The traceback is in the log") from error
        if isinstance(answer, Output) and isinstance(answer.code, int) and answer.code >= _FAILED:
            text = body_of(answer).decode("utf-8", "replace") or answer.message
            raise EngineLoadError("engine.load-failed", f"{file.function} answered {answer.code} at load: {text}")

    # ------------------------------------------------------------------------------------------------------ answering

    async def run_task(self, request: TaskRequest) -> AsyncGenerator[TaskPart, None]:
        """Answer one request by the model's function."""
        own_loop = asyncio.get_running_loop()
        parts: asyncio.Queue[TaskPart | _End] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []

        def put(part: TaskPart | _End) -> None:
            own_loop.call_soon_threadsafe(parts.put_nowait, part)

        def start() -> None:
            tasks.append(self._loop.create_task(self._answer(request, put)))
            tasks[0].add_done_callback(lambda task: put(_End(None if task.cancelled() else task.exception())))

        def cancel() -> None:
            tasks[0].cancel()

        self._loop.call_soon_threadsafe(start)
        part: TaskPart | _End = TaskPart()
        try:
            while isinstance(part := await parts.get(), TaskPart):
                yield part
            if part.error is not None:
                raise part.error
        finally:
            if not isinstance(part, _End):
                self._loop.call_soon_threadsafe(cancel)
                # Code cannot be interrupted where it computes; until it returns, its slot is taken.
                while isinstance(await parts.get(), TaskPart):
                    pass

    async def _answer(self, request: TaskRequest, put: Callable[[TaskPart], None]) -> None:
        """Run the function and hand over what it answers. In the model's thread.

        Raises:
            LmiError: whatever went wrong.
        """
        self._n_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._n_waiting -= 1
        self._n_running += 1
        try:
            await self._run(request, put)
        except LmiError:
            raise
        except NotJsonError as error:
            raise RequestError("request.malformed-json", f"the body is not JSON: {error}") from error
        except Exception as error:
            _LOG.exception("request %s failed", request.request_id)
            if _is_out_of_memory(error):
                raise OutOfMemoryError("engine.out-of-memory", self._raised(error)) from error
            hint = "The traceback is in the server's log"
            raise LmiError("script.raised", self._raised(error), hint) from error
        finally:
            self._n_running -= 1
            self._slots.release()

    async def _run(self, request: TaskRequest, put: Callable[[TaskPart], None]) -> None:
        inputs = input_of(request, self._file.properties, allows_override=self._allows_override)
        name = inputs.function_name or self._file.function
        output = checked_output(await _call(self._function(name), inputs), name)
        try:
            if output.stream_content is None:
                put(whole(output))
                return
            put(TaskPart(status=output.code, headers=headers_of(output), is_stream=True))
            async with contextlib.aclosing(pieces(output)) as stream:
                async for piece in stream:
                    self._n_steps += 1
                    put(TaskPart(body=piece))
                    await asyncio.sleep(0)  # here a cancellation gets through, also between pieces that never wait
        finally:
            if output.finalizer is not None:
                output.finalizer()

    def _function(self, name: str) -> Callable[..., Any]:
        is_own = name == self._file.function
        if not is_own and (name.startswith("_") or not inspect.isfunction(getattr(self._module, name, None))):
            raise UnsupportedError("request.function-override", f"{self._file.name} has no function {name!r}")
        function: Callable[..., Any] = getattr(self._module, name)
        return function

    def _raised(self, error: Exception) -> str:
        return f"{self._file.function} of {self._file.name} raised {said(error, Path(self._file.path))}"

    # --------------------------------------------------------------------------------------------------- as an engine

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        message = f"{self._file.name} answers requests as they come and takes no tokens"
        raise UnsupportedError("request.unsupported", message)

    def stats(self) -> EngineStats:
        # A function may compute as long as it likes, and only predict_timeout judges it: while it runs, being asked
        # is the step that shows the process alive.
        self._n_steps += 1 if self._n_running else 0
        return EngineStats(n_running=self._n_running, n_waiting=self._n_waiting, n_steps=self._n_steps)

    async def check_health(self) -> None:
        if not self._thread.is_alive():
            raise EngineDeadError("engine.died", f"the thread of {self._file.name} ended")

    async def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed already
            self._loop.call_soon_threadsafe(self._loop.stop)


async def _call(function: Callable[[Input], Any], inputs: Input) -> Any:
    answer = function(inputs)
    return await answer if isinstance(answer, Coroutine) else answer


def _is_out_of_memory(error: Exception) -> bool:
    # Libraries have classes of their own for it, and all of them this name.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
