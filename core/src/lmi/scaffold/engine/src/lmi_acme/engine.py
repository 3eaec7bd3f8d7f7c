# SPDX-License-Identifier: Apache-2.0
"""The acme engine: a thread steps the library, the event loop hands its ids to whoever asked for them."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from lmi.api import (
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineStats,
    Finish,
    FinishReason,
    GenerationRequest,
    RequestError,
    TokenChunk,
    Usage,
)
from lmi_acme.config import AcmeConfig
from lmi_acme.library import EchoLibrary, Produced, Sequence


@dataclass
class Stream:
    """Where the ids of one request go."""

    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    chunks: asyncio.Queue[TokenChunk | Exception]

    def put(self, item: TokenChunk | Exception) -> None:
        """Hand over from the library's thread."""
        self.loop.call_soon_threadsafe(self.chunks.put_nowait, item)


class AcmeEngine(Engine):
    """Drives a library that schedules by itself."""

    def __init__(self, config: AcmeConfig) -> None:
        self.limits = EngineLimits(
            max_context_tokens=config.max_model_len, max_batch_size=config.max_rolling_batch_size, vocab_size=0
        )
        self._library = EchoLibrary(config.max_rolling_batch_size)
        self._streams: dict[str, Stream] = {}
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._n_steps = 0
        self._end: EngineDeadError | None = None
        self._thread = threading.Thread(target=self._run, name="acme-steps", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------------- in the event loop

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        self._refuse(request)
        stream = Stream(request, asyncio.get_running_loop(), asyncio.Queue())
        self._orders.put(lambda: self._start(stream))
        finish = None
        try:
            while finish is None:
                item = await stream.chunks.get()
                if isinstance(item, Exception):
                    raise item
                finish = item.finish
                yield item
        finally:
            if finish is None:  # whoever read this has left: free the slot
                self._orders.put(lambda: self._stop(request.request_id))

    def _refuse(self, request: GenerationRequest) -> None:
        if self._end is not None:
            raise self._end
        n_tokens, limit = request.n_reserved_tokens, self.limits.max_context_tokens
        if n_tokens > limit:
            raise RequestError(
                "request.too-long",
                f"prompt {len(request.prompt_ids)} tokens + max_tokens {request.sampling.max_tokens} = {n_tokens}; "
                f"this model takes {limit}",
                "Shorten the prompt or lower max_tokens",
            )

    def stats(self) -> EngineStats:
        return EngineStats(
            n_running=self._library.n_running, n_waiting=self._library.n_waiting, n_steps=self._n_steps
        )  # fmt: skip

    async def check_health(self) -> None:
        if self._end is not None:
            raise self._end

    async def close(self) -> None:
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)

    # ------------------------------------------------------------------------------------- in the library's thread

    def _run(self) -> None:
        try:
            while self._obey():
                for produced in self._library.step():
                    self._deliver(produced)
                self._n_steps += 1
            self._end = EngineDeadError("engine.closed", "the engine is closed")
        except Exception as error:
            self._end = EngineDeadError("engine.died", f"a step failed: {type(error).__name__}: {error}")
        for stream in self._streams.values():
            stream.put(self._end)

    def _obey(self) -> bool:
        """Do what was ordered; sleep while there is nothing to do. False when the engine is closed."""
        while not self._orders.empty() or not self._library.n_running:
            order = self._orders.get()
            if order is None:
                return False
            order()
        return True

    def _start(self, stream: Stream) -> None:
        request = stream.request
        self._streams[request.request_id] = stream
        self._library.add(
            Sequence(
                key=request.request_id,
                prompt_ids=request.prompt_ids,
                n_output=len(request.resumed_ids),  # an earlier worker made these: they count, and are not sent again
                max_tokens=request.sampling.max_tokens,
                stop_ids=frozenset(request.sampling.stop_token_ids),
            )
        )

    def _stop(self, key: str) -> None:
        self._streams.pop(key, None)
        self._library.abort(key)

    def _deliver(self, produced: Produced) -> None:
        stream = self._streams[produced.key]
        finish = usage = None
        if produced.reason:
            is_stop = produced.reason == "stop"
            finish = Finish(FinishReason.STOP_TOKEN, produced.token_id) if is_stop else Finish(FinishReason.LENGTH)
            usage = Usage(len(stream.request.prompt_ids), produced.n_output)
            del self._streams[produced.key]
        stream.put(TokenChunk([produced.token_id], finish=finish, usage=usage))

    def die(self) -> None:
        """Let the next step fail, as a lost device would; the contract test wants to see what becomes of it."""

        def fail() -> None:
            raise RuntimeError("the device is gone")

        self._orders.put(fail)
