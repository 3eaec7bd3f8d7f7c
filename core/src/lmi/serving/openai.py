# SPDX-License-Identifier: Apache-2.0
"""OpenAI's schema: its routes under ``/v1``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from starlette.types import Scope

from lmi.api import RequestError, Task
from lmi.serving.adapter_choice import asked_adapter
from lmi.serving.bodies import decoded, validated
from lmi.serving.embeddings import answer_embeddings
from lmi.serving.openai_chat import Chat
from lmi.serving.openai_completions import Completions
from lmi.serving.openai_responses import Responses
from lmi.serving.route import InferenceRoute
from lmi.serving.sessions import ID, join
from lmi.serving.streaming import EVENTS, ClientGoneError, Exchange, Form, refuse_too_large

if TYPE_CHECKING:
    from lmi.serving.context import Context
    from lmi.serving.models import Model


class OpenAIRoute(InferenceRoute):
    """A route whose body may name the model; a single model without adapters is taken whatever name it gives."""

    form: ClassVar[Form] = EVENTS

    async def _asked(self, exchange: Exchange) -> tuple[Model, Any]:
        """The model that a request is for, and its decoded body: where several are served, the body may name it."""
        context, wanted = self._context, self._context.wanted_model(exchange)
        is_named_inside = wanted is None and len(context.models) > 1
        models = context.models.values() if is_named_inside else [context.model(wanted)]
        body = await exchange.body(max(model.plan.options.max_request_size for model in models))
        data = decoded(body)
        if is_named_inside and isinstance(data, dict) and isinstance(data.get("model"), str):
            wanted = data["model"]
        model = context.model_called(wanted)
        exchange.model_name = model.name
        refuse_too_large(len(body), model.plan.options.max_request_size)
        if asked := exchange.headers.get(ID):
            join(model.sessions, exchange, asked)
        return model, data


class EmbeddingsRoute(OpenAIRoute):
    """``POST /v1/embeddings``."""

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


class TextRoute(OpenAIRoute):
    """``POST /v1/completions``, ``POST /v1/chat/completions`` and ``POST /v1/responses``.

    Args:
        context: the server's models and hooks.
        kind: which of them.
    """

    def __init__(self, context: Context, kind: type[Completions | Chat | Responses]) -> None:
        super().__init__(context)
        self._kind = kind

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        model, data = await self._asked(exchange)
        await answer_text(self._context, model, exchange, data, scope, kind=self._kind, form=self.form)


async def answer_text(
    context: Context,
    model: Model,
    exchange: Exchange,
    data: Any,
    scope: Scope,
    *,
    kind: type[Completions | Chat | Responses],
    form: Form,
) -> None:
    """Answer a request for a completion, a chat or a response.

    Args:
        context: the server's.
        model: which answers.
        exchange: the request.
        data: its decoded body.
        scope: of ASGI.
        kind: which of them it is.
        form: of a stream.
    Raises:
        LmiError: it cannot be served.
    """
    if model.plan.task is not Task.GENERATE or model.plan.serves_whole_requests:
        raise RequestError(
            "request.wrong-task",
            f"completions are for models that generate text; model {model.name!r} {_does(model)}",
            "Send it to another model",
        )
    body: Any = validated(kind.body_type, data)
    adapter = asked_adapter(body.adapters, exchange.headers, scope.get("query_string", b""))
    adapter = adapter or model.adapters.called(body.model or "")
    exchange.form = form
    answer = kind(model, exchange, form, body, adapter)
    group = await answer.start()
    exchange.measured = group.choices
    exchange.watch(group.cancel)
    outcome = "error"
    try:
        await (answer.stream(group) if answer.is_stream else answer.whole(group))
        outcome = "ok"
    except ClientGoneError:
        outcome = "cancelled"
        raise
    finally:
        if outcome != "ok":
            group.end()
        for choices in group.choices:
            context.metrics.count(choices, outcome, exchange.arrived_s)


def _does(model: Model) -> str:
    return "answers by a function of its own" if model.plan.is_custom else model.plan.task.does
