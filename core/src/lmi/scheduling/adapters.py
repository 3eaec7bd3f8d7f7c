# SPDX-License-Identifier: Apache-2.0
"""A stepper's LoRA adapters, which come and go between its steps."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from lmi.api import ExistsError, GenerationRequest, Stepper, StepsAdapters, TokenChunk
from lmi.scheduling.admission import adapter_fault
from lmi.scheduling.engine import StepperEngine
from lmi.threads import in_own_thread


class AdapterStepperEngine(StepperEngine):
    """Continuous batching over a stepper whose batches name adapters; with the abilities of adapters.

    Adapters are loaded beside the steps, and unloaded between two of them, when no request has them any more.

    Args: as ``StepperEngine`` has them; the stepper has ``StepsAdapters``.
    """

    def __init__(
        self,
        stepper: Stepper,
        eos_token_ids: Sequence[int] = (),
        *,
        max_batch_size: int | None = None,
        read_tokenizer: Callable[[], str] | None = None,
    ) -> None:
        assert isinstance(stepper, StepsAdapters)  # noqa: S101 - the caller looked
        self._loader: StepsAdapters = stepper
        self._paths: dict[str, str] = {}  # of those that requests may name, by name
        self._leaving: set[str] = set()
        self._n_users: Counter[str] = Counter()
        self._left = asyncio.Condition()
        self._changing = asyncio.Lock()
        super().__init__(stepper, eos_token_ids, max_batch_size=max_batch_size, read_tokenizer=read_tokenizer)
        self._adapters = self._paths.keys()

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk, None]:
        chunks = super().generate(request)
        return self._counted(request.adapter, chunks) if request.adapter else chunks

    async def _counted(
        self, adapter: str, chunks: AsyncGenerator[TokenChunk, None]
    ) -> AsyncGenerator[TokenChunk, None]:
        self._n_users[adapter] += 1
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        finally:
            self._n_users[adapter] -= 1
            if adapter in self._leaving:
                async with self._left:
                    self._left.notify_all()

    async def load_adapter(self, name: str, path: str) -> None:
        await asyncio.shield(self._load(name, path))  # given up, it is still done, and listed

    async def _load(self, name: str, path: str) -> None:
        async with self._changing:
            if name in self._paths:
                raise ExistsError("adapter.exists", f"adapter {name!r} is loaded from {self._paths[name]}")
            if name in self._leaving:
                raise ExistsError("adapter.exists", f"adapter {name!r} is being unloaded")
            self._refuse_if_ended()
            # Not in an executor's thread: its team of a parallel runtime would outlive the load, and slow the steps.
            await in_own_thread(lambda: self._loader.load_adapter(name, path))
            self._paths[name] = path

    async def unload_adapter(self, name: str) -> None:
        self._refuse_unknown(name)
        self._leaving.add(name)
        path = self._paths.pop(name)
        try:
            async with self._left:
                await self._left.wait_for(lambda: not self._n_users[name])
        except asyncio.CancelledError:
            self._leaving.discard(name)
            self._paths[name] = path
            raise
        await asyncio.shield(self._unload(name))

    async def _unload(self, name: str) -> None:
        try:
            async with self._changing:
                await self._between_steps(lambda: self._loader.unload_adapter(name))
        finally:
            self._leaving.discard(name)
            del self._n_users[name]

    async def pin_adapter(self, name: str, is_pinned: bool) -> None:
        """See ``SupportsPinnedAdapters``; all that are loaded stay in the stepper, so there is nothing to do."""
        self._refuse_unknown(name)

    def _refuse_unknown(self, name: str) -> None:
        fault = adapter_fault(name, self._paths)
        if fault is not None:
            raise fault

    async def list_adapters(self) -> list[str]:
        async with self._changing:  # a load that was given up may go on, and would not be among them yet
            return sorted(self._paths)
