# SPDX-License-Identifier: Apache-2.0
"""Running requests: each has a task that reads the library's outputs, and all of them hear of the engine's end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step gave a request; the library's output itself grows on.

    Args:
        ids: new ones.
        logits: the model's, of their places; None where they were not asked for.
        prompt_logits: those of the prompt; None where they were not asked for.
        output: the library's, looked at for the end once ``is_last``.
    """

    ids: list[int]
    logits: Any
    prompt_logits: Any
    output: Any
    is_last: bool


class Streams:
    """Every request that is with the library.

    A library whose process died tells one request, or none: the others would wait for ever. So nobody waits for the
    library itself, but for a queue that ``fail`` writes to as well.

    Args:
        on_step: called after each step of a request.
    """

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step
        self._queues: set[asyncio.Queue[Step | BaseException]] = set()

    @property
    def n_open(self) -> int:
        return len(self._queues)

    def fail(self, error: BaseException) -> None:
        """End every request with an error."""
        for queue in self._queues:
            queue.put_nowait(error)

    async def read(self, result: Any) -> AsyncGenerator[Step, None]:
        """The steps of one request; closing the generator aborts it.

        Args:
            result: what the library's ``generate_async`` gave.
        Raises:
            BaseException: whatever the library raised for it, or ``fail`` was called with.
        """
        queue: asyncio.Queue[Step | BaseException] = asyncio.Queue()
        self._queues.add(queue)
        pump = asyncio.ensure_future(self._pump(result, queue))
        is_over = False
        try:
            while not is_over:
                step = await queue.get()
                if isinstance(step, BaseException):
                    is_over = True
                    raise step
                is_over = step.is_last
                yield step
        finally:
            self._queues.discard(queue)
            pump.cancel()
            if not is_over:
                with contextlib.suppress(Exception):  # an engine that is gone has nothing to abort
                    result.abort()

    async def _pump(self, result: Any, queue: asyncio.Queue[Step | BaseException]) -> None:
        n_seen = 0
        try:
            async for _ in result:  # it gives itself, with all ids so far
                output = result.outputs[0]
                ids = list(output.token_ids[n_seen:])
                n_seen += len(ids)
                is_last = output.finish_reason is not None
                self._on_step()
                step = Step(
                    ids=ids, logits=output.generation_logits, prompt_logits=result.context_logits, output=output,
                    is_last=is_last,
                )  # fmt: skip
                queue.put_nowait(step)
                if is_last:
                    return
            raise RuntimeError("the outputs of a request ended without a reason")
        except Exception as error:
            queue.put_nowait(error)
