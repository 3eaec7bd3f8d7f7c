# SPDX-License-Identifier: Apache-2.0
"""An engine without a model: one id a step, one step a turn of the event loop for all live requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

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
    TokenLogprob,
    Usage,
)
from lmi_echo.config import EchoConfig


class EchoEngine(Engine):
    """Repeats the prompt, from its start again when it ends, until ``max_tokens`` or a stop id."""

    def __init__(self, config: EchoConfig) -> None:
        self.limits = EngineLimits(
            max_context_tokens=config.max_model_len, max_batch_size=config.max_rolling_batch_size, vocab_size=0
        )
        self._step_delay_s = config.step_delay_ms / 1000
        self._slots = asyncio.Semaphore(config.max_rolling_batch_size)
        self._n_running = self._n_waiting = self._n_steps = 0
        self._is_step_open = False
        self._end: EngineDeadError | None = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        self._check(request)
        finish = self._finish_on_arrival(request)
        if finish is not None:
            yield TokenChunk([], finish=finish, usage=Usage(len(request.prompt_ids), len(request.resumed_ids)))
            return
        self._n_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._n_waiting -= 1
        self._n_running += 1
        try:
            prompt, sampling = request.prompt_ids, request.sampling
            stop_ids = frozenset(sampling.stop_token_ids)
            first, last = len(request.resumed_ids), sampling.max_tokens - 1
            for position in range(first, last + 1):
                await self._step()
                token_id = prompt[position % len(prompt)]
                finish = None
                if token_id in stop_ids:
                    finish = Finish(FinishReason.STOP_TOKEN, token_id)
                elif position == last:
                    finish = Finish(FinishReason.LENGTH)
                yield self._chunk(request, token_id, position, finish)
                if finish is not None:
                    return
        finally:
            self._n_running -= 1
            self._slots.release()

    def _check(self, request: GenerationRequest) -> None:
        self._refuse_if_ended()
        n_tokens, limit = request.n_reserved_tokens, self.limits.max_context_tokens
        if n_tokens > limit:
            raise RequestError(
                "request.too-long",
                f"prompt {len(request.prompt_ids)} tokens + max_tokens {request.sampling.max_tokens} = {n_tokens}; "
                f"this model takes {limit}",
                "Shorten the prompt or lower max_tokens",
            )

    @staticmethod
    def _finish_on_arrival(request: GenerationRequest) -> Finish | None:
        """Why a resumed request needs no further id, or None: its worker died before it could say so."""
        resumed, sampling = request.resumed_ids, request.sampling
        if resumed and resumed[-1] in sampling.stop_token_ids:
            return Finish(FinishReason.STOP_TOKEN, resumed[-1])
        return Finish(FinishReason.LENGTH) if len(resumed) >= sampling.max_tokens else None

    def _chunk(self, request: GenerationRequest, token_id: int, position: int, finish: Finish | None) -> TokenChunk:
        # An echo is certain of what comes next: probability 1.
        n_logprobs = request.sampling.n_logprobs
        logprobs = None
        if n_logprobs is not None:
            logprobs = [TokenLogprob(token_id, 0.0, 1, ((token_id, 0.0),) if n_logprobs else ())]
        usage = None if finish is None else Usage(len(request.prompt_ids), position + 1)
        return TokenChunk([token_id], logprobs, None, finish, usage)

    async def _step(self) -> None:
        """Wait for the step that everything live takes part in; the first to ask for it opens it."""
        if not self._is_step_open:
            self._is_step_open = True
            asyncio.get_running_loop().call_soon(self._close_step)
        await asyncio.sleep(self._step_delay_s)
        self._refuse_if_ended()

    def _close_step(self) -> None:
        self._is_step_open = False
        self._n_steps += 1

    def stats(self) -> EngineStats:
        return EngineStats(n_running=self._n_running, n_waiting=self._n_waiting, n_steps=self._n_steps)

    async def check_health(self) -> None:
        self._refuse_if_ended()

    async def close(self) -> None:
        self._end = self._end or EngineDeadError("engine.closed", "the echo engine was closed")

    def die(self) -> None:
        """End as an engine does whose device is lost; nothing but a test asks for it."""
        self._end = EngineDeadError("engine.died", "the echo engine was told to die")

    def _refuse_if_ended(self) -> None:
        if self._end is not None:
            raise self._end
