# SPDX-License-Identifier: Apache-2.0
"""A route of one's own: GET /models/{name}/limits says what a model takes, so that a client need not find out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmi.api import NotReadyError, hookimpl

if TYPE_CHECKING:
    from fastapi import FastAPI


@hookimpl
def lmi_register_routes(app: FastAPI, context: Any) -> None:
    @app.get("/models/{name}/limits")
    async def limits(name: str) -> dict[str, int | float | None]:
        model = context.model(name)  # an unknown name is a 404 that lists the known ones
        engine, options = model.pool.limits, model.plan.options
        if engine is None:
            raise NotReadyError("limits.loading", f"model {name!r} is loading", "Wait until /ping answers 200")
        return {
            "max_context_tokens": engine.max_context_tokens,
            "max_batch_size": engine.max_batch_size,
            "max_waiting_requests": options.job_queue_size,
            "max_request_bytes": options.max_request_size,
            "max_request_s": options.predict_timeout,
        }
