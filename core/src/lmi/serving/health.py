# SPDX-License-Identifier: Apache-2.0
"""``/ping``, ``/health`` and ``/metrics``: answered from memory, never waiting for a worker.

Source: SageMaker's container contract for ``/ping``; its body maps model names to a status, as DJL Serving does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from lmi.serving.models import Model, ModelState
from lmi.serving.timeline import READY

if TYPE_CHECKING:
    from lmi.serving.context import Context

_PING_STATUS = {
    ModelState.STARTING: ("PENDING", 503),
    ModelState.READY: ("Healthy", 200),
    ModelState.DEGRADED: ("Healthy", 200),
    ModelState.STALLED: ("Unhealthy", 503),
    ModelState.DRAINING: ("Unhealthy", 503),
    ModelState.FAILED: ("FAILED", 500),
}


def health_routes(context: Context) -> APIRouter:
    """The routes an orchestrator asks."""
    router = APIRouter()

    async def ping() -> JSONResponse:
        options = context.options
        loading_status = 503 if options.wait_model_loading else 207 if options.allow_multi_status else 200
        if not context.models:  # there are none to serve, or they are still looked for and fetched
            is_ready = context.stage == READY
            return JSONResponse({} if is_ready else {"stage": context.stage}, 200 if is_ready else loading_status)
        status = 200
        body: dict[str, dict[str, Any]] = {}
        for model in context.models.values():
            text, code = _PING_STATUS[model.state]
            if not (model.is_late or context.container.is_multi_model):  # those come and go, and the others answer
                status = max(status, loading_status if model.state is ModelState.STARTING else code)
            body[model.name] = {"status": text}
            if model.state is ModelState.STARTING:
                body[model.name] |= _stage(model)
        return JSONResponse(body, status)

    async def health() -> JSONResponse:
        models = [describe(model) for model in context.models.values()]
        return JSONResponse({"stage": context.stage, "timeline": context.timeline.as_dict(), "models": models})

    async def metrics() -> Response:
        return Response(context.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    router.add_api_route("/ping", ping, methods=["GET", "HEAD", "POST"], tags=["health"])
    router.add_api_route("/health", health, methods=["GET"], tags=["health"])
    router.add_api_route("/metrics", metrics, methods=["GET"], tags=["health"])
    return router


def _stage(model: Model) -> dict[str, Any]:
    worker = next(iter(model.pool.workers), None)
    if worker is None:
        return {"stage": "starting"}
    return {"stage": worker.stage, "fraction": worker.fraction}


def describe(model: Model) -> dict[str, Any]:
    """How a model and its workers are."""
    starts = model.history.starts
    return {
        "name": model.name,
        "state": model.state.value,
        "backend": model.plan.info.name,
        "chosen_because": model.plan.reason,
        "failure": None if model.failure is None else str(model.failure),
        "n_worker_deaths": model.pool.n_deaths,
        "timeline": None if model.timeline is None else model.timeline.as_dict(),
        "workers": [
            {
                "label": worker.label,
                "pid": worker.pid,
                "state": worker.state.value,
                "stage": worker.stage,
                "fraction": worker.fraction,
                "timeline": starts[worker.label].as_dict() if worker.label in starts else {},
                "n_requests": len(worker.flights),
                "n_reserved_tokens": worker.n_reserved_tokens,
                "n_running": worker.stats.n_running,
                "n_waiting": worker.stats.n_waiting,
                "kv_used_tokens": worker.stats.kv_used_tokens,
                "kv_total_tokens": worker.stats.kv_total_tokens,
                "n_steps": worker.stats.n_steps,
                "n_guessed_tokens": worker.stats.n_guessed_tokens,
                "n_accepted_tokens": worker.stats.n_accepted_tokens,
                "s_since_step": round(model.pool.stalled_s(worker), 3),
            }
            for worker in model.pool.workers
        ],
    }
