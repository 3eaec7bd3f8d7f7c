# SPDX-License-Identifier: Apache-2.0
"""The bodies of batch transform jobs: each record is a request of its own, and has one line of the answer.

Source: the SageMaker Developer Guide, on batch transform.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmi.api.errors import LmiError, UnsupportedError
from lmi.container import MULTI_RECORD
from lmi.serving.contents import records_of
from lmi.serving.errors import body_of
from lmi.serving.route import unexpected
from lmi.serving.streaming import JSON, JSON_LINES, ClientGoneError, Exchange, unbroken

if TYPE_CHECKING:
    from lmi.serving.context import Context

_N_AT_ONCE = 256
"""Records, of all bodies together, that are on their way to engines."""
_SERVERS_FAULT = 500
_TRY_AGAIN = (429, 503)
_OF_THE_BODY = (b"content-type", b"content-length", b"accept")
_STREAMED = UnsupportedError(
    "request.unsupported", "a record asks for a stream; each record has one line of the answer", "Leave out stream"
)


@dataclass
class _Answer:
    """What became of a record."""

    status: int = 0
    is_json: bool = False
    body: bytes = b""

    async def hear(self, message: Message) -> None:
        """What the route sends, as ASGI has it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.is_json = dict(message["headers"]).get(b"content-type", b"").startswith(JSON)
        else:
            self.body += message.get("body", b"")

    def line(self) -> bytes:
        """The record's line of the whole answer."""
        text = self.body.strip()
        if b"\n" in text:
            text = body_of(_STREAMED)
        elif not self.is_json:
            text = json.dumps(text.decode(errors="replace")).encode() if text else b"null"
        return unbroken(text) + b"\n"


class RecordsRoute:
    """``POST /invocations`` of a batch transform job; a body that is one request goes to the usual route as it is.

    Args:
        context: the server's models, and what the job's owner has chosen.
        inference: the route that answers one request.
    """

    def __init__(self, context: Context, inference: ASGIApp) -> None:
        self._context, self._inference = context, inference
        self._takes_several = context.container.batch_strategy == MULTI_RECORD
        self._places = asyncio.Semaphore(_N_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            named = scope.get("path_params", {})
            model = self._context.model(
                named.get("model") or self._context.wanted_model(exchange), named.get("version")
            )
            body = await exchange.body(model.plan.options.max_request_size)
            content_type = exchange.headers.get("content-type", "")
            records = None
            if not model.plan.is_custom:  # what those take, their own file says
                records = records_of(body, content_type, takes_several=self._takes_several)
            if not records:
                await self._inference(scope, _heard_again(body, receive), send)
            else:
                await self._answer(records, exchange, scope, receive)
        except ClientGoneError:
            pass
        except LmiError as error:
            await exchange.fail(error)
        except Exception as error:
            await exchange.fail(unexpected(exchange, error))

    async def _answer(self, records: list[bytes], exchange: Exchange, scope: Scope, receive: Receive) -> None:
        gone = asyncio.ensure_future(_client_gone(receive))
        answers = [_Answer() for _ in records]
        numbered = enumerate(records)

        async def answer_next() -> None:
            for index, record in numbered:
                async with self._places:
                    if not gone.done():
                        await self._inference(_alone(scope), _heard_again(record, gone), answers[index].hear)

        try:
            await asyncio.gather(*(answer_next() for _ in range(min(_N_AT_ONCE, len(records)))))
            if gone.done():
                return
        finally:
            gone.cancel()
        failed = [each for each in answers if each.status >= _SERVERS_FAULT or each.status in _TRY_AGAIN]
        later = next((each for each in failed if each.status in _TRY_AGAIN), None)
        if failed and (later is not None or len(failed) == len(answers)):
            # The platform sends the body once more; in a line, the failure would be the record's answer for good.
            whole = later or failed[0]
            await exchange.start(whole.status, JSON, [(b"content-length", b"%d" % len(whole.body))])
            await exchange.write(whole.body, is_last=True)
        else:
            await exchange.answer(b"".join(each.line() for each in answers), JSON_LINES)


def _alone(scope: Scope) -> Scope:
    """A record's request, which is JSON."""
    headers = [(name, value) for name, value in scope["headers"] if name not in _OF_THE_BODY]
    return {**scope, "headers": [*headers, (b"content-type", JSON)]}


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _heard_again(body: bytes, rest: Receive | asyncio.Future[None]) -> Receive:
    """A body that was read already, and then what comes after it.

    Args:
        body: the whole of it.
        rest: as ASGI gives it; or done when the client has gone.
    """
    messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        message = next(messages, None)
        if message is not None:
            return message
        if not isinstance(rest, asyncio.Future):
            return await rest()
        await asyncio.wait([rest])  # it is shared, and not to be cancelled with this
        return {"type": "http.disconnect"}

    return receive
