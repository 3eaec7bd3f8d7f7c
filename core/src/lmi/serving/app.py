# SPDX-License-Identifier: Apache-2.0
"""The one FastAPI app that serves every model of every backend."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

import lmi
from lmi.api.errors import LmiError, NotFoundError, RequestError, sentences
from lmi.config.names import did_you_mean
from lmi.serving.adapter_routes import adapter_routes
from lmi.serving.context import Context
from lmi.serving.errors import body_of, headers_of, openai_body_of, status_of
from lmi.serving.health import health_routes
from lmi.serving.lmi import InvocationRoute
from lmi.serving.openai import EmbeddingsRoute, TextRoute
from lmi.serving.openai_chat import Chat
from lmi.serving.openai_completions import Completions
from lmi.serving.openai_models import model_routes
from lmi.serving.openai_responses import Responses
from lmi.serving.openapi import ROOT, describe
from lmi.serving.records import RecordsRoute
from lmi.serving.sagemaker import batch_routes
from lmi.serving.tokenizing import DetokenizeRoute, TokenizeRoute

_ROUTES = (
    "/invocations", "/predictions/{model}", "/v1/chat/completions", "/v1/completions", "/v1/responses",
    "/v1/embeddings", "/v1/models", "/ping", "/health", "/metrics",
)  # fmt: skip
"""What most clients call."""
_ROUTES_HINT = (
    "Routes: POST /invocations, POST /predictions/{model}, POST /v1/chat/completions, POST /v1/completions, "
    "POST /v1/responses, POST /v1/embeddings, GET /v1/models, GET /ping, GET /health, GET /metrics; others: /docs"
)

_OPENAIS = "/v1/"
"""What the paths of OpenAI's routes begin with."""


class _RootRoute(Route):
    """``POST /``, where clients of text-generation-inference send their requests, if a model speaks as it does."""

    def __init__(self, context: Context, inference: ASGIApp) -> None:
        super().__init__(ROOT, endpoint=inference, methods=["POST"])
        self._models = context.models

    def is_spoken(self) -> bool:
        """Whether a model does."""
        return any(model.plan.options.tgi_compat for model in self._models.values())

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if self.is_spoken() and scope["type"] == "http" else (Match.NONE, {})


class App(FastAPI):
    """FastAPI with a short way to the inference routes.

    Their requests need nothing of the middleware FastAPI brings along, which costs more than the rest of the server;
    middleware that somebody adds is respected.
    """

    def __init__(self, inference: ASGIApp) -> None:
        super().__init__(title="LMI", version=lmi.__version__)
        self._inference = inference
        for path in (
            "/invocations", "/predictions/{model}", "/predictions/{model}/{version}", "/models/{model}/invoke",
        ):  # fmt: skip
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


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _response(request: Request, error: LmiError, status: int, headers: Mapping[str, str] | None) -> Response:
    """An error as clients of its path read it."""
    body = openai_body_of if request.url.path.startswith(_OPENAIS) else body_of
    return Response(body(error, status), status, headers=headers, media_type="application/json")


def build_app(context: Context) -> FastAPI:
    """All routes: inference, health, and those that extensions add."""
    inference: ASGIApp = InvocationRoute(context)
    if context.container.is_batch:
        inference = RecordsRoute(context, inference)
    app = App(inference)
    root = _RootRoute(context, inference)
    app.router.routes.append(root)
    for path, route in (
        ("/v1/embeddings", EmbeddingsRoute(context)),
        ("/v1/completions", TextRoute(context, Completions)),
        ("/v1/chat/completions", TextRoute(context, Chat)),
        ("/v1/responses", TextRoute(context, Responses)),
        ("/tokenize", TokenizeRoute(context)),
        ("/detokenize", DetokenizeRoute(context)),
    ):
        app.router.routes.append(Route(path, endpoint=route, methods=["POST"]))
    options = context.options
    if options.cors_allowed_origin is not None:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=_listed(options.cors_allowed_origin),
            allow_methods=_listed(options.cors_allowed_methods or "*"),
            allow_headers=_listed(options.cors_allowed_headers or "*"),
        )
    app.include_router(health_routes(context))
    app.include_router(adapter_routes(context))
    app.include_router(model_routes(context))
    app.include_router(batch_routes(context))

    _tell_errors(app)
    context.plugins.extension_hooks.lmi_register_routes(app=app, context=context)
    describe(app, root.is_spoken)
    return app


def build_management_app(context: Context, routes: APIRouter) -> FastAPI:
    """The routes of a second address, for operators: models, their adapters, health.

    Args:
        context: the server's.
        routes: those that manage models.
    """
    app = FastAPI(title="LMI: models", version=lmi.__version__)
    for router in (health_routes(context), adapter_routes(context), routes):
        app.include_router(router)
    _tell_errors(app)
    return app


def _tell_errors(app: FastAPI) -> None:
    """Answer every error with its code, what happened and what to do."""

    @app.exception_handler(HTTPException)
    async def explain(request: Request, error: HTTPException) -> Response:
        path, status = f"{request.method} {request.url.path}", error.status_code
        if status == 404 and error.detail == "Not Found":
            near = did_you_mean(request.url.path, _ROUTES)
            failure: LmiError = NotFoundError("request.no-route", f"there is no {path}", sentences(near, _ROUTES_HINT))
        elif status == 405:
            failure = RequestError("request.wrong-method", f"{path}: {error.detail}", _ROUTES_HINT)
        else:
            failure = RequestError("request.refused", f"{path}: {error.detail}")
        return _response(request, failure, status, error.headers)

    @app.exception_handler(LmiError)
    async def report(request: Request, error: LmiError) -> Response:
        headers = {name.decode(): value.decode() for name, value in headers_of(error)}
        return _response(request, error, status_of(error), headers)
