# SPDX-License-Identifier: Apache-2.0
"""vLLM's engine with LoRA adapters, which come and go while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import msgspec
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError as DeadError

from lmi.api import (
    EngineStats,
    ExistsError,
    GenerationRequest,
    LmiError,
    NotFoundError,
    OutOfMemoryError,
    RequestError,
    TokenChunk,
)
from lmi_vllm.engine import VLLMEngine
from lmi_vllm.machine import runs_on_cpu
from lmi_vllm.messages import LastWords, is_out_of_memory
from lmi_vllm.no_adapter import write_no_adapter
from lmi_vllm.pins import Pins


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
        self._pins = Pins(self._llm.vllm_config.lora_config.max_loras - self._needs_none)
        self._adapters: dict[str, LoRARequest] = {}
        self._n_loaded = 0
        self._n_plain = 0
        self._no_plain = asyncio.Event()
        self._no_plain.set()
        self._loading = asyncio.Lock()

    def stats(self) -> EngineStats:
        found = super().stats()
        return msgspec.structs.replace(found, n_waiting=found.n_waiting + self._pins.n_waiting)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        async with contextlib.AsyncExitStack() as held:
            held.enter_context(self._counted(is_plain=not request.adapter and self._none is None))
            if request.adapter and (adapter := self._lora_request(request.adapter)) is not None:
                await held.enter_async_context(self._pins.held(adapter.lora_int_id))
            chunks = await held.enter_async_context(contextlib.aclosing(super().generate(request)))
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
            await asyncio.to_thread(write_no_adapter, Path(self._folder.name), Path(path))
        except (OSError, ValueError, KeyError) as error:
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
            raise self.died(error) from error
        except Exception as error:
            raise _not_loadable(name, path, error) from error

    async def unload_adapter(self, name: str) -> None:
        async with self._loading:
            adapter = self._lora_request(name)
            if name and adapter is not None:
                with self.told():
                    await self._llm.remove_lora(adapter.lora_int_id)
                self._pins.let_go(adapter.lora_int_id)
                del self._adapters[name]

    async def pin_adapter(self, name: str, is_pinned: bool) -> None:
        adapter = self._lora_request(name)
        if not name or adapter is None:
            raise NotFoundError("adapter.unknown", "the model itself is no adapter", "Name one that is loaded")
        if not is_pinned:
            await self._unpin(adapter, name)
        elif adapter.lora_int_id not in self._pins:
            await self._pins.keep(adapter.lora_int_id)
            try:
                await self._pin(adapter, name)
            except BaseException:
                with contextlib.suppress(Exception):  # nobody knows how far it came; a request loads it again
                    await self._llm.remove_lora(adapter.lora_int_id)
                self._pins.let_go(adapter.lora_int_id)
                raise

    async def _pin(self, adapter: LoRARequest, name: str) -> None:
        async with self._loading:
            # vLLM may have put it out of memory for others.
            await self._add(adapter, name, adapter.lora_path)
            with self.told():
                await self._llm.pin_lora(adapter.lora_int_id)

    async def _unpin(self, adapter: LoRARequest, name: str) -> None:
        """Load it once more as one that nobody pinned: vLLM has no call for that alone."""
        async with self._loading:
            if adapter.lora_int_id in self._pins:
                with self.told():
                    await self._llm.remove_lora(adapter.lora_int_id)
                self._pins.let_go(adapter.lora_int_id)
                await self._add(adapter, name, adapter.lora_path)

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


def _not_loadable(name: str, path: str, error: Exception) -> LmiError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    message = f"vLLM cannot load adapter {name!r} from {path}: {reason}"
    if is_out_of_memory(error):
        return OutOfMemoryError("engine.out-of-memory", message, "Remove another adapter, or lower option.max_loras")
    return RequestError("adapter.not-loadable", message)
