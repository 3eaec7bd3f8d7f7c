# SPDX-License-Identifier: Apache-2.0
"""The one FastAPI app that serves every model of every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import lmi
from lmi.api.errors import LmiError, NotFoundError, NotReadyError, RequestError
from lmi.plugins import Plugins
from lmi.serving.errors import body_of, headers_of
from lmi.serving.health import health_routes
from lmi.serving.lmi import InvocationRoute
from lmi.serving.metrics import Metrics
from lmi.serving.models import Model


class Context:
    """What routes know of the server.

    Args:
        plugins: for the hooks of extensions.
    """

    def __init__(self, plugins: Plugins) -> None:
        hooks = plugins.extension_hooks
        self.plugins = plugins
        self.models: dict[str, Model] = {}
        self.metrics = Metrics(self.models)
        self.stage = "check configuration"
        self.request_filters = in_order(hooks.lmi_filter_request)
        self.text_filters = in_order(hooks.lmi_filter_text)
        self.parses_request = _if_implemented(hooks.lmi_parse_request)
        self.formats_response = _if_implemented(hooks.lmi_format_response)

    def model(self, name: str | None = None) -> Model:
        """The model of that name; without a name, the only one.

        Raises:
            NotFoundError, RequestError, NotReadyError.
        """
        if not self.models:
            raise NotReadyError(
                "model.loading", f"no model is loaded yet ({self.stage})", "Wait until /ping answers 200"
            )
        if name is None:
            if len(self.models) > 1:
                known = ", ".join(self.models)
                raise RequestError("request.no-model", "several models are served", f"Name one of them: {known}")
            return next(iter(self.models.values()))
        if name not in self.models:
            raise NotFoundError(
                "model.not-found", f"there is no model {name!r}", f"Models here: {', '.join(self.models)}"
            )
        return self.models[name]


def in_order(hook: pluggy.HookCaller) -> list[Callable[..., Any]]:
    """Implementations of a hook in the order pluggy would call them, each taking all parameters by name."""

    def adapt(implementation: pluggy.HookImpl) -> Callable[..., Any]:
        names = implementation.argnames
        function = implementation.function
        return lambda **arguments: function(*(arguments[name] for name in names))

    return [adapt(implementation) for implementation in reversed(hook.get_hookimpls())]


def _if_implemented(hook: pluggy.HookCaller) -> Callable[..., Any] | None:
    return hook if hook.get_hookimpls() else None


class App(FastAPI):
    """FastAPI with a short way to the inference routes.

    Their requests need nothing of the middleware FastAPI brings along, which costs more than the rest of the server;
    middleware that somebody adds is respected.
    """

    def __init__(self, inference: InvocationRoute) -> None:
        super().__init__(title="LMI", version=lmi.__version__)
        self._inference = inference
        for path in ("/invocations", "/predictions/{model}"):
            self.router.routes.append(Route(path, endpoint=inference, methods=["POST"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"] == "/invocations"
            and scope["method"] == "POST"
            and not self.user_middleware
        ):
            await self._inference(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def build_app(context: Context) -> FastAPI:
    """All routes: inference, health, and those that extensions add."""
    app = App(InvocationRoute(context))
    app.include_router(health_routes(context))

    @app.exception_handler(HTTPException)
    async def explain(request: Request, error: HTTPException) -> Response:
        path = f"{request.method} {request.url.path}"
        failure: LmiError = NotFoundError("request.no-route", f"there is no {path}", "Routes: /docs")
        body = body_of(failure)
        if error.status_code != 404:
            failure = RequestError("request.wrong-method", f"{path}: {error.detail}", "Routes: /docs")
            body = body_of(failure).replace(b'"code": 400', b'"code": %d' % error.status_code)
        return Response(body, error.status_code, media_type="application/json")

    @app.exception_handler(LmiError)
    async def report(_: Request, error: LmiError) -> Response:
        from lmi.serving.errors import status_of

        headers = {name.decode(): value.decode() for name, value in headers_of(error)}
        return Response(body_of(error), status_of(error), headers=headers, media_type="application/json")

    context.plugins.extension_hooks.lmi_register_routes(app=app, context=context)
    return app
