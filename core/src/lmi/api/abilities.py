# SPDX-License-Identifier: Apache-2.0
"""Optional abilities of an Engine or Stepper: implement the protocol's methods to have it.

The server reaches them by name through the worker's wire; a backend without the ability is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, runtime_checkable

import msgspec


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP request as it came.

    Args:
        request_id: unique in the server.
        headers: names in lower case.
        query: what stands behind the ``?``, still encoded.
        body: at most ``max_request_size`` bytes.
    """

    request_id: str
    headers: dict[str, str] = {}
    query: str = ""
    body: bytes = b""


class TaskPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of an HTTP answer; status, headers and is_stream count in the first one only.

    Args:
        body: bytes of the answer, in order.
        status: HTTP status.
        headers: names in lower case.
        is_stream: what follows comes as it is made; otherwise this part is the whole answer.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = {}
    is_stream: bool = False


@runtime_checkable
class SupportsAdapters(Protocol):
    """LoRA adapters that come and go while the model runs."""

    async def load_adapter(self, name: str, path: str) -> None: ...

    async def unload_adapter(self, name: str) -> None: ...

    async def list_adapters(self) -> list[str]: ...


@runtime_checkable
class StepsAdapters(Protocol):
    """LoRA adapters of a Stepper, which entries of its batches name; the core's engine has SupportsAdapters then."""

    def load_adapter(self, name: str, path: str) -> None:
        """Make one ready. Called in a thread of its own, while steps go on, never twice at a time.

        Args:
            name: not in use, and in no batch before this has returned.
            path: its folder.
        Raises:
            RequestError: it cannot be loaded; nothing of it is left.
            OutOfMemoryError: it does not fit.
        """

    def unload_adapter(self, name: str) -> None:
        """Forget one, in the thread of the steps, when no batch names it any more."""


@runtime_checkable
class SupportsPinnedAdapters(Protocol):
    """Adapters that stay where requests need them, however many others are in use; beside ``SupportsAdapters``."""

    async def pin_adapter(self, name: str, is_pinned: bool) -> None:
        """Keep an adapter, or let it make room for others again, as every adapter does that nobody pinned.

        Args:
            name: of one that is loaded.
            is_pinned: what holds from now on; what holds already is no error.
        Raises:
            NotFoundError: none of that name is loaded.
            RequestError: so many are pinned that others would have no room.
            EngineDeadError: the engine failed; the worker process ends.
        """


@runtime_checkable
class SupportsEmbedding(Protocol):
    """Vectors for texts, given as token ids. Needed where ``BackendInfo.tasks`` has ``Task.EMBED``."""

    async def embed(
        self, prompts: list[list[int]], normalize: bool = True, n_dimensions: int | None = None
    ) -> list[list[float]]:
        """One vector a prompt, in order, all of one length; cancelling it frees what it holds.

        The server may ask a second time on another worker when this one dies. ``stats().n_steps`` grows meanwhile.

        Args:
            prompts: as many as a caller sent at once, special tokens included.
            normalize: whether the vectors get the length 1.
            n_dimensions: only the first so many numbers (before normalizing); None for all.
        Raises:
            RequestError: the model's vectors cannot be cut to so many numbers, or a prompt cannot be read.
            EngineDeadError: the engine failed; the worker process ends.
        """


@runtime_checkable
class SupportsClassification(Protocol):
    """Probabilities of a model's labels. Needed where ``BackendInfo.tasks`` has ``Task.CLASSIFY``."""

    async def classify(self, prompts: list[list[int]]) -> list[list[float]]:
        """One list a prompt, in order: a probability for each label, in the order of ``id2label`` in config.json.

        Args, Raises: as ``SupportsEmbedding.embed``.
        """


@runtime_checkable
class SupportsTasks(Protocol):
    """Requests answered as they came: the one ability that gets text, and answers in bytes."""

    def run_task(self, request: TaskRequest) -> AsyncGenerator[TaskPart, None]:
        """Answer one request, in one part or in many; closing the generator cancels it.

        Raises:
            LmiError: this request failed; others go on.
        """


ABILITIES: dict[str, type] = {
    "adapters": SupportsAdapters,
    "classification": SupportsClassification,
    "embedding": SupportsEmbedding,
    "pinned-adapters": SupportsPinnedAdapters,
    "tasks": SupportsTasks,
}
"""Ability name on the wire -> protocol. Only methods of these protocols can be called from the server."""

REPEATABLE = frozenset({"classification", "embedding"})
"""Abilities whose calls are requests that can be done again: when a worker dies of one, another worker gets it."""
