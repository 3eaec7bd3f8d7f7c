# SPDX-License-Identifier: Apache-2.0
"""Optional abilities of an Engine or Stepper: implement the protocol's methods to have it.

The server reaches them by name through the worker's wire; a backend without the ability is refused, never ignored.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SupportsAdapters(Protocol):
    """LoRA adapters that come and go while the model runs."""

    async def load_adapter(self, name: str, path: str) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...

    async def list_adapters(self) -> list[str]: ...


@runtime_checkable
class SupportsEmbedding(Protocol):
    """Vectors for texts, given as token ids."""

    async def embed(self, prompts: list[list[int]]) -> list[list[float]]: ...


ABILITIES: dict[str, type] = {"adapters": SupportsAdapters, "embedding": SupportsEmbedding}
"""Ability name on the wire -> protocol. Only methods of these protocols can be called from the server."""
