# SPDX-License-Identifier: Apache-2.0
"""Requests that go to a worker whole, and the parts that come back: custom handlers, and tasks without tokens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from lmi.api import LmiError, NotReadyError, Problem, Severity, TaskPart, TaskRequest
from lmi.api.requests import FinishReason
from lmi.serving.streaming import ClientGoneError, Exchange
from lmi.serving.task_bodies import checked_body
from lmi.serving.timings import Called
from lmi.workers.flight import TaskFlight

if TYPE_CHECKING:
    from lmi.serving.context import Context
    from lmi.serving.models import Model


_WITHOUT_BODY = (204, 304)
"""Statuses whose answers end with their headers. Source: RFC 9110, sections 15.3.5 and 15.4.5."""


async def answer_task(context: Context, model: Model, exchange: Exchange, scope: Scope, body: bytes) -> None:
    """Answer one request of a model that is a Python file, or that does a task with whole requests.

    Raises:
        LmiError: it failed; what was sent before stands.
    """
    if not model.plan.is_custom:
        body = checked_body(body, model=model.name, task=model.plan.task)
    task = TaskRequest(
        request_id=exchange.unique_id,
        headers=dict(exchange.headers),
        query=scope.get("query_string", b"").decode("latin-1"),
        body=body,
    )
    running = _Running(model, task)
    called = Called(model.name, running.flight)
    exchange.measured = (called,)
    exchange.watch(running.cancel)
    outcome = "error"
    try:
        await _send(exchange, running)
        outcome = "ok"
    except ClientGoneError:
        outcome = "cancelled"
        raise
    finally:
        running.end()
        context.metrics.count(called, outcome, exchange.arrived_s)


async def _send(exchange: Exchange, running: _Running) -> None:
    first = await running.next()
    if first is None:
        raise LmiError("script.wrong-output", "it ended without an answer")
    content_type = first.headers.get("content-type", "application/octet-stream").encode("latin-1", "replace")
    extra = [
        (name.encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in first.headers.items()
        if name != "content-type"
    ]
    if not first.is_stream:
        has_body = first.status not in _WITHOUT_BODY
        if has_body:
            extra.append((b"content-length", b"%d" % len(first.body)))
        await exchange.start(first.status, content_type, extra, is_whole=True)
        await exchange.write(first.body if has_body else b"", is_last=True)
        return
    await exchange.start(first.status, content_type, extra)
    while (part := await running.next()) is not None:
        await exchange.write(part.body)
    await exchange.write(b"", is_last=True)


class _Running:
    """One request on its way, and the parts that have come back.

    Raises:
        NotReadyError, OverloadedError: it cannot be served now.
    """

    def __init__(self, model: Model, task: TaskRequest) -> None:
        self._model = model
        self._parts: asyncio.Queue[TaskPart | LmiError | None] = asyncio.Queue()
        self._is_over = False
        put = self._parts.put_nowait
        self.flight = TaskFlight(task, put, put, deadline_s=model.deadline_s(task.headers))
        if model.is_draining:
            raise NotReadyError("model.draining", f"model {model.name!r} is shutting down", "Send it to another server")
        if model.pool.limits is None:
            stage = next((worker.stage for worker in model.pool.workers), "starting")
            message = f"model {model.name!r} is loading ({stage})"
            raise NotReadyError("model.loading", message, "Wait until /ping answers 200")
        model.pool.submit([self.flight])
        self._timer = None
        if self.flight.request.deadline_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.flight.request.deadline_s, self.flight.end, FinishReason.DEADLINE)

    async def next(self) -> TaskPart | None:
        """The next part; None after the last one.

        Raises:
            LmiError: the request failed, its time ran out, or its client has gone.
        """
        part = await self._parts.get()
        if part is None:
            self._is_over = True
        if isinstance(part, LmiError):
            raise part
        return part

    def cancel(self, reason: LmiError) -> None:
        """Whoever waits for a part gets the reason."""
        self._parts.put_nowait(reason)

    def end(self) -> None:
        """Nobody wants more of it."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_over:
            self._model.pool.cancel(self.flight)


def unheard_hooks(context: Context, what: str = "a custom handler: its requests are not text") -> list[Problem]:
    """Warnings for extensions that see nothing of a model's requests, because of ``what`` it is."""
    given: dict[str, Any] = {
        "lmi_filter_request": context.request_filters,
        "lmi_filter_text": context.text_filters,
        "lmi_parse_request": context.parses_request,
        "lmi_format_response": context.formats_response,
    }
    return [
        Problem(
            code="plugin.not-heard",
            message=f"an extension has {hook}, which is not called for {what}",
            hint="Leave the extension out with LMI_EXTENSIONS, or do what it does in the model's own function",
            severity=Severity.WARNING,
        )
        for hook, implementations in given.items()
        if implementations
    ]
