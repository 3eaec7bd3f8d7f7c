# SPDX-License-Identifier: Apache-2.0
"""InvokeEndpointAsync: inputs and outputs are objects; requests wait for their turn."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field, replace
from uuid import uuid4

from starlette.responses import Response

from lmi import sagemaker_limits as limits
from lmi.api import ArtifactError
from lmi.sagemaker_local import headers as names
from lmi.sagemaker_local.calls import Call
from lmi.sagemaker_local.container import Container, State
from lmi.sagemaker_local.failures import ApiError, invalid
from lmi.sagemaker_local.invoking import answered
from lmi.sagemaker_local.objects import Objects
from lmi.sagemaker_local.violations import Violations

_LOG = logging.getLogger(__name__)
_ACCEPTED = 202
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class _Work:
    """An asynchronous request."""

    call: Call
    name: str
    input_url: str
    output_url: str
    failure_url: str
    timeout_s: float
    age_s: float
    began_s: float = field(default_factory=time.monotonic)


class Asynchronous:
    """The queues of all endpoints.

    Args:
        objects: where inputs and outputs are.
        output_root: URL below which outputs go; empty where asynchronous calls are refused.
        n_at_once: how many requests a copy gets at the same time.
        violations: where those are kept.
    """

    def __init__(self, objects: Objects, output_root: str, n_at_once: int, violations: Violations) -> None:
        self._objects = objects
        self._output_root = output_root.rstrip("/")
        self._n_at_once = n_at_once
        self._violations = violations
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def invoke(self, call: Call) -> Response:
        """Put a call into its queue.

        Raises:
            ApiError: it cannot be taken.
        """
        work = self._work(call)
        task = asyncio.create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        headers = {names.OUTPUT_LOCATION: work.output_url, names.FAILURE_LOCATION: work.failure_url}
        return Response(json.dumps({"InferenceId": work.name}), _ACCEPTED, headers, "application/json")

    async def close(self) -> None:
        """Forget what waits and what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ----------------------------------------------------------------------------------------------------------- taking

    def _work(self, call: Call) -> _Work:
        if not self._output_root:
            raise invalid(
                f"Endpoint {call.endpoint.name} is not an asynchronous endpoint. "
                "Start lmi sagemaker-local with --async-output or --async-folder."
            )
        where = call.headers.get(names.INPUT_LOCATION, "")
        if bool(where) == bool(call.body):
            raise invalid("Provide exactly one of InputLocation and Body.")
        if len(call.body) > limits.ASYNC_BODY_BYTES:
            told = f"a body of {len(call.body)} bytes; {limits.ASYNC_BODY_BYTES} are taken"
            self._violations.add("async.input", call.endpoint.name, told)
            raise invalid(f"Body is {told}. Name an InputLocation instead.")
        timeout_s = _seconds(call, names.TIMEOUT_SECONDS, limits.ASYNC_INVOCATION_RANGE_S, limits.ASYNC_INVOCATION_S)
        age_s = _seconds(call, names.AGE_SECONDS, limits.ASYNC_AGE_RANGE_S, limits.ASYNC_AGE_S)
        name = call.headers.get(names.INFERENCE_ID) or str(uuid4())
        file = uuid4()
        has_key = "/" in self._output_root.partition("://")[2]
        failures = f"{self._output_root}{'-' if has_key else '/'}failures"
        folder = "/".join(filter(None, [self._output_root, call.headers.get(names.OUTPUT_EXTENSION, "").strip("/")]))
        return _Work(
            call=call,
            name=name,
            input_url=where,
            output_url=f"{folder}/{call.headers.get(names.FILE_NAME, f'{file}.out')}",
            failure_url=f"{failures}/{file}-error.out",
            timeout_s=timeout_s,
            age_s=age_s,
        )

    # ---------------------------------------------------------------------------------------------------------- working

    async def _run(self, work: _Work) -> None:
        endpoint = work.call.endpoint
        turns = self._turns.setdefault(endpoint.name, asyncio.Semaphore(self._n_at_once * len(endpoint.copies)))
        failure = ""
        try:
            async with turns:
                content, media_type = await self._answer(work)
        except ApiError as error:
            failure = error.message
        except (ArtifactError, OSError) as error:
            failure = f"InputLocation: {error}"
        url = work.output_url
        if failure:
            url, content, media_type = work.failure_url, failure.encode(), "text/plain"
            _LOG.warning("asynchronous request %s has failed: %s", work.name, failure)
        try:
            await asyncio.to_thread(self._objects.write, url, content, media_type)
        except (ArtifactError, OSError) as error:
            _LOG.error("the answer of the asynchronous request %s is lost: %s", work.name, error)
        else:
            _LOG.info("asynchronous request %s: %s", work.name, url)

    async def _answer(self, work: _Work) -> tuple[bytes, str]:
        copy = await self._copy(work)
        body = await self._input(work) if work.input_url else work.call.body
        call = replace(work.call, body=body, for_container={**work.call.for_container, names.INFERENCE_ID: work.name})
        answer = await answered(call, copy, work.timeout_s, limits.ASYNC_INPUT_BYTES)
        return bytes(answer.body), answer.headers.get("content-type", "")

    async def _copy(self, work: _Work) -> Container:
        """The copy that gets it; while none is healthy it stays in the queue."""
        while True:
            waited_s = time.monotonic() - work.began_s
            if waited_s > work.age_s:
                raise invalid(f"The request has expired: it waited {waited_s:.1f} s of {work.age_s:g} s for its turn.")
            try:
                return work.call.endpoint.copy_for(work.call.headers)
            except ApiError:
                if all(copy.state is State.FAILED for copy in work.call.endpoint.copies):
                    raise
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _input(self, work: _Work) -> bytes:
        n_bytes = await asyncio.to_thread(self._objects.size, work.input_url)
        if n_bytes > limits.ASYNC_INPUT_BYTES:
            told = f"{work.input_url} has {n_bytes} bytes; {limits.ASYNC_INPUT_BYTES} are taken"
            self._violations.add("async.input", work.call.endpoint.name, told)
            raise invalid(f"{told}.")
        return await asyncio.to_thread(self._objects.read, work.input_url)


def _seconds(call: Call, header: str, allowed: tuple[int, int], default: float) -> float:
    """A time that a call names, or the default."""
    value, (least, most) = float(call.headers.get(header, default)), allowed
    if value < least:
        raise names.unfit(header, f"{value:g}", f"Member must have value greater than or equal to {least}")
    if value > most:
        raise names.unfit(header, f"{value:g}", f"Member must have value less than or equal to {most}")
    return value
