# SPDX-License-Identifier: Apache-2.0
"""One request in the air: what the server must remember so that it survives its worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from lmi.api.abilities import TaskPart, TaskRequest
from lmi.api.errors import DeadlineError, LmiError
from lmi.api.requests import Finish, FinishReason, GenerationRequest, SamplingParams, TokenChunk, Usage

if TYPE_CHECKING:
    from lmi.workers.wire import Reply
    from lmi.workers.worker import Worker


_GRACE_S = 2.0
"""What code gets to notice that it was cancelled before its process is ended."""


class Flight:
    """A request between submission and its last chunk.

    Args:
        request: as submitted.
        on_chunk: called with each chunk, in order; the last one has ``finish``.
        on_error: called instead of further chunks when the request failed.
    """

    __slots__ = (
        "begun_s",
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
        self.begun_s = 0.0
        """When it got a place in a worker's batch; 0 until then."""

    @property
    def is_expired(self) -> bool:
        """Whether its deadline has passed."""
        deadline_s = self.request.deadline_s
        return deadline_s is not None and time.monotonic() - self.started_s > deadline_s

    @property
    def can_resume(self) -> bool:
        """Whether another worker may go on with it, if the backend can."""
        return True

    @property
    def is_repeatable(self) -> bool:
        """Whether any backend may begin it once more on another worker."""
        return False

    @property
    def n_reserved_tokens(self) -> int:
        """Tokens it may come to hold in its worker."""
        return self.request.n_reserved_tokens

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


class CallFlight(Flight):
    """A request that is answered by a call of an ability; it waits and is handed out like any other.

    Args:
        request_id: unique in the server.
        ability, method, args: what is called.
        on_error: called instead of an answer when the request failed.
        deadline_s: seconds from submission after which the server ends it.
    """

    __slots__ = ("ability", "args", "method")

    def __init__(
        self,
        request_id: str,
        ability: str,
        method: str,
        args: tuple[Any, ...],
        on_error: Callable[[LmiError], None],
        *,
        deadline_s: float | None = None,
    ) -> None:
        request = GenerationRequest(
            request_id=request_id, prompt_ids=[], sampling=SamplingParams(max_tokens=1), deadline_s=deadline_s
        )
        super().__init__(request, lambda chunk: None, on_error)
        self.ability = ability
        self.method = method
        self.args = args

    @property
    def stays_when_cancelled(self) -> bool:
        """Whether it holds its place until its worker says that it ended."""
        return False

    def on_reply(self, reply: Reply) -> None:
        """Take a part of the answer, or the word that it was the last."""
        raise NotImplementedError

    def end(self, reason: FinishReason) -> None:
        limit_s = self.request.deadline_s or 0
        self.on_error(
            DeadlineError(
                "request.deadline",
                f"the request's time of {limit_s:g} s ran out before its answer",
                "Send it again when less is going on, or raise deadline_s or predict_timeout, whichever said so",
            )
        )


class VectorsFlight(CallFlight):
    """Prompts that a call of an ability turns into a list of numbers each. It can be made again, on any worker.

    Args:
        request_id, ability, method, on_error, deadline_s: as in CallFlight.
        prompts: the first argument of the method, as token ids.
        args: its further arguments.
        on_result: called with what the method returned.
    """

    __slots__ = ("_n_tokens", "on_result")

    def __init__(
        self,
        request_id: str,
        ability: str,
        method: str,
        prompts: list[list[int]],
        args: tuple[Any, ...],
        on_result: Callable[[Any], None],
        on_error: Callable[[LmiError], None],
        *,
        deadline_s: float | None = None,
    ) -> None:
        super().__init__(request_id, ability, method, (prompts, *args), on_error, deadline_s=deadline_s)
        self.on_result = on_result
        self._n_tokens = sum(map(len, prompts))

    @property
    def is_repeatable(self) -> bool:
        return True

    @property
    def n_reserved_tokens(self) -> int:
        return self._n_tokens

    def on_reply(self, reply: Reply) -> None:
        self.on_result(reply.result)


class TaskFlight(CallFlight):
    """A request that is answered in bytes, by a call of the ability ``tasks``.

    It is never tried a second time: what it did is not known. A cancelled one stays with its worker until the worker
    says that it ended, because until then no other can run there; what it still produces goes to the same callbacks.

    Args:
        task: the request.
        on_part: called with each part of the answer, in order; with None after the last one.
        on_error: called instead of further parts when the request failed.
        deadline_s: seconds from submission after which its worker ends it, or is ended.
    """

    __slots__ = ("on_part", "task")

    def __init__(
        self,
        task: TaskRequest,
        on_part: Callable[[TaskPart | None], None],
        on_error: Callable[[LmiError], None],
        *,
        deadline_s: float | None = None,
    ) -> None:
        super().__init__(task.request_id, "tasks", "run_task", (task,), on_error, deadline_s=deadline_s)
        self.task = task
        self.on_part = on_part

    @property
    def can_resume(self) -> bool:
        return False

    @property
    def is_stuck(self) -> bool:
        """Whether it goes on although its deadline passed a while ago: code that cannot be interrupted."""
        deadline_s = self.request.deadline_s
        return deadline_s is not None and time.monotonic() - self.started_s > deadline_s + _GRACE_S

    @property
    def stays_when_cancelled(self) -> bool:
        return True

    def on_reply(self, reply: Reply) -> None:
        self.on_part(None if reply.is_last else msgspec.convert(reply.result, TaskPart))
