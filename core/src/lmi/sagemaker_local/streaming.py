# SPDX-License-Identifier: Apache-2.0
"""InvokeEndpointWithResponseStream: a call whose answer comes in parts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from starlette.responses import Response, StreamingResponse

from lmi.client import Answer
from lmi.sagemaker_local import event_stream, headers as names
from lmi.sagemaker_local.calls import Call, answered_in, judge_headers
from lmi.sagemaker_local.container import Container
from lmi.sagemaker_local.failures import invalid, model_error


class _Exchange:
    """A request whose answer is read while it comes.

    Args:
        call: to send.
        copy: that gets it.
    """

    def __init__(self, call: Call, copy: Container) -> None:
        self._end_s = time.monotonic() + call.endpoint.times.stream
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.head: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asking = asyncio.create_task(
            copy.ask(
                "POST", "/invocations", call.body, call.for_container,
                on_head=self.head.set_result, on_part=self._parts.put_nowait,
            )
        )  # fmt: skip
        self._asking.add_done_callback(lambda _: self._parts.put_nowait(None))

    async def begun(self) -> Answer:
        """Status and headers, and the body of an error.

        Raises:
            asyncio.TimeoutError, OSError: there is no such answer.
        """
        await asyncio.wait(
            {self.head, self._asking}, timeout=self._left_s(), return_when=asyncio.FIRST_COMPLETED
        )  # fmt: skip
        if self.head.done() and not self.head.result().is_error:
            return self.head.result()
        return await asyncio.wait_for(self._asking, self._left_s())

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """What comes of the body.

        Raises:
            asyncio.TimeoutError, OSError: it has no end.
        """
        while (part := await asyncio.wait_for(self._parts.get(), self._left_s())) is not None:
            yield part
        await self._asking

    def close(self) -> None:
        """Leave; the container sees that its client is gone."""
        self._asking.cancel()

    def _left_s(self) -> float:
        return max(0.0, self._end_s - time.monotonic())


async def invoke_with_stream(call: Call, part_bytes: int | None) -> Response:
    """Answer a call with events.

    Args:
        call: to answer.
        part_bytes: no part is longer; None for parts as the container sends them.
    Raises:
        ApiError: there is no stream: the container's error, or what it or the call did wrong.
    """
    endpoint = call.endpoint
    if call.asks_session:
        raise invalid("SessionId NEW_SESSION: a session is not created by a stream. Create it by InvokeEndpoint.")
    if endpoint.models is not None:
        raise invalid(f"Endpoint {endpoint.name} is a multi-model endpoint, which does not support response streams.")
    copy = endpoint.copy_for(call.headers)
    exchange = _Exchange(call, copy)
    try:
        answer = await _begun(call, copy, exchange)
    except BaseException:
        exchange.close()
        raise
    judge_headers(call, copy, answer, is_stream=True)
    headers = {names.INVOKED_VARIANT: names.VARIANT}
    if content_type := answer.headers.get("content-type"):
        headers[names.CONTENT_TYPE] = content_type
    if names.CUSTOM_ATTRIBUTES in answer.headers:
        headers[names.CUSTOM_ATTRIBUTES] = answer.headers[names.CUSTOM_ATTRIBUTES]
    events = _events(call, copy, exchange, part_bytes)
    return StreamingResponse(events, 200, headers, event_stream.MEDIA_TYPE)


async def _begun(call: Call, copy: Container, exchange: _Exchange) -> Answer:
    endpoint = call.endpoint
    with answered_in(endpoint.times.stream, "stream.time", call, copy):
        answer = await exchange.begun()
    if answer.is_error:
        judge_headers(call, copy, answer, is_stream=True)
        raise model_error(endpoint.name, answer.status, bytes(answer.body))
    return answer


async def _events(
    call: Call, copy: Container, exchange: _Exchange, part_bytes: int | None
) -> AsyncGenerator[bytes, None]:
    endpoint = call.endpoint
    n_parts = 0
    try:
        async for part in exchange.parts():
            size = part_bytes or len(part)
            for at in range(0, len(part), size):
                n_parts += 1
                yield event_stream.part(part[at : at + size])
    except asyncio.TimeoutError:
        told = f"it still ran after {endpoint.times.stream:g} s and {n_parts} parts"
        endpoint.violations.add("stream.time", endpoint.name, f"{copy.name}: {told}")
        yield _error("ModelInvocationTimeExceeded", f"The stream did not end in time: {told}.")
    except OSError as error:
        endpoint.violations.add("answer.cut", endpoint.name, f"{copy.name}: after {n_parts} parts: {error}")
        yield _error("StreamBroken", f"The connection to the model was closed: {error}")
    finally:
        exchange.close()


def _error(code: str, message: str) -> bytes:
    return event_stream.exception("ModelStreamError", {"Message": message, "ErrorCode": code})
