# SPDX-License-Identifier: Apache-2.0
"""What SageMaker asks a container beside its requests: how much of a batch transform job it takes at once.

Source: the SageMaker Developer Guide, on batch transform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from lmi.api.errors import NotReadyError
from lmi.container import SINGLE_RECORD
from lmi.sagemaker_limits import BATCH_PAYLOAD_PRODUCT_MB

if TYPE_CHECKING:
    from lmi.serving.context import Context
    from lmi.serving.models import Model

_MB = 1 << 20


def batch_routes(context: Context) -> APIRouter:
    """``GET /execution-parameters``."""
    router = APIRouter()

    async def tell() -> JSONResponse:
        return JSONResponse(execution_parameters(context))

    router.add_api_route("/execution-parameters", tell, methods=["GET"], tags=["SageMaker"])
    return router


def execution_parameters(context: Context) -> dict[str, Any]:
    """How a batch transform job should call this server; what its owner has chosen stays as it is.

    Bodies are as long as max_request_size lets them, and as many as the engine holds at once, as far as the platform
    allows both together.

    Raises:
        NotFoundError, NotReadyError: there is no model, or one has not loaded.
    """
    job = context.container
    models = list(context.models.values()) or [context.model()]
    payload_mb = job.max_payload_mb
    if payload_mb is None:
        largest_mb = min(model.plan.options.max_request_size for model in models) // _MB
        payload_mb = min(max(1, largest_mb), BATCH_PAYLOAD_PRODUCT_MB)
    n_at_once = min(map(_n_at_once, models))
    if payload_mb:
        n_at_once = max(1, min(n_at_once, BATCH_PAYLOAD_PRODUCT_MB // payload_mb))
    return {
        "MaxConcurrentTransforms": n_at_once if job.max_transforms is None else job.max_transforms,
        "BatchStrategy": job.batch_strategy or SINGLE_RECORD,
        "MaxPayloadInMB": payload_mb,
    }


def _n_at_once(model: Model) -> int:
    """Requests that a model's engines hold together."""
    limits = model.pool.limits
    if limits is None:
        raise NotReadyError("model.loading", f"model {model.name!r} is loading", "Wait until /ping answers 200")
    return limits.max_batch_size * model.plan.options.min_workers
