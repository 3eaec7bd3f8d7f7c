# SPDX-License-Identifier: Apache-2.0
"""The routes that list, load, scale and unload models while a server runs.

Sources: SageMaker's contract for multi-model containers; the management API of DJL Serving.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lmi.api.errors import LmiError, RequestError
from lmi.config.model_entries import ModelEntry, name_of, path_of
from lmi.config.names import did_you_mean
from lmi.config.settings import Setting
from lmi.serving.fields import fields_of, number, shown
from lmi.serving.model_forms import describe, status_of_model

if TYPE_CHECKING:
    from lmi.serving.context import Context
    from lmi.serving.models import Model
    from lmi.serving.registry import ModelRegistry

_LOG = logging.getLogger(__name__)
_SOURCE = "POST /models"
_MOST_LISTED = 100
_OF_THE_ENTRY = ("url", "model_name", "model_version", "synchronous")
_KEYS = {
    "engine": "engine", "device": "load_on_devices", "job_queue_size": "job_queue_size", "batch_size": "batch_size",
    "max_batch_delay": "max_batch_delay", "max_idle_time": "max_idle_time", "min_worker": "minWorkers",
    "max_worker": "maxWorkers",
}  # fmt: skip
"""Field of a request -> key of the configuration."""
_MOST_COPIES = 1024


class ModelRoutes:
    """What the routes do.

    Args:
        context: the server's models.
        registry: loads and unloads them.
    """

    def __init__(self, context: Context, registry: ModelRegistry) -> None:
        self._context, self._registry = context, registry
        self._loads: set[asyncio.Task[None]] = set()

    async def list(self, request: Request) -> JSONResponse:
        """The models, some at a time."""
        models = list(self._context.models.values())
        start = number(request, "next_page_token", 0, len(models))
        end = start + (number(request, "limit", _MOST_LISTED, _MOST_LISTED) or _MOST_LISTED)
        rest = {"nextPageToken": str(end)} if end < len(models) else {}
        return JSONResponse({"models": [_listed(model) for model in models[start:end]], **rest})

    async def tell(self, request: Request) -> JSONResponse:
        """One model, as SageMaker asks for it."""
        model = self._named(request)
        return JSONResponse({"modelName": model.name, "modelUrl": model.plan.url})

    async def describe(self, request: Request) -> JSONResponse:
        """One model with its workers, as DJL Serving answers."""
        return JSONResponse([describe(self._named(request))])

    async def load(self, request: Request) -> JSONResponse:
        """Load a model; the answer comes when requests may name it, unless the caller does not want to wait."""
        fields = await fields_of(request, "url and model_name")
        entry = _entry(fields)
        self._registry.refuse_taken(entry.name)
        if _is_false(fields.get("synchronous")):
            task = asyncio.get_running_loop().create_task(self._load_alone(entry))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)
            return JSONResponse({"status": f'Model "{entry.name}" is being loaded.'}, 202)
        await self._registry.load(entry)
        return JSONResponse({"status": f'Model "{entry.name}" registered.'})

    async def _load_alone(self, entry: ModelEntry) -> None:
        try:
            await self._registry.load(entry)
        except LmiError as error:
            _LOG.error("model %r was not loaded: %s", entry.name, error)

    async def scale(self, request: Request) -> JSONResponse:
        """Change how many copies a model has."""
        model, options = self._named(request), self._named(request).plan.options
        n_min = number(request, "min_worker", options.min_workers, _MOST_COPIES, least=1)
        n_max = number(request, "max_worker", max(n_min, options.max_workers), _MOST_COPIES, least=1)
        if n_max < n_min:
            message = f"max_worker={n_max} is less than min_worker={n_min}"
            raise RequestError("request.invalid", message, "Raise max_worker, or lower min_worker")
        model.scale(n_min, n_max)
        now = f"min workers:{n_min} max workers:{n_max}"
        return JSONResponse({"status": f'Model "{model.name}" worker scaled. New Worker configuration {now}'})

    async def unload(self, request: Request) -> JSONResponse:
        """Unload a model; the answer comes when its memory is free again."""
        model = self._named(request)
        await self._registry.unload(model.name)
        return JSONResponse({"status": f'Model "{model.name}" unregistered'})

    async def set_level(self, request: Request) -> JSONResponse:
        """The level of the server's log."""
        text = request.query_params.get("level", "info")
        if text.upper() not in ("DEBUG", "INFO", "WARNING", "WARN", "ERROR"):
            raise RequestError("request.invalid", f"level={shown(text)} is none", "Levels: debug, info, warning, error")
        logging.getLogger().setLevel(text.upper())
        return JSONResponse({"status": "OK"})

    async def metrics(self) -> Response:
        """The same as ``/metrics``."""
        return Response(self._context.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _named(self, request: Request) -> Model:
        return self._context.model(request.path_params["model"], request.path_params.get("version"))


def multi_model_routes(context: Context, registry: ModelRegistry) -> APIRouter:
    """SageMaker's routes of a multi-model container; ``/models/{model}/invoke`` is there in any case."""
    router, does = APIRouter(tags=["models"]), ModelRoutes(context, registry)
    router.add_api_route("/models", does.list, methods=["GET"])
    router.add_api_route("/models", does.load, methods=["POST"])
    router.add_api_route("/models/{model}", does.tell, methods=["GET"])
    router.add_api_route("/models/{model}", does.unload, methods=["DELETE"])
    return router


def management_routes(context: Context, registry: ModelRegistry) -> APIRouter:
    """The routes of DJL Serving's management API."""
    router, does = APIRouter(tags=["models"]), ModelRoutes(context, registry)
    router.add_api_route("/models", does.list, methods=["GET"])
    router.add_api_route("/models", does.load, methods=["POST"])
    for path in ("/models/{model}", "/models/{model}/{version}"):
        router.add_api_route(path, does.describe, methods=["GET"])
        router.add_api_route(path, does.scale, methods=["PUT"])
        router.add_api_route(path, does.unload, methods=["DELETE"])
    router.add_api_route("/server/logging", does.set_level, methods=["POST"])
    router.add_api_route("/server/metrics", does.metrics, methods=["GET"])
    return router


def _listed(model: Model) -> dict[str, Any]:
    version = {"version": model.plan.version} if model.plan.version else {}
    return {"modelName": model.name, **version, "modelUrl": model.plan.url, "status": status_of_model(model)}


def _entry(fields: dict[str, Any]) -> ModelEntry:
    known = (*_OF_THE_ENTRY, *_KEYS)
    unknown = [name for name in fields if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known, f"Known: {', '.join(known)}")
        raise RequestError("request.invalid", f"{shown(unknown[0])} is no option of a model", hint)
    url = fields.get("url")
    if not isinstance(url, str) or not url.strip():
        hint = 'Send {"model_name": NAME, "url": FOLDER}, or POST /models?url=FOLDER'
        raise RequestError("request.invalid", "url is missing", hint)
    name = fields.get("model_name") or name_of(path_of(url))
    if not isinstance(name, str) or "/" in name or not name.isprintable():
        raise RequestError("request.invalid", f"model_name={shown(name)} is no name", "Give a text without slashes")
    settings = tuple(
        Setting(key, text, _SOURCE, written=field)
        for field, key in _KEYS.items()
        if (text := str(fields.get(field, "")).strip())
    )
    version = str(fields.get("model_version") or "")
    return ModelEntry(
        url=path_of(url), name=name, version=version, settings=settings, source=_SOURCE, is_asked_for=True
    )  # fmt: skip


def _is_false(value: Any) -> bool:
    return value is False or str(value).lower() == "false"
