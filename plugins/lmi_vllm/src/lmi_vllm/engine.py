# SPDX-License-Identifier: Apache-2.0
"""vLLM's asynchronous engine as an engine of LMI: ids in, ids out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
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
from lmi_vllm.no_adapter import write_no_adapter
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
        self._tokenizer = self._llm.get_tokenizer()
        model, config = self._llm.model_config, self._llm.vllm_config
        self.limits = EngineLimits(
            max_context_tokens=model.max_model_len,
            max_batch_size=config.scheduler_config.max_num_seqs,
            vocab_size=model.get_vocab_size(),
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
            with contextlib.suppress(DeadError):  # nothing else ends the streams of an engine that is shut down
                await self._llm.abort(list(self._running))
            self._llm.shutdown(timeout=_CLOSE_S)


class AdapterEngine(VLLMEngine):
    """The same with LoRA adapters, which come and go while it runs."""

    def __init__(self, arguments: dict[str, Any], eos_token_ids: tuple[int, ...], words: LastWords) -> None:
        self._needs_none = runs_on_cpu(os.environ)
        self._none: LoRARequest | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if self._needs_none:
            arguments = dict(arguments)
            for name in {"max_loras", "max_cpu_loras"} & arguments.keys():
                arguments[name] += 1
        super().__init__(arguments, eos_token_ids, words)
        self._adapters: dict[str, LoRARequest] = {}
        self._n_loaded = 0
        self._n_plain = 0
        self._no_plain = asyncio.Event()
        self._no_plain.set()
        self._loading = asyncio.Lock()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        with self._counted(is_plain=not request.adapter and self._none is None):
            async with contextlib.aclosing(super().generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk

    @contextlib.contextmanager
    def _counted(self, *, is_plain: bool) -> Iterator[None]:
        self._n_plain += is_plain
        if is_plain:
            self._no_plain.clear()
        try:
            yield
        finally:
            self._n_plain -= is_plain
            if not self._n_plain:
                self._no_plain.set()

    async def load_adapter(self, name: str, path: str) -> None:
        async with self._loading:
            if name in self._adapters:
                path = self._adapters[name].lora_path
                raise ExistsError("adapter.exists", f"adapter {name!r} is loaded from {path}")
            if self._needs_none:
                if self._none is None:
                    await self._load_none(name, path)
                await self._no_plain.wait()
            adapter = self._new(name, path)
            await self._add(adapter, name, path)
            self._adapters[name] = adapter

    async def _load_none(self, name: str, path: str) -> None:
        """Give the requests without an adapter that come from now on one that changes nothing."""
        # It stays there: vLLM reads it again when it was put out of memory for others.
        self._folder = tempfile.TemporaryDirectory(prefix="lmi-vllm-")
        try:
            write_no_adapter(Path(self._folder.name), Path(path))
        except (OSError, ValueError) as error:
            raise _not_loadable(name, path, error) from error
        none = self._new("", self._folder.name)
        await self._add(none, name, path)
        self._none = none

    def _new(self, name: str, path: str) -> LoRARequest:
        # Neither number nor name is used twice: for the same ones vLLM takes the weights, and the cache of prompts,
        # that it has; a folder may hold other weights by now.
        self._n_loaded += 1
        return LoRARequest(lora_name=f"{name}/{self._n_loaded}", lora_int_id=self._n_loaded, lora_path=path)

    async def _add(self, adapter: LoRARequest, name: str, path: str) -> None:
        try:
            # Before any request names it: a path that cannot be read ends vLLM's engine if `generate` finds out.
            await self._llm.add_lora(adapter)
        except DeadError as error:
            raise self._died(error) from error
        except Exception as error:
            raise _not_loadable(name, path, error) from error

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

    async def close(self) -> None:
        await super().close()
        if self._folder is not None:
            self._folder.cleanup()


def _not_loadable(name: str, path: str, error: Exception) -> RequestError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return RequestError("adapter.not-loadable", f"vLLM cannot load adapter {name!r} from {path}: {reason}")
