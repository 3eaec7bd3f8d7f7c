# SPDX-License-Identifier: Apache-2.0
"""TensorRT-LLM with LoRA adapters, which come and go while it runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import torch
from tensorrt_llm.executor.request import LoRARequest

from lmi.api import (
    EngineDeadError,
    EngineStats,
    ExistsError,
    GenerationRequest,
    LmiError,
    NotFoundError,
    OutOfMemoryError,
    RequestError,
    SamplingParams,
    TokenChunk,
)
from lmi_trtllm.arguments import EngineArguments
from lmi_trtllm.engine import TrtllmEngine
from lmi_trtllm.places import Places
from lmi_trtllm.sampling import next_leg

_N_PROBE = 8
"""Ids of the prompt that an adapter is tried with; after a single one, matrices of queries and keys change nothing."""


class AdapterEngine(TrtllmEngine):
    """The same with LoRA adapters, which come and go while it runs.

    Args:
        llm, arguments: as the engine without them has them; ``arguments.n_adapters`` says for how many there is room.
        check: raises what is wrong with an adapter, given its name and its folder; runs in a thread.
        more: as the engine without adapters has it.
    """

    def __init__(self, llm: Any, arguments: EngineArguments, *, check: Callable[[str, str], None], **more: Any) -> None:
        super().__init__(llm, arguments, **more)
        self._check_folder = check
        self._places = Places(arguments.n_adapters)
        self._adapters: dict[str, LoRARequest] = {}
        self._n_loaded = 0
        self._plain: Any = None
        self._loading = asyncio.Lock()

    def stats(self) -> EngineStats:
        found = super().stats()
        return msgspec.structs.replace(found, n_waiting=found.n_waiting + self._places.n_waiting)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        async with contextlib.AsyncExitStack() as held:
            if request.adapter:
                self._refuse_dead()
                number = self._named(request.adapter).lora_int_id
                await held.enter_async_context(self._places.held(number))
            chunks = await held.enter_async_context(contextlib.aclosing(super().generate(request)))
            async for chunk in chunks:
                yield chunk

    async def load_adapter(self, name: str, path: str) -> None:
        async with self._loading:
            self._refuse_dead()
            if name in self._adapters:
                raise ExistsError("adapter.exists", f"adapter {name!r} is loaded from {self._adapters[name].lora_path}")
            await asyncio.to_thread(self._check_folder, name, path)
            # No number is used twice: for the same one the library takes the weights, and the cache of prompts, that
            # it has; a folder may hold other weights by now.
            self._n_loaded += 1
            number = self._n_loaded
            try:
                adapter = LoRARequest(lora_name=f"{name}/{number}", lora_int_id=number, lora_path=path)
                await self._try(adapter)
            except EngineDeadError:
                raise
            except (LmiError, ValueError) as error:
                raise _not_loadable(name, path, error) from error
            self._adapters[name] = adapter

    async def _try(self, adapter: LoRARequest) -> None:
        """Answer with an adapter, before any request names it: the library reads it now, or says what is wrong.

        Raises:
            LmiError: it could not answer, or did so as it does without the adapter.
        """
        if self._plain is None:
            self._plain = await self._probed(None)
        async with self._places.held(adapter.lora_int_id):
            changed = await self._probed(adapter)
        if torch.equal(self._plain, changed):
            raise RequestError(
                "adapter.not-loadable", "it changes nothing: either its weights do not, or this release ignores them"
            )

    async def _probed(self, adapter: LoRARequest | None) -> Any:
        """The model's scores of what comes after a few ids."""
        given = self._arguments
        n_ids = max(1, min(_N_PROBE, given.max_prompt_tokens, given.max_context_tokens - 1))
        request = GenerationRequest(
            request_id="adapter",
            prompt_ids=[number % max(1, self.limits.vocab_size) for number in range(n_ids)],
            sampling=SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, n_logprobs=0),
        )
        scores = None
        async with contextlib.aclosing(self._steps(request, next_leg(request, []), adapter)) as steps:
            async for step in steps:
                scores = step.logits if step.logits is not None else scores
        if scores is None:
            raise LmiError("engine.failed", "TensorRT-LLM gave no logits", "The worker's log says more")
        return scores.detach().float().cpu()

    async def unload_adapter(self, name: str) -> None:
        async with self._loading:
            self._named(name)
            del self._adapters[name]  # the library has no call to give its memory back

    async def list_adapters(self) -> list[str]:
        return sorted(self._adapters)

    def _lora_request(self, adapter: str) -> LoRARequest | None:
        return self._named(adapter) if adapter else None

    def _named(self, name: str) -> LoRARequest:
        if name not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise NotFoundError("adapter.unknown", f"adapter {name!r} is not loaded", f"Loaded: {known}")
        return self._adapters[name]


def _not_loadable(name: str, path: str, error: Exception) -> LmiError:
    reason = error.message if isinstance(error, LmiError) else str(error)
    message = f"TensorRT-LLM cannot load adapter {name!r} from {path}: {reason}"
    if isinstance(error, OutOfMemoryError):
        return OutOfMemoryError("engine.out-of-memory", message, "Lower option.max_loras or option.max_cpu_loras")
    return RequestError("adapter.not-loadable", message)
