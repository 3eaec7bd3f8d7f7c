# SPDX-License-Identifier: Apache-2.0
"""The acme engine: a thread steps the library, the event loop hands its ids to whoever asked for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
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

CLOSE_WITHIN_S = 3.0
"""Longest wait for a step's end on closing; LMI kills a worker that takes more than 5 s to close."""

log = logging.getLogger(__name__)


@dataclass
class Stream:
    """Where the ids of one request go."""

    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    chunks: asyncio.Queue[TokenChunk | Exception]

    def put(self, item: TokenChunk | Exception) -> None:
        """Hand over, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, item)


def finish_on_arrival(request: GenerationRequest) -> Finish | None:
    """Why a resumed request needs no further id, or None: its worker died before it could say so."""
    resumed, sampling = request.resumed_ids, request.sampling
    if len(resumed) > sampling.min_tokens and resumed[-1] in sampling.stop_token_ids:
        return Finish(FinishReason.STOP_TOKEN, resumed[-1])
    return Finish(FinishReason.LENGTH) if len(resumed) >= sampling.max_tokens else None


class AcmeEngine(Engine):
    """Drives a library that schedules by itself."""

    def __init__(self, config: AcmeConfig) -> None:
        self.limits = EngineLimits(
            max_context_tokens=config.max_model_len, max_batch_size=config.max_rolling_batch_size, vocab_size=0
        )
        self._library = EchoLibrary(config.max_rolling_batch_size)
        self._streams: dict[str, Stream] = {}  # changed by the event loop alone
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._n_steps = 0
        self._end: EngineDeadError | None = None
        self._thread_ended: Future[None] = Future()
        # A daemon, so that a step which hangs does not keep the process from ending.
        threading.Thread(target=self._run, name="acme-steps", daemon=True).start()

    # ------------------------------------------------------------------------------------------- in the event loop

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        self._refuse_if_ended()
        self._refuse_if_too_long(request)
        finish = finish_on_arrival(request)
        if finish is not None:
            yield TokenChunk([], finish=finish, usage=Usage(len(request.prompt_ids), len(request.resumed_ids)))
            return
        key, is_over = request.request_id, False
        stream = self._streams[key] = Stream(request, asyncio.get_running_loop(), asyncio.Queue())
        try:
            self._refuse_if_ended()  # whatever ends the engine after this look finds the stream in the table
            self._orders.put(lambda: self._start(stream))
            while not is_over:
                item = await stream.chunks.get()
                is_over = isinstance(item, Exception) or item.finish is not None
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._streams.pop(key, None)
            if not is_over:  # whoever read this has left: free the slot
                self._orders.put(lambda: self._library.abort(key))

    def _refuse_if_ended(self) -> None:
        if self._end is not None:
            raise self._end

    def _refuse_if_too_long(self, request: GenerationRequest) -> None:
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
        self._refuse_if_ended()

    async def close(self) -> None:
        self._end_with(EngineDeadError("engine.closed", "the engine is closed"))
        self._orders.put(None)
        await asyncio.wait([asyncio.wrap_future(self._thread_ended)], timeout=CLOSE_WITHIN_S)

    def _end_with(self, end: EngineDeadError) -> None:
        """Tell every open stream, and from now on every request; called from either thread."""
        self._end = self._end or end
        for stream in list(self._streams.values()):
            stream.put(self._end)

    # ------------------------------------------------------------------------------------- in the library's thread

    def _run(self) -> None:
        try:
            while self._obey():
                for produced in self._library.step():
                    self._deliver(produced)
                self._n_steps += 1
        except BaseException as error:  # whatever it is, the open streams must hear of it
            log.exception("A step failed; the engine stops.")
            self._end_with(EngineDeadError("engine.died", f"a step failed: {type(error).__name__}: {error}"))
        self._thread_ended.set_result(None)

    def _obey(self) -> bool:
        """Do what was ordered; sleep while there is nothing to do. False when the engine is closed."""
        while not self._orders.empty() or not self._library.has_work:
            order = self._orders.get()
            if order is None:
                return False
            order()
        return True

    def _start(self, stream: Stream) -> None:
        request = stream.request
        sequence = Sequence(
            key=request.request_id,
            prompt_ids=request.prompt_ids,
            n_output=len(request.resumed_ids),  # an earlier worker made these: they count, and are not sent again
            max_tokens=request.sampling.max_tokens,
            stop_ids=frozenset(request.sampling.stop_token_ids),
        )
        try:
            self._library.add(sequence)
        except Exception as error:  # the fault of this request: the others go on
            text = f"the library refused the request: {type(error).__name__}: {error}"
            stream.put(RequestError("request.refused-by-library", text, "Change what it says is wrong."))

    def _deliver(self, produced: Produced) -> None:
        stream = self._streams.get(produced.key)
        if stream is None:
            return  # its reader has left, and the library does not know yet
        finish = usage = None
        if produced.reason:
            is_stop = produced.reason == "stop"
            finish = Finish(FinishReason.STOP_TOKEN, produced.token_id) if is_stop else Finish(FinishReason.LENGTH)
            usage = Usage(len(stream.request.prompt_ids), produced.n_output)
        stream.put(TokenChunk([produced.token_id], finish=finish, usage=usage))

    def die(self) -> None:
        """Let the next step fail, as a lost device would; the contract test wants to see what becomes of it."""

        def fail() -> None:
            raise RuntimeError("the device is gone")

        self._orders.put(fail)
