# SPDX-License-Identifier: Apache-2.0
"""InvokeEndpoint: a call that is answered as a whole."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from lmi.client import Answer
from lmi.sagemaker_limits import BODY_BYTES
from lmi.sagemaker_local import headers as names
from lmi.sagemaker_local.calls import Call, answered_in, judge_headers
from lmi.sagemaker_local.container import Container
from lmi.sagemaker_local.failures import model_error

_PASSED = (names.CUSTOM_ATTRIBUTES, names.NEW_SESSION_ID, names.CLOSED_SESSION_ID)


async def invoke(call: Call) -> Response:
    """Answer a call.

    Raises:
        ApiError: the container's error, or what it did wrong.
    """
    copy = call.endpoint.copy_for(call.headers)
    answer = await answered(call, copy, call.endpoint.times.invocation)
    headers = {name: answer.headers[name] for name in _PASSED if name in answer.headers}
    headers[names.INVOKED_VARIANT] = names.VARIANT
    return Response(bytes(answer.body), 200, headers, answer.headers.get("content-type"))


async def answered(call: Call, copy: Container, within_s: float, most_bytes: int = BODY_BYTES) -> Answer:
    """The good answer of a container, or its model.

    Args:
        call: to answer.
        copy: that answers.
        within_s: how long that may take.
        most_bytes: of it.
    Raises:
        ApiError: the container's error, or what it did wrong.
    """
    endpoint = call.endpoint
    target = call.headers.get(names.TARGET_MODEL)
    with answered_in(within_s, "invocation.time", call, copy):
        if endpoint.models is not None and target is not None:
            answer = await endpoint.models.invoke(copy, target, call.for_container, call.body, within_s)
        else:
            asked = copy.ask("POST", "/invocations", call.body, call.for_container, most_bytes=most_bytes)
            answer = await asyncio.wait_for(asked, within_s)
    judge_headers(call, copy, answer)
    if answer.is_error:
        raise model_error(endpoint.name, answer.status, bytes(answer.body))
    return answer
