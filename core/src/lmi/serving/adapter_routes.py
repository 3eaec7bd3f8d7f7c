# SPDX-License-Identifier: Apache-2.0
"""The routes that list, load and remove adapters while a model runs. Source: the adapter routes of DJL Serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmi.api.errors import RequestError
from lmi.config.names import did_you_mean
from lmi.serving.adapter_checks import adapter_name, fetch_checked
from lmi.serving.adapter_choice import ALIAS
from lmi.serving.adapter_entries import AdapterWish
from lmi.serving.adapter_sources import AdapterSource
from lmi.serving.fields import fields_of, number, shown

if TYPE_CHECKING:
    from lmi.serving.context import Context

_MOST_LISTED = 100
_NEEDED = ("name", "src")
_SWITCHES = {"preload": "preloaded", "pin": "pinned"}
"""Field -> what holds of an adapter where it is true."""


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
        return JSONResponse([model.adapters.describe(request.path_params["adapter"], _alias(request))])

    async def load(self, request: Request) -> JSONResponse:
        """Take an adapter from wherever it is; the answer comes when requests may name it."""
        context, model = self._context, self._context.model(request.path_params.get("model"))
        fields = await fields_of(request, "name and src")
        _refuse_fields(fields, {**dict.fromkeys(_NEEDED), **_SWITCHES}, needed=_NEEDED)
        name = adapter_name(fields["name"])
        source = AdapterSource.of(fields["src"], model.plan.artifacts, context.options.model_url_pattern)
        wish = AdapterWish(
            name=name,
            src=source.shown,
            alias=_alias(request),
            is_preloaded=_switch(fields, "preload", default=True),
            is_pinned=_switch(fields, "pin", default=False),
        )
        await model.adapters.add(wish, partial(fetch_checked, context.plugins, model.plan, name, source))
        return JSONResponse({"status": f"Adapter {name} registered", "adapters": model.adapters.described()})

    async def update(self, request: Request) -> JSONResponse:
        """Load an adapter that was registered only, pin it, or let it go."""
        model, name = self._context.model(request.path_params.get("model")), request.path_params["adapter"]
        fields = await fields_of(request, "preload and pin")
        _refuse_fields(fields, _SWITCHES)
        asked = {f"is_{word}": _switch(fields, field) for field, word in _SWITCHES.items() if field in fields}
        await model.adapters.update(name, alias=_alias(request), **asked)
        return JSONResponse({"status": f"Adapter {name} updated", "adapters": model.adapters.described()})

    async def remove(self, request: Request) -> JSONResponse:
        """Remove an adapter; the answer comes when its last request has ended."""
        model = self._context.model(request.path_params.get("model"))
        name = request.path_params["adapter"]
        await model.adapters.remove(name, _alias(request))
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
        router.add_api_route(f"{one}/update", does.update, methods=["POST"], tags=["adapters"])
    return router


def _refuse_fields(fields: Mapping[str, Any], known: Mapping[str, Any], needed: Sequence[str] = ()) -> None:
    """Refuse fields that nobody knows, and those that lack."""
    for name in fields:
        if name not in known:
            hint = did_you_mean(name, known, f"Known: {', '.join(known)}")
            raise RequestError("request.invalid", f"{shown(name)} is no option of an adapter", hint)
    lacking = [name for name in needed if name not in fields]
    if lacking:
        hint = "POST …/adapters?name=NAME&src=FOLDER, or the same as a JSON object"
        raise RequestError("request.invalid", f"{' and '.join(lacking)} is missing", hint)


def _switch(fields: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A field that is true or false, in JSON or as a text of the query."""
    value = fields.get(name, default)
    text = str(value).lower()
    if not isinstance(value, bool | str) or text not in ("true", "false"):
        raise RequestError("request.invalid", f"{name}={shown(value)} is neither true nor false", "Send one of them")
    return text == "true"


def _alias(request: Request) -> str:
    """What people call the adapter of a request."""
    return request.headers.get(ALIAS, "")
