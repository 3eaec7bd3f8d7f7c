# SPDX-License-Identifier: Apache-2.0
"""A call of the runtime API, read, and on its way to a container."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from starlette.requests import Request

from lmi.client import Answer, AnswerTooLongError
from lmi.sagemaker_limits import BODY_BYTES
from lmi.sagemaker_local import headers as names
from lmi.sagemaker_local.container import Container, NotAcceptedError
from lmi.sagemaker_local.endpoint import Endpoint
from lmi.sagemaker_local.failures import cut, timed_out, too_large, unreachable


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call.

    Args:
        api: the operation.
        endpoint: whose.
        headers: of the call, names in lower case.
        for_container: what the container gets of them, and what the platform adds.
        body: of the call.
    """

    api: str
    endpoint: Endpoint
    headers: Mapping[str, str]
    for_container: dict[str, str]
    body: bytes

    @property
    def asks_session(self) -> bool:
        """Whether it opens a session."""
        return self.headers.get(names.SESSION_ID) == names.NEW_SESSION


async def read_call(api: str, endpoint: Endpoint, request: Request) -> Call:
    """Read a call as the platform does.

    Args:
        api: the operation.
        endpoint: whose.
        request: as it came.
    Raises:
        ApiError: it cannot be taken.
    """
    headers = dict(request.headers)
    violations, name = endpoint.violations, endpoint.name
    added = endpoint.checked(headers)
    names.check(headers)
    for stripped in names.stripped(headers):
        violations.add("call.header", name, f"{api}: the container never sees {stripped!r}", once=True)
    body = await _body(request, endpoint)
    for_container = {**names.to_container(headers, api), **added}
    return Call(api=api, endpoint=endpoint, headers=headers, for_container=for_container, body=body)


async def _body(request: Request, endpoint: Endpoint) -> bytes:
    declared = request.headers.get("content-length", "")
    n_bytes = int(declared) if declared.isdecimal() else 0
    body = bytearray()
    if n_bytes <= BODY_BYTES:
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES:
                break
        n_bytes = len(body)
    if n_bytes > BODY_BYTES:
        endpoint.violations.add("call.body", endpoint.name, f"a body of {n_bytes} bytes; {BODY_BYTES} are taken")
        raise too_large()
    return bytes(body)


@contextlib.contextmanager
def answered_in(within_s: float, rule: str, call: Call, copy: Container) -> Iterator[None]:
    """What goes wrong in the block between this process and a container becomes an error for the caller.

    Args:
        within_s: how long the block waits.
        rule: that is broken where that is not enough.
        call: that is answered.
        copy: that answers.
    """
    name, violations = call.endpoint.name, call.endpoint.violations
    try:
        yield
    except asyncio.TimeoutError:
        violations.add(rule, name, f"{copy.name}: {call.api}: no whole answer in {within_s:g} s")
        raise timed_out(name) from None
    except NotAcceptedError:
        raise unreachable() from None
    except AnswerTooLongError as error:
        violations.add("response.body", name, f"{copy.name}: {error}")
        raise cut(name) from None
    except OSError as error:
        violations.add("answer.cut", name, f"{copy.name}: {call.api}: {error}")
        raise cut(name) from None


def judge_headers(call: Call, copy: Container, answer: Answer, *, is_stream: bool = False) -> None:
    """Tell what clients will miss of an answer's headers, and what is wrong in those they get.

    Args:
        call: that was answered.
        copy: that answered.
        answer: its status and headers.
        is_stream: whether clients get it as events, which tell them of no session.
    """

    def broke(rule: str, message: str) -> None:
        endpoint.violations.add(rule, endpoint.name, f"{copy.name}: {message}", once=True)

    endpoint, found = call.endpoint, answer.headers
    for name in names.lost(found, is_stream=is_stream):
        broke("response.header", f"{name!r} never reaches a client")
    if wrong := names.wrong_custom_attributes(found.get(names.CUSTOM_ATTRIBUTES, "")):
        broke("response.custom-attributes", wrong)
    opened, closed = found.get(names.NEW_SESSION_ID), found.get(names.CLOSED_SESSION_ID)
    if opened is not None:
        end = endpoint.sessions.opened(opened, copy)
        if end is None or end < datetime.now(timezone.utc):
            broke("sessions.header", f"New-Session-Id is {opened!r}{', which is over' if end else ''}")
    elif call.asks_session and not answer.is_error:
        broke("sessions.missing", f"it answered {answer.status} without one")
    if closed is not None:
        endpoint.sessions.closed(closed)
        if not names.is_closed_session(closed):
            broke("sessions.header", f"Closed-Session-Id is {closed!r}")
