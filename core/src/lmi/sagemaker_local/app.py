# SPDX-License-Identifier: Apache-2.0
"""What clients see: the runtime API, and what the emulator tells of itself."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lmi.sagemaker_local.asynchronous import Asynchronous
from lmi.sagemaker_local.calls import Call, read_call
from lmi.sagemaker_local.endpoint import Endpoint
from lmi.sagemaker_local.failures import ApiError, not_found
from lmi.sagemaker_local.invoking import invoke
from lmi.sagemaker_local.streaming import invoke_with_stream
from lmi.sagemaker_local.violations import Violations

_LOG = logging.getLogger(__name__)
_Answer = Callable[[Call], Awaitable[Response]]


def build_app(
    endpoints: Mapping[str, Endpoint],
    asynchronous: Asynchronous,
    violations: Violations,
    part_bytes: int | None = None,
) -> Starlette:
    """The application.

    Args:
        endpoints: name -> endpoint.
        asynchronous: where asynchronous calls go.
        violations: what GET /violations tells.
        part_bytes: no part of a stream is longer; None for parts as the container sends them.
    """

    async def stream(call: Call) -> Response:
        return await invoke_with_stream(call, part_bytes)

    async def put(call: Call) -> Response:
        return asynchronous.invoke(call)

    def tell_refused(api: str, name: str, error: ApiError) -> None:
        endpoint = endpoints.get(name)
        if endpoint is None:
            _LOG.warning("%s is refused: there is no endpoint %r; there is: %s", api, name, ", ".join(endpoints))
        elif endpoint.status != "InService":
            _LOG.warning("%s is refused: endpoint %s is %s, not InService", api, name, endpoint.status)
        elif error.kind == "ValidationError":
            violations.add("call.invalid", name, f"{api}: {error.message}")

    def operation(api: str, answer: _Answer) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            name = request.path_params["name"]
            try:
                if name not in endpoints:
                    raise not_found(name)
                response = await answer(await read_call(api, endpoints[name], request))
            except ApiError as error:
                tell_refused(api, name, error)
                return error.response()
            response.headers["x-amzn-RequestId"] = str(uuid4())
            return response

        return answered

    async def told(_: Request) -> Response:
        return JSONResponse({"Endpoints": [each.as_json() for each in endpoints.values()]})

    async def broken(_: Request) -> Response:
        return JSONResponse(violations.as_json())

    at = "/endpoints/{name}"
    return Starlette(
        routes=[
            Route(f"{at}/invocations", operation("InvokeEndpoint", invoke), methods=["POST"]),
            Route(
                f"{at}/invocations-response-stream",
                operation("InvokeEndpointWithResponseStream", stream),
                methods=["POST"],
            ),
            Route(f"{at}/async-invocations", operation("InvokeEndpointAsync", put), methods=["POST"]),
            Route("/endpoints", told),
            Route("/violations", broken),
        ]
    )
