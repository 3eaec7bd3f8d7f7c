# SPDX-License-Identifier: Apache-2.0
"""TensorRT-LLM's LLM classes as an engine of LMI: ids in, ids out. Both of the library's ways are driven alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from lmi.api import (
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineStats,
    Finish,
    FinishReason,
    GenerationRequest,
    LmiError,
    NotFoundError,
    OutOfMemoryError,
    RequestError,
    TokenChunk,
    UnsupportedError,
    Usage,
)
from lmi_trtllm.arguments import EngineArguments
from lmi_trtllm.messages import first_line, is_out_of_memory, reasons_of
from lmi_trtllm.sampling import Leg, finish_of, next_leg, prompt_logprobs, refused, sampling_params, scored
from lmi_trtllm.streams import Step, Streams

_LOOK_S = 0.25
"""How often somebody looks whether the library's executor still runs."""


class TrtllmEngine(Engine):
    """A model on TensorRT-LLM.

    Args:
        llm: the library's object, loaded.
        arguments: what it was made with.
        eos_token_ids: ids that end a text.
        vocab_size: number of token ids.
        skips_prompt: whether the library can keep penalties off the prompt.
    """

    def __init__(
        self,
        llm: Any,
        arguments: EngineArguments,
        *,
        eos_token_ids: Sequence[int],
        vocab_size: int,
        skips_prompt: bool,
    ) -> None:
        self.llm = llm
        self._arguments, self._eos_token_ids, self._skips_prompt = arguments, tuple(eos_token_ids), skips_prompt
        self.limits = EngineLimits(
            max_context_tokens=arguments.max_context_tokens,
            max_batch_size=arguments.max_batch_size,
            vocab_size=vocab_size,
        )
        self._n_steps = 0
        self._streams = Streams(self._count_step)
        self._watch: asyncio.Task[None] | None = None
        self._is_closed = False
        self._death: EngineDeadError | None = None

    def _count_step(self) -> None:
        self._n_steps += 1

    def stats(self) -> EngineStats:
        n_open = self._streams.n_open
        n_running = min(n_open, self.limits.max_batch_size)
        return EngineStats(n_running=n_running, n_waiting=n_open - n_running, n_steps=self._n_steps)

    async def check_health(self) -> None:
        self._refuse_dead()

    # --------------------------------------------------------------------------------------------------- life, death

    def _refuse_dead(self) -> None:
        if self._is_closed:
            raise EngineDeadError("engine.closed", "the engine was closed")
        if self._death is None and self._has_ended():
            self._died("its executor was shut down")
        if self._death is not None:
            raise self._death

    def _has_ended(self) -> bool:
        executor = self.llm._executor
        return executor is None or bool(executor.is_shutdown())

    def _died(self, why: str) -> EngineDeadError:
        """Note the end, and tell every open stream."""
        if self._death is None:
            self._death = EngineDeadError(
                "engine.died", f"TensorRT-LLM's executor died: {why}", "The worker's log says more"
            )
            self._streams.fail(self._death)
        return self._death

    async def _look(self) -> None:
        """Look whether the executor runs, as long as there are requests: none of them may be told of its end."""
        while self._streams.n_open and self._death is None and not self._is_closed:
            await asyncio.sleep(_LOOK_S)
            if not self._is_closed and self._has_ended():
                self._died("its executor was shut down")

    def _failed(self, error: Exception) -> LmiError:
        """What became of a request that the library gave up."""
        if self._is_closed:
            return EngineDeadError("engine.closed", "the engine was closed")
        if self._death is not None or self._has_ended():
            return self._died(reasons_of(error))
        if is_out_of_memory(error):
            return OutOfMemoryError(
                "engine.out-of-memory",
                f"TensorRT-LLM ran out of memory for this request: {first_line(error)}",
                "Lower option.max_rolling_batch_size or option.kv_cache_free_gpu_mem_fraction",
            )
        if isinstance(error, ValueError | TypeError):
            return refused(error)
        return LmiError("engine.failed", f"{type(error).__name__}: {first_line(error)}", "The worker's log says more")

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._streams.fail(EngineDeadError("engine.closed", "the engine was closed"))
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.to_thread(self.llm.shutdown)

    # ------------------------------------------------------------------------------------------------------- generation

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        self._refuse_dead()
        finished = self._finished_before(request)
        if finished is not None:
            yield finished
            return
        self._check(request)
        adapter = self._lora_request(request.adapter)
        produced, is_first = list(request.resumed_ids), True
        while True:
            leg = next_leg(request, produced)
            async with contextlib.aclosing(self._steps(request, leg, adapter)) as steps:
                async for step in steps:
                    produced += step.ids
                    finish = self._finish(request, leg, step, produced)
                    if finish is None and not step.ids:
                        continue
                    yield self._chunk(request, step, finish, is_first and not leg.before, len(produced))
                    is_first = False
                    if finish is not None:
                        return
            if len(produced) == len(leg.before):
                raise LmiError("engine.failed", "TensorRT-LLM ended a request without an id", "The log says more")

    async def _steps(self, request: GenerationRequest, leg: Leg, adapter: Any = None) -> AsyncGenerator[Step, None]:
        params = sampling_params(request, leg, self._eos_token_ids, self.limits.vocab_size)
        of_adapter = {} if adapter is None else {"lora_request": adapter}
        try:
            result = self.llm.generate_async([*request.prompt_ids, *leg.before], params, streaming=True, **of_adapter)
        except Exception as error:
            raise self._failed(error) from error
        steps = self._streams.read(result)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._look())
        async with contextlib.aclosing(steps):
            try:
                async for step in steps:
                    yield step
            except LmiError:
                raise
            except Exception as error:
                raise self._failed(error) from error

    def _finish(self, request: GenerationRequest, leg: Leg, step: Step, produced: Sequence[int]) -> Finish | None:
        """Why the request ends with this step; None where it goes on, if only with another leg."""
        if not step.is_last:
            return None
        finish = finish_of(step.output, request, produced[-1] if produced else None, self._eos_token_ids)
        goes_on = finish.reason is FinishReason.LENGTH and not leg.can_end
        return None if goes_on and len(produced) < request.sampling.max_tokens else finish

    def _chunk(
        self, request: GenerationRequest, step: Step, finish: Finish | None, is_first: bool, n_output: int
    ) -> TokenChunk:
        asked = request.sampling
        scores = None if asked.n_logprobs is None else scored(step.ids, step.logits, asked.n_logprobs)
        of_prompt = None
        if is_first and asked.n_prompt_logprobs is not None:
            of_prompt = prompt_logprobs(request, step.prompt_logits)
        usage = None if finish is None else Usage(len(request.prompt_ids), n_output)
        return TokenChunk(step.ids, scores, of_prompt, finish, usage)

    # -------------------------------------------------------------------------------------------------- what is refused

    def _check(self, request: GenerationRequest) -> None:
        asked, given = request.sampling, self._arguments
        self._check_length(request)
        if asked.n_prompt_logprobs is not None and not given.takes_prompt_logits:
            raise UnsupportedError(
                "request.unsupported",
                "log probabilities of the prompt need engines built with gather_context_logits, and these are not",
                "Set option.gather_context_logits=true where the engines are built, or ask for those of the output "
                "alone",
            )
        if (asked.presence_penalty or asked.frequency_penalty) and not self._skips_prompt:
            raise UnsupportedError(
                "request.unsupported",
                "this release of TensorRT-LLM counts the prompt's ids in presence_penalty and frequency_penalty",
                "Use repetition_penalty, or a release whose SamplingParams have prompt_ignore_length",
            )

    def _lora_request(self, adapter: str) -> Any:
        """The library's word for an adapter; None for none."""
        if adapter:
            raise NotFoundError(
                "adapter.unknown", f"adapter {adapter!r} is not loaded", "Set option.enable_lora=true to serve adapters"
            )
        return None

    def _check_length(self, request: GenerationRequest) -> None:
        n_prompt, n_total, given = len(request.prompt_ids), request.n_reserved_tokens, self._arguments
        if n_total > given.max_context_tokens:
            raise RequestError(
                "request.too-long",
                f"prompt {n_prompt} tokens + max_tokens {request.sampling.max_tokens} = {n_total}; this model takes "
                f"{given.max_context_tokens}",
                f"Shorten it by {n_total - given.max_context_tokens} tokens, or raise option.max_output_len",
            )
        if n_prompt > given.max_prompt_tokens:
            raise RequestError(
                "request.too-long",
                f"the prompt has {n_prompt} tokens; this model takes prompts of {given.max_prompt_tokens}",
                f"Shorten it by {n_prompt - given.max_prompt_tokens} tokens, or raise option.max_input_len",
            )

    def _finished_before(self, request: GenerationRequest) -> TokenChunk | None:
        """The last chunk of a request whose worker died between its last id and the word that it was the last."""
        resumed, asked = request.resumed_ids, request.sampling
        if not resumed:
            return None
        usage, last = Usage(len(request.prompt_ids), len(resumed)), resumed[-1]
        if len(resumed) > asked.min_tokens:
            if last in self._eos_token_ids and not asked.ignore_eos:
                return TokenChunk([], finish=Finish(FinishReason.EOS, last), usage=usage)
            if last in asked.stop_token_ids:
                return TokenChunk([], finish=Finish(FinishReason.STOP_TOKEN, last), usage=usage)
        if len(resumed) >= asked.max_tokens:
            return TokenChunk([], finish=Finish(FinishReason.LENGTH), usage=usage)
        return None
