# SPDX-License-Identifier: Apache-2.0
"""A loaded engine in an event loop of its own, driven from plain test functions."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pluggy

from lmi.api import (
    Engine,
    EngineStats,
    Finish,
    GenerationRequest,
    Stepper,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from lmi.loading import LoadPlan, load_engine
from lmi.plugins import Plugins
from lmi.threads import in_own_thread

_T = TypeVar("_T")

TIME_SCALE = float(os.environ.get("LMI_TEST_TIME_SCALE", "1"))
"""Every time limit of the kit is multiplied by this."""

_TICK_S = 0.002


@dataclass
class Answer:
    """Everything one request got.

    Args:
        chunks: as they came.
        error: what ended it instead of a last chunk.
    """

    chunks: list[TokenChunk] = field(default_factory=list)
    error: Exception | None = None

    @property
    def ids(self) -> list[int]:
        return [token_id for chunk in self.chunks for token_id in chunk.ids]

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [score for chunk in self.chunks for score in chunk.logprobs or []]

    @property
    def prompt_logprobs(self) -> list[TokenLogprob | None]:
        return [score for chunk in self.chunks for score in chunk.prompt_logprobs or []]

    @property
    def finish(self) -> Finish | None:
        return next((chunk.finish for chunk in self.chunks if chunk.finish is not None), None)

    @property
    def usage(self) -> Usage | None:
        return self.chunks[-1].usage if self.chunks else None

    def whole(self) -> Answer:
        """This answer, if it came to an end in order.

        Raises:
            AssertionError: it failed or did not end.
        """
        assert self.error is None, f"a request failed with {type(self.error).__name__}: {self.error}"
        assert self.finish is not None, f"the tokens ended after {len(self.ids)} without a finish reason"
        return self


class LiveEngine:
    """One engine, loaded as a worker loads it.

    Args:
        plugins: with the backend.
        plan: what to load.
        timeout_s: longest time a load or a call may take.
    """

    def __init__(self, plugins: Plugins, plan: LoadPlan, timeout_s: float) -> None:
        self._timeout_s = timeout_s * TIME_SCALE
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="lmi-contract", daemon=True)
        self._thread.start()
        self.stages: list[tuple[str, float | None]] = []
        self._hooks: pluggy.HookRelay = plugins.hooks(plan.info.name)
        options = plan.config.model_dump(mode="json")

        def load() -> Engine:
            return load_engine(plugins, plan.info.name, plan.artifacts, options, self._on_progress)

        try:
            self.engine: Engine = self.call(lambda: in_own_thread(load))
        except BaseException:
            self._end()
            raise

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self._timeout_s)

    def _on_progress(self, stage: str, fraction: float | None = None) -> None:
        self.stages.append((stage, fraction))

    @property
    def stepper(self) -> Stepper | None:
        """The backend's stepper, where the core schedules it."""
        found = getattr(self.engine, "stepper", None)
        return found if isinstance(found, Stepper) else None

    # -------------------------------------------------------------------------------------------------------- calls

    def call(self, make: Callable[[], Coroutine[Any, Any, _T]], timeout_s: float | None = None) -> _T:
        """Run a coroutine in the engine's loop and wait for it.

        Raises:
            AssertionError: it took longer than allowed.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s * TIME_SCALE

        async def run() -> _T:
            return await asyncio.wait_for(make(), limit_s)

        try:
            return asyncio.run_coroutine_threadsafe(run(), self._loop).result(limit_s + 5)
        except (TimeoutError, asyncio.TimeoutError):
            raise AssertionError(f"no answer within {limit_s:g} s") from None

    def start(self, requests: Sequence[GenerationRequest]) -> list[AsyncGenerator[TokenChunk, None]]:
        """The generators of requests that arrive together, as ``lmi_generate_batch`` gives them."""
        generators: list[AsyncGenerator[TokenChunk, None]] = self._hooks.lmi_generate_batch(
            engine=self.engine, requests=requests
        )
        return generators

    def answers(self, requests: Sequence[GenerationRequest], timeout_s: float | None = None) -> list[Answer]:
        """Run requests at the same time; what each got, failures included."""
        return self.call(lambda: self.gather(requests), timeout_s)

    async def gather(self, requests: Sequence[GenerationRequest]) -> list[Answer]:
        """``answers`` for a coroutine of this loop."""
        generators = [self.start([request])[0] for request in requests]
        return list(await asyncio.gather(*map(collect, generators)))

    def answer(self, request: GenerationRequest) -> Answer:
        """Run one request alone; it must end in order."""
        return self.answers([request])[0].whole()

    def stats(self) -> EngineStats:
        return self.engine.stats()

    # ------------------------------------------------------------------------------------------------------- timing

    async def watch_loop(self, holds_s: list[float]) -> None:
        """Note, until cancelled, how long something else held the loop each time."""
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(_TICK_S)
            holds_s.append(time.monotonic() - before_s - _TICK_S)

    def close(self) -> None:
        """Close the engine, whatever state it is in, and end the loop."""
        try:
            self.call(self.engine.close)
        finally:
            self._end()


async def collect(generator: AsyncGenerator[TokenChunk, None]) -> Answer:
    """Read a generator to its end."""
    answer = Answer()
    try:
        async for chunk in generator:
            answer.chunks.append(chunk)
    except Exception as error:
        answer.error = error
    finally:
        await generator.aclose()
    return answer
