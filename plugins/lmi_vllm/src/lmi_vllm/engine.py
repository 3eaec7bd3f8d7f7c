# SPDX-License-Identifier: Apache-2.0
"""vLLM's asynchronous engine as an engine of LMI: ids in, ids out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
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
    ExistsError,
    Finish,
    FinishReason,
    GenerationRequest,
    LmiError,
    NotFoundError,
    RequestError,
    TokenChunk,
    Usage,
)
from lmi_vllm.machine import runs_on_cpu
from lmi_vllm.messages import LastWords
from lmi_vllm.sampling import finish_of, prompt_logprobs, refused, sampling_params, token_logprobs
from lmi_vllm.steps import StepCounter

_CLOSE_S = 3.0
"""What vLLM's processes get to end before they are killed; the worker is ended two seconds later."""


_NO_ADAPTER = LoRARequest(lora_name="no_adapter", lora_int_id=1, lora_path=str(Path(__file__).with_name("no_adapter")))
"""An adapter without weights, which names the model itself on CPU: beside a request with an adapter, one without any is
answered there by whichever adapter holds the last place. Source: vLLM 0.32, torch_ops/lora_ops.py, index -1."""


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
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[self._steps.logger])
        self._tokenizer = self._llm.get_tokenizer()
        model, config = self._llm.model_config, self._llm.vllm_config
        self.limits = EngineLimits(
            max_context_tokens=model.max_model_len,
            max_batch_size=config.scheduler_config.max_num_seqs,
            vocab_size=model.get_vocab_size(),
        )
        self._n_cache_tokens = (config.cache_config.num_gpu_blocks or 0) * (config.cache_config.block_size or 0)
        self._is_closed = False

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
        if self._is_closed:
            raise EngineDeadError("engine.closed", "the engine was closed")
        with self.told():
            await self._llm.check_health()

    def _died(self, error: BaseException) -> EngineDeadError:
        said = self._words.text or str(error).splitlines()[0]
        return EngineDeadError("engine.died", f"vLLM's engine died: {said}", "The worker's log says more")

    # ------------------------------------------------------------------------------------------------- generation

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        finished = self._finished_before(request)
        if finished is not None:
            yield finished
            return
        self._check_length(request)
        params = sampling_params(request, self._eos_token_ids, self._tokenizer)
        lora_request = self._lora_request(request.adapter)
        prompt = tokens_input([*request.prompt_ids, *request.resumed_ids])
        n_output, n_top = len(request.resumed_ids), request.sampling.n_logprobs or 0
        outputs = self._llm.generate(prompt, params, request.request_id, lora_request=lora_request)
        with self.told():
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    completion = output.outputs[0]
                    ids = list(completion.token_ids)
                    n_output += len(ids)
                    chunk = TokenChunk(ids, token_logprobs(completion, n_top), self._of_prompt(output, request))
                    if completion.finish_reason is not None:
                        finish = finish_of(completion, request, self._eos_token_ids)
                        usage = Usage(len(request.prompt_ids), n_output, output.num_cached_tokens or 0)
                        chunk = TokenChunk(chunk.ids, chunk.logprobs, chunk.prompt_logprobs, finish, usage)
                    yield chunk

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What vLLM raises, in LMI's words."""
        try:
            yield
        except DeadError as error:
            raise self._died(error) from error
        except EngineGenerateError as error:
            raise self._failed(error) from error
        except VLLMClientError as error:
            raise refused(error) from error

    def _failed(self, error: Exception) -> LmiError:
        """What became of a request that vLLM gave up for a reason of its own."""
        cause = error.__cause__ or error
        if self._llm.errored:
            return self._died(cause)
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
            self._llm.shutdown(timeout=_CLOSE_S)


class AdapterEngine(VLLMEngine):
    """The same with LoRA adapters, which come and go while it runs."""

    def __init__(self, arguments: dict[str, Any], eos_token_ids: tuple[int, ...], words: LastWords) -> None:
        self._none = _NO_ADAPTER if runs_on_cpu(os.environ) else None
        if self._none is not None:
            n_places: dict[str, Any] = {
                name: arguments[name] + 1 for name in ("max_loras", "max_cpu_loras") if name in arguments
            }
            arguments = {**arguments, **n_places}
        super().__init__(arguments, eos_token_ids, words)
        self._adapters: dict[str, LoRARequest] = {}
        self._n_loaded = _NO_ADAPTER.lora_int_id

    async def load_adapter(self, name: str, path: str) -> None:
        if name in self._adapters:
            raise ExistsError("adapter.exists", f"adapter {name!r} is loaded from {self._adapters[name].lora_path}")
        # Neither number nor name is used twice: for the same ones vLLM takes the weights, and the cache of prompts, that
        # it has. A folder may hold other weights by now.
        self._n_loaded += 1
        adapter = LoRARequest(lora_name=f"{name}/{self._n_loaded}", lora_int_id=self._n_loaded, lora_path=path)
        try:
            # Before any request names it: a path that cannot be read ends vLLM's engine if `generate` finds out.
            await self._llm.add_lora(adapter)
        except DeadError as error:
            raise self._died(error) from error
        except Exception as error:
            reason = str(error).strip().splitlines()[-1]
            raise RequestError(
                "adapter.not-loadable", f"vLLM cannot load adapter {name!r} from {path}: {reason}"
            ) from error
        self._adapters[name] = adapter

    async def unload_adapter(self, name: str) -> None:
        adapter = self._lora_request(name)
        if name and adapter is not None:
            del self._adapters[name]
            await self._llm.remove_lora(adapter.lora_int_id)

    async def list_adapters(self) -> list[str]:
        return sorted(self._adapters)

    def _lora_request(self, adapter: str) -> LoRARequest | None:
        if not adapter:
            return self._none
        if adapter not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise NotFoundError("adapter.unknown", f"adapter {adapter!r} is not loaded", f"Loaded: {known}")
        return self._adapters[adapter]
