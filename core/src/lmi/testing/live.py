# SPDX-License-Identifier: Apache-2.0
"""A loaded engine in an event loop of its own, driven from plain test functions."""

from __future__ import annotations

import asyncio
import concurrent.futures
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
from lmi.testing.remote import RemoteEngine, has_ranks
from lmi.testing.rules import StalledError
from lmi.threads import in_own_thread

_T = TypeVar("_T")

TIME_SCALE = float(os.environ.get("LMI_TEST_TIME_SCALE", "1"))
"""Every time limit of the kit is multiplied by this."""

_TICK_S = 0.002
_LONGEST_S = 300.0  # of one call; silence ends it much sooner
_END_S = 10.0
_LONG_TOKENS = 2048


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
        load_s: longest time the load may take.
        silence_s: longest time without a token from any of the requests that run.
    """

    def __init__(self, plugins: Plugins, plan: LoadPlan, *, load_s: float, silence_s: float) -> None:
        self._silence_s = silence_s * TIME_SCALE
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="lmi-contract", daemon=True)
        self._thread.start()
        self.stages: list[tuple[str, float | None]] = []
        self._hooks: pluggy.HookRelay = plugins.hooks(plan.info.name)
        options = plan.config.model_dump(mode="json")

        def load() -> Engine:
            return load_engine(plugins, plan.info.name, plan.artifacts, options, self._on_progress)

        async def start_ranks() -> Engine:
            return await RemoteEngine(plan, self._on_progress).ready()

        try:
            self.engine: Engine = self.call(start_ranks if has_ranks(plan) else lambda: in_own_thread(load), load_s)
        except BaseException:
            self._end()
            raise

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S * TIME_SCALE)  # a daemon: whatever hangs in it does not outlive the process

    def _on_progress(self, stage: str, fraction: float | None = None) -> None:
        self.stages.append((stage, fraction))

    @property
    def n_slots(self) -> int:
        return self.engine.limits.max_batch_size

    @property
    def long_tokens(self) -> int:
        """Length of an answer that is still running when a rule looks at it."""
        return min(self.engine.limits.max_context_tokens - 16, _LONG_TOKENS)

    @property
    def stepper(self) -> Stepper | None:
        """The backend's stepper, where the core schedules it."""
        found = getattr(self.engine, "stepper", None)
        return found if isinstance(found, Stepper) else None

    # -------------------------------------------------------------------------------------------------------- calls

    def call(self, make: Callable[[], Coroutine[Any, Any, _T]], limit_s: float) -> _T:
        """Run a coroutine in the engine's loop and wait for it.

        Raises:
            StalledError: it took longer than allowed, or the loop is held.
        """
        limit_s *= TIME_SCALE
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(make(), limit_s), self._loop)
        try:
            # A loop that is held cannot cancel: then this thread gives up a little later.
            return future.result(limit_s + 1)
        except (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError):
            future.cancel()
            raise StalledError(f"no answer within {limit_s:g} s") from None

    def start(self, requests: Sequence[GenerationRequest]) -> list[AsyncGenerator[TokenChunk, None]]:
        """The generators of requests that arrive together, as ``lmi_generate_batch`` gives them."""
        generators: list[AsyncGenerator[TokenChunk, None]] = self._hooks.lmi_generate_batch(
            engine=self.engine, requests=requests
        )
        n_missing = len(requests) - len(generators)
        assert not n_missing, f"lmi_generate_batch got {len(requests)} requests and gave {len(generators)} generators"
        wrong = next((each for each in generators if not hasattr(each, "__anext__")), None)
        assert wrong is None, f"generate gave {wrong!r}: it must be an async generator, so it needs a yield"
        return generators

    def answers(self, requests: Sequence[GenerationRequest], limit_s: float | None = None) -> list[Answer]:
        """Run requests that arrive as one group; what each got, failures included."""
        return self.call(lambda: self.gather(requests), limit_s or _LONGEST_S)

    async def gather(self, requests: Sequence[GenerationRequest]) -> list[Answer]:
        """``answers`` for a coroutine of this loop.

        Raises:
            StalledError: no token came from any of them for too long.
        """
        try:
            generators = self.start(requests)
        except AssertionError:
            raise
        except Exception as error:  # raised by generate itself: in a worker it fails the whole group, too
            return [Answer(error=error) for _ in requests]
        return await self.read(generators)

    async def read(self, generators: Sequence[AsyncGenerator[TokenChunk, None]]) -> list[Answer]:
        """Read generators to their ends, at the same time."""
        answers = [Answer() for _ in generators]
        tasks = [asyncio.ensure_future(collect(*each)) for each in zip(generators, answers, strict=True)]
        try:
            await self._hear(tasks, answers)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return answers

    async def _hear(self, tasks: Sequence[asyncio.Task[None]], answers: Sequence[Answer]) -> None:
        """Wait until all are done, as long as something comes from any of them."""
        n_before, heard_s = -1, time.monotonic()
        while True:
            _, waiting = await asyncio.wait(tasks, timeout=min(1.0, self._silence_s))
            n_chunks = sum(len(answer.chunks) for answer in answers)
            if n_chunks != n_before:
                n_before, heard_s = n_chunks, time.monotonic()
            if not waiting:
                return
            if time.monotonic() - heard_s > self._silence_s:
                n_ids = max(len(answer.ids) for answer in answers if answer.finish is None)
                raise StalledError(
                    f"no token from any of {len(waiting)} requests for {self._silence_s:g} s, and no finish; the "
                    f"longest of them has {n_ids} ids"
                )

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
            self.call(self.engine.close, _END_S)
        finally:
            self._end()


async def collect(generator: AsyncGenerator[TokenChunk, None], answer: Answer) -> None:
    """Read a generator to its end, into an answer."""
    try:
        async for chunk in generator:
            answer.chunks.append(chunk)
    except Exception as error:
        answer.error = error
    finally:
        await generator.aclose()
