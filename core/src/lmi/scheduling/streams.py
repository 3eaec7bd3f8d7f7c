# SPDX-License-Identifier: Apache-2.0
"""The way of a request's chunks from the step's thread to the coroutine that reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from lmi.api import GenerationRequest, TokenChunk
from lmi.scheduling.active import ActiveRequest
from lmi.scheduling.rows import SamplingRow


class Stream:
    """One request on its way through the engine: its chunks, read by one coroutine, and its state in the steps.

    ``active`` and ``row`` belong to the thread of the steps once the stream is sent there; the rest to the event loop.

    Args:
        request: the request.
        eos_token_ids: the model's end-of-sequence ids.
        vocab_size: number of token ids.
        loop: the event loop of the reader.
    """

    __slots__ = ("_chunks", "_failure", "_waiter", "active", "loop", "row")

    def __init__(
        self,
        request: GenerationRequest,
        eos_token_ids: Sequence[int],
        vocab_size: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self.active = ActiveRequest(request, eos_token_ids, self)
        ending_ids = self.active.ending_ids
        self.row = SamplingRow(request.sampling, request.prompt_ids, request.resumed_ids, ending_ids, vocab_size)
        self._chunks: deque[TokenChunk] = deque()
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def next(self) -> TokenChunk:
        """The next chunk, in order; waits for it.

        Raises:
            LmiError: whatever ended the request, after the chunks that came before it.
        """
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._chunks.popleft()

    def put(self, chunk: TokenChunk) -> None:
        """Add a chunk."""
        self._chunks.append(chunk)
        self._wake()

    def fail(self, failure: Exception) -> None:
        """End with an exception; the first one counts."""
        self._failure = self._failure or failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


Delivery = tuple[Stream, TokenChunk | Exception]


def deliver(deliveries: Sequence[Delivery]) -> list[Stream]:
    """Hand over what a step produced: one call into each reader's event loop (there is one, as a rule).

    Returns:
        Streams whose loop is closed: nobody will read them any more.
    """
    lost: list[Stream] = []
    for loop in {stream.loop for stream, _ in deliveries}:
        ours = [delivery for delivery in deliveries if delivery[0].loop is loop]
        try:
            loop.call_soon_threadsafe(_hand_over, ours)
        except RuntimeError:  # the loop is closed
            lost += [stream for stream, _ in ours]
    return lost


def _hand_over(deliveries: Iterable[Delivery]) -> None:
    for stream, item in deliveries:
        if isinstance(item, TokenChunk):
            stream.put(item)
        else:
            stream.fail(item)
