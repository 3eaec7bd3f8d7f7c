# SPDX-License-Identifier: Apache-2.0
"""vLLM's asynchronous engine as an engine of LMI: ids in, ids out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError as DeadError, EngineGenerateError

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
    RequestError,
    TokenChunk,
    Usage,
)
from lmi_vllm.messages import LastWords, first_line
from lmi_vllm.sampling import finish_of, prompt_logprobs, refused, sampling_params, token_logprobs
from lmi_vllm.steps import StepCounter

_CLOSE_S = 3.0
"""What vLLM's processes get to end before they are killed; the worker is ended two seconds later."""


class VLLMEngine(Engine):
    """A model on vLLM.

    Args:
        arguments: of vLLM's engine.
        eos_token_ids: ids that end a text.
        words: the last errors that vLLM's processes logged.
    Raises:
        Exception: whatever vLLM raises while it loads.
    """

    def __init__(self, arguments: dict[str, Any], eos_token_ids: tuple[int, ...], words: LastWords) -> None:
        self._steps = StepCounter()
        self._words = words
        self._eos_token_ids = eos_token_ids
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[self._steps.logger()])
        model, config = self._llm.model_config, self._llm.vllm_config
        constraints = config.structured_outputs_config
        self.limits = EngineLimits(
            max_context_tokens=model.max_model_len,
            max_batch_size=config.scheduler_config.max_num_seqs,
            vocab_size=model.get_vocab_size(),
            reasons_first=bool(constraints.reasoning_parser) and not constraints.enable_in_reasoning,
        )
        self._n_cache_tokens = (config.cache_config.num_gpu_blocks or 0) * (config.cache_config.block_size or 0)
        self._is_closed = False
        self._running: set[str] = set()

    def stats(self) -> EngineStats:
        steps = self._steps
        return EngineStats(
            n_running=steps.n_running,
            n_waiting=steps.n_waiting,
            kv_used_tokens=round(steps.kv_share * self._n_cache_tokens),
            kv_total_tokens=self._n_cache_tokens,
            n_steps=steps.n_steps,
        )

    async def check_health(self) -> None:
        self._refuse_closed()
        with self.told():
            await self._llm.check_health()

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise EngineDeadError("engine.closed", "the engine was closed")

    def died(self, error: BaseException) -> EngineDeadError:
        """Its end, in the words of the process that knows why."""
        said = self._words.text or first_line(error)
        return EngineDeadError("engine.died", f"vLLM's engine died: {said}", "The worker's log says more")

    # ------------------------------------------------------------------------------------------------- generation

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        finished = self._finished_before(request)
        if finished is not None:
            yield finished
            return
        self._check_length(request)
        params = sampling_params(request, self._eos_token_ids)
        lora_request = self._lora_request(request.adapter)
        prompt = tokens_input([*request.prompt_ids, *request.resumed_ids])
        n_output, n_top = len(request.resumed_ids), request.sampling.n_logprobs or 0
        is_answer = self._begins_with_answer(request)
        outputs = self._llm.generate(
            prompt, params, request.request_id, lora_request=lora_request, reasoning_ended=is_answer
        )
        with self.told(), self._listed(request.request_id):
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    completion = output.outputs[0]
                    if completion.finish_reason == "abort":
                        self._refuse_closed()
                    ids = list(completion.token_ids)
                    n_output += len(ids)
                    chunk = TokenChunk(ids, token_logprobs(completion, n_top), self._of_prompt(output, request))
                    if completion.finish_reason is not None:
                        finish = finish_of(completion, request, self._eos_token_ids)
                        usage = Usage(len(request.prompt_ids), n_output, output.num_cached_tokens or 0)
                        chunk = TokenChunk(chunk.ids, chunk.logprobs, chunk.prompt_logprobs, finish, usage)
                    yield chunk

    def _begins_with_answer(self, request: GenerationRequest) -> bool | None:
        """Whether a constraint holds from the first token on; None where vLLM has nothing else to wait for."""
        constraint = request.sampling.constraint
        return None if constraint is None or not self.limits.reasons_first else constraint.reasoning is None

    @contextlib.contextmanager
    def _listed(self, request_id: str) -> Iterator[None]:
        self._running.add(request_id)
        try:
            yield
        finally:
            self._running.discard(request_id)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What vLLM raises, in LMI's words."""
        try:
            yield
        except DeadError as error:
            raise self.died(error) from error
        except EngineGenerateError as error:
            raise self._failed(error) from error
        except VLLMClientError as error:
            raise refused(error) from error

    def _failed(self, error: Exception) -> LmiError:
        """What became of a request that vLLM gave up for a reason of its own."""
        cause = error.__cause__ or error
        if self._llm.errored:
            return self.died(cause)
        if isinstance(cause, ValueError | TypeError):
            return refused(cause)
        return LmiError("engine.failed", f"{type(cause).__name__}: {cause}", "The worker's log says more")

    def _finished_before(self, request: GenerationRequest) -> TokenChunk | None:
        """The last chunk of a request whose worker died between its last id and the word that it was the last."""
        resumed, sampling = request.resumed_ids, request.sampling
        if not resumed:
            return None
        usage = Usage(len(request.prompt_ids), len(resumed))
        last, n_output = resumed[-1], len(resumed)
        if n_output > sampling.min_tokens:
            if last in self._eos_token_ids and not sampling.ignore_eos:
                return TokenChunk([], finish=Finish(FinishReason.EOS, last), usage=usage)
            if last in sampling.stop_token_ids:
                return TokenChunk([], finish=Finish(FinishReason.STOP_TOKEN, last), usage=usage)
        if n_output >= sampling.max_tokens:
            return TokenChunk([], finish=Finish(FinishReason.LENGTH), usage=usage)
        return None

    def _check_length(self, request: GenerationRequest) -> None:
        n_prompt, limit = len(request.prompt_ids), self.limits.max_context_tokens
        if request.n_reserved_tokens > limit:
            raise RequestError(
                "request.too-long",
                f"prompt {n_prompt} tokens + max_tokens {request.sampling.max_tokens} = {request.n_reserved_tokens}; "
                f"this model takes {limit}",
                f"Shorten it by {request.n_reserved_tokens - limit} tokens",
            )

    def _lora_request(self, adapter: str) -> LoRARequest | None:
        if adapter:
            raise NotFoundError("adapter.unknown", f"adapter {adapter!r} is not loaded", "No adapter is served here")
        return None

    @staticmethod
    def _of_prompt(output: RequestOutput, request: GenerationRequest) -> Any:
        if not output.prompt_logprobs:  # an empty list after the first chunk
            return None
        return prompt_logprobs(request.prompt_ids, output.prompt_logprobs, request.sampling.n_prompt_logprobs or 0)

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            with contextlib.suppress(DeadError):  # nothing else ends the streams of an engine that is shut down
                await self._llm.abort(list(self._running))
            self._llm.shutdown(timeout=_CLOSE_S)
