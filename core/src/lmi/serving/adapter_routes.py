# SPDX-License-Identifier: Apache-2.0
"""The routes that list, load and remove adapters while a model runs. Source: the adapter routes of DJL Serving."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmi.api.errors import RequestError
from lmi.config.names import did_you_mean
from lmi.serving.adapter_checks import adapter_folder, adapter_name, refuse_wrong
from lmi.serving.fields import fields_of, number

if TYPE_CHECKING:
    from lmi.serving.context import Context

_MOST_LISTED = 100
_FIELDS = ("name", "src")
_WITHOUT_EFFECT = {"preload": "true", "pin": "false"}
"""Options of other servers, with the value that says what is done here anyway."""


class AdapterRoutes:
    """What the routes do.

    Args:
        context: the server's models.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(self, request: Request) -> JSONResponse:
        """The adapters of a model by name, some at a time."""
        adapters = self._context.model(request.path_params.get("model")).adapters.described()
        start = number(request, "next_page_token", 0, len(adapters))
        end = start + (number(request, "limit", _MOST_LISTED, _MOST_LISTED) or _MOST_LISTED)
        rest = {"next_page_token": str(end)} if end < len(adapters) else {}
        return JSONResponse({"adapters": adapters[start:end], **rest})

    async def describe(self, request: Request) -> JSONResponse:
        """One adapter; in a list, as DJL Serving answers."""
        model = self._context.model(request.path_params.get("model"))
        return JSONResponse([model.adapters.describe(request.path_params["adapter"])])

    async def load(self, request: Request) -> JSONResponse:
        """Load an adapter from a folder of this machine; the answer comes when requests may name it."""
        model = self._context.model(request.path_params.get("model"))
        fields = await fields_of(request, "name and src")
        _refuse_unknown(fields)
        name, folder = adapter_name(fields["name"]), adapter_folder(fields["src"], model.plan.artifacts)
        check = partial(refuse_wrong, self._context.plugins, model.plan, name, folder)
        await model.adapters.add(name, str(folder), check)
        return JSONResponse({"status": f"Adapter {name} registered", "adapters": model.adapters.described()})

    async def remove(self, request: Request) -> JSONResponse:
        """Remove an adapter; the answer comes when its last request has ended."""
        model = self._context.model(request.path_params.get("model"))
        name = request.path_params["adapter"]
        await model.adapters.remove(name)
        return JSONResponse({"status": f"Adapter {name} unregistered", "adapters": model.adapters.described()})


def adapter_routes(context: Context) -> APIRouter:
    """``/models/{model}/adapters``, and the same without the model where there is one."""
    router, does = APIRouter(), AdapterRoutes(context)
    for prefix in ("/models/{model}", ""):
        whole, one = f"{prefix}/adapters", f"{prefix}/adapters/{{adapter}}"
        router.add_api_route(whole, does.list, methods=["GET"], tags=["adapters"])
        router.add_api_route(whole, does.load, methods=["POST"], tags=["adapters"])
        router.add_api_route(one, does.describe, methods=["GET"], tags=["adapters"])
        router.add_api_route(one, does.remove, methods=["DELETE"], tags=["adapters"])
    return router


def _refuse_unknown(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if name in _FIELDS:
            continue
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        if _WITHOUT_EFFECT.get(name) == text.lower():
            continue
        if name in _WITHOUT_EFFECT:
            hint = f"Adapters are loaded at once and stay loaded: leave it out, or send {name}={_WITHOUT_EFFECT[name]}"
            raise RequestError("request.invalid", f"{name}={text} is not offered", hint)
        hint = did_you_mean(name, _FIELDS, "Known: name, src")
        raise RequestError("request.invalid", f"{name} is no option of an adapter", hint)
    lacking = [name for name in _FIELDS if name not in fields]
    if lacking:
        hint = "POST …/adapters?name=NAME&src=FOLDER, or the same as a JSON object"
        raise RequestError("request.invalid", f"{' and '.join(lacking)} is missing", hint)
