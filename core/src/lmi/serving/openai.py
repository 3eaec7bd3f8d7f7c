# SPDX-License-Identifier: Apache-2.0
"""OpenAI's schema: ``POST /v1/embeddings``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from lmi.api import RequestError, Task
from lmi.serving.adapter_choice import asked_adapter
from lmi.serving.bodies import decoded
from lmi.serving.embeddings import answer_embeddings
from lmi.serving.route import InferenceRoute
from lmi.serving.streaming import Exchange, refuse_too_large

if TYPE_CHECKING:
    from lmi.serving.models import Model


class EmbeddingsRoute(InferenceRoute):
    """``POST /v1/embeddings``; a single model is taken whatever name the request gives."""

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        model, data = await self._asked(exchange)
        if model.plan.task is not Task.EMBED or model.plan.serves_whole_requests:
            raise RequestError(
                "request.wrong-task",
                f"/v1/embeddings is for models that make vectors; model {model.name!r} {_does(model)}",
                "Send it to another model, or serve this one with option.task=text-embedding, if it was made for that",
            )
        model.adapters.refuse_unknown(asked_adapter(None, exchange.headers, scope.get("query_string", b"")))
        await answer_embeddings(self._context, model, exchange, data)

    async def _asked(self, exchange: Exchange) -> tuple[Model, Any]:
        """The model that a request is for, and its decoded body: where several are served, the body may name it."""
        context, wanted = self._context, exchange.wanted_model
        is_named_inside = wanted is None and len(context.models) > 1
        models = context.models.values() if is_named_inside else [context.model(wanted)]
        body = await exchange.body(max(model.plan.options.max_request_size for model in models))
        data = decoded(body)
        if is_named_inside and isinstance(data, dict) and isinstance(data.get("model"), str):
            wanted = data["model"]
        model = context.model(wanted)
        refuse_too_large(len(body), model.plan.options.max_request_size)
        return model, data


def _does(model: Model) -> str:
    return "answers by a function of its own" if model.plan.is_custom else model.plan.task.does
