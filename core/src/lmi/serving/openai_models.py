# SPDX-License-Identifier: Apache-2.0
"""Which models there are, as OpenAI lists them: each model, and each of its adapters.

Source: OpenAI's API reference, models; ``parent`` and ``max_model_len`` as other servers have them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from lmi.api.errors import NotFoundError

if TYPE_CHECKING:
    from lmi.serving.context import Context


def model_routes(context: Context) -> APIRouter:
    """``GET /v1/models`` and ``GET /v1/models/{name}``."""
    router, created = APIRouter(), int(time.time())

    def listed() -> Iterator[dict[str, Any]]:
        for model in context.models.values():
            limits = model.pool.limits
            entry = {"object": "model", "created": created, "owned_by": "lmi", "root": model.plan.artifacts.folder}
            size = None if limits is None else limits.max_context_tokens
            yield {"id": model.name, **entry, "parent": None, "max_model_len": size}
            for name, src in model.adapters.offered().items():
                yield {"id": name, **entry, "root": src, "parent": model.name, "max_model_len": size}

    async def models() -> dict[str, Any]:
        """Models that answer, and their adapters."""
        return {"object": "list", "data": list(listed())}

    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        found = {each["id"]: each for each in listed()}
        if name not in found:
            raise NotFoundError("model.not-found", f"there is no model {name!r}", f"Models here: {', '.join(found)}")
        return found[name]

    router.add_api_route("/v1/models", models, methods=["GET"], tags=["openai"])
    router.add_api_route("/v1/models/{name:path}", model, methods=["GET"], tags=["openai"])
    return router
