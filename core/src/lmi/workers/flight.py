# SPDX-License-Identifier: Apache-2.0
"""One request in the air: what the server must remember so that it survives its worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from lmi.api.errors import LmiError
from lmi.api.requests import Finish, FinishReason, GenerationRequest, TokenChunk, Usage

if TYPE_CHECKING:
    from lmi.workers.worker import Worker


class Flight:
    """A request between submission and its last chunk.

    Args:
        request: as submitted.
        on_chunk: called with each chunk, in order; the last one has ``finish``.
        on_error: called instead of further chunks when the request failed.
    """

    __slots__ = (
        "ids",
        "is_alone",
        "is_on_trial",
        "n_deaths",
        "n_trial_ids_left",
        "on_chunk",
        "on_error",
        "request",
        "started_s",
        "worker",
    )

    def __init__(
        self,
        request: GenerationRequest,
        on_chunk: Callable[[TokenChunk], None],
        on_error: Callable[[LmiError], None],
    ) -> None:
        self.request = request
        self.on_chunk = on_chunk
        self.on_error = on_error
        self.ids: list[int] = []
        self.worker: Worker | None = None
        self.n_deaths = 0
        self.is_on_trial = False
        self.is_alone = False
        self.n_trial_ids_left = 0.0
        self.started_s = time.monotonic()

    @property
    def is_expired(self) -> bool:
        """Whether its deadline has passed."""
        deadline_s = self.request.deadline_s
        return deadline_s is not None and time.monotonic() - self.started_s > deadline_s

    def end(self, reason: FinishReason) -> None:
        """Finish it with the ids it has."""
        usage = Usage(len(self.request.prompt_ids), len(self.request.resumed_ids) + len(self.ids))
        self.on_chunk(TokenChunk([], finish=Finish(reason), usage=usage))

    def resumed_request(self) -> GenerationRequest:
        """The request that goes on where this one was."""
        request = self.request
        if not self.ids and request.deadline_s is None:
            return request
        deadline_s = request.deadline_s
        if deadline_s is not None:
            deadline_s = max(0.001, deadline_s - (time.monotonic() - self.started_s))
        return msgspec.structs.replace(request, resumed_ids=[*request.resumed_ids, *self.ids], deadline_s=deadline_s)
