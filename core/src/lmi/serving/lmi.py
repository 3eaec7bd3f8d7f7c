# SPDX-License-Identifier: Apache-2.0
"""LMI's own schema: ``inputs``, ``parameters`` and ``stream`` in, ``generated_text`` or one JSON line a token out.

Source: the LMI input and output schema, as DJL Serving 0.26 to 0.29 speaks it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from lmi.api.backend import Task
from lmi.api.errors import LmiError, RequestError
from lmi.api.texts import TextRequest
from lmi.custom.formatter import Formatter
from lmi.serving import tgi
from lmi.serving.adapter_choice import asked_adapter
from lmi.serving.answers import growing_answer, stream_writer
from lmi.serving.asking import (
    Asked,
    formatted,
    formatter_of,
    keeps_tokens,
    no_stream,
    read,
    send_whole,
    text_request,
    writes_one_sequence,
)
from lmi.serving.beam_search import BeamSettings
from lmi.serving.beams import Beams, admit_beams
from lmi.serving.bodies import decoded
from lmi.serving.choices import Choices, admit_choices
from lmi.serving.contents import Lines, as_json, data_of, is_json
from lmi.serving.diagnostics import diagnosed
from lmi.serving.embeddings import answer_vectors
from lmi.serving.generation import Generation
from lmi.serving.invocation import Invocation
from lmi.serving.lists import answer_several, is_several
from lmi.serving.openai import answer_text
from lmi.serving.openai_chat import Chat
from lmi.serving.openai_completions import Completions
from lmi.serving.openai_responses import Responses
from lmi.serving.parameters import Parameters
from lmi.serving.route import InferenceRoute
from lmi.serving.sessions import begun
from lmi.serving.streaming import ClientGoneError, Exchange
from lmi.serving.whole_requests import answer_task

if TYPE_CHECKING:
    from lmi.serving.models import Model


def _data_of(body: bytes, content_type: str) -> Any:
    """What a body says, decoded."""
    if not body:
        raise RequestError("request.empty-prompt", "the body is empty", "Send inputs with at least one token of text")
    return decoded(body) if is_json(content_type) else data_of(body, content_type)


def _kind_of(data: Any) -> type[Completions | Chat | Responses] | None:
    """Which of OpenAI's bodies it is by its keys; None for LMI's own. Source: DJL Serving.

    ``input`` alone may be ``inputs``, misspelt: beside ``model``, which OpenAI wants there, it is what it says.
    """
    if not isinstance(data, dict) or "inputs" in data:
        return None
    if "messages" in data:
        return Chat
    if "prompt" in data:
        return Completions
    return Responses if "input" in data and "model" in data else None


class InvocationRoute(InferenceRoute):
    """``POST /invocations`` and ``POST /predictions/{model}``."""

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        if await diagnosed(self._context, exchange):
            return
        named = scope.get("path_params", {})
        model = self._context.model(named.get("model") or self._context.wanted_model(exchange), named.get("version"))
        exchange.form, exchange.model_name = model.dialect.lines, model.name
        body = await exchange.body(model.plan.options.max_request_size)
        if await begun(model.sessions, exchange, body):
            return
        query, content_type = scope.get("query_string", b""), exchange.headers.get("content-type", "")
        if model.plan.serves_whole_requests:
            if not model.plan.is_custom:
                model.adapters.refuse_unknown(asked_adapter(None, exchange.headers, query))
                body = as_json(body, content_type)
            await answer_task(self._context, model, exchange, scope, body)
            return
        if model.plan.task is not Task.GENERATE:
            model.adapters.refuse_unknown(asked_adapter(None, exchange.headers, query))
            await answer_vectors(self._context, model, exchange, as_json(body, content_type))
            return
        data = self._translated(_data_of(body, content_type), exchange, model)
        kind = _kind_of(data)
        if kind is not None:
            form = model.dialect.chat_form(exchange.accept)
            await answer_text(self._context, model, exchange, data, scope, kind=kind, form=form)
            return
        if is_several(data):
            invocation = await answer_several(self._context, model, exchange, data, query)
            if invocation is None:
                return
        else:
            invocation = read(Invocation, model, data)
        adapter = asked_adapter(invocation.adapters, exchange.headers, query)
        await self._generate(exchange, model, invocation, adapter)

    async def _generate(self, exchange: Exchange, model: Model, invocation: Invocation, adapter: str) -> None:
        parameters, formatter = invocation.parameters, formatter_of(model)
        parameters.check()
        is_stream = invocation.stream or model.dialect.streams_unasked
        asked = Asked(prompt=invocation.inputs, parameters=parameters, adapter=adapter)
        request = text_request(exchange, model, asked, exchange.unique_id, is_stream=is_stream)
        is_kept = keeps_tokens(self._context, model, parameters)
        answering: Generation | Choices | Beams
        if parameters.is_single:
            answering = await model.admit(
                request,
                keeps_tokens=is_kept,
                asked_as=parameters.asked_as,
                drops_undeclared=model.dialect.drops_unknown,
            )
        else:
            answering = await self._several(model, request, parameters, is_kept, formatter)
        exchange.measured = (answering,)
        exchange.watch(answering.cancel)
        outcome = "error"
        try:
            if not isinstance(answering, Generation):
                await self._choices(exchange, answering, model, parameters, formatter)
            elif request.stream:
                await self._stream(exchange, answering, parameters, formatter)
            else:
                await self._whole(exchange, answering, parameters, formatter)
            outcome = "ok"
        except ClientGoneError:
            outcome = "cancelled"
            raise
        finally:
            if outcome != "ok":  # a filter may have refused in the middle: nobody wants the rest
                answering.end()
            self._context.metrics.count(answering, outcome, exchange.arrived_s)

    def _translated(self, data: Any, exchange: Exchange, model: Model) -> Any:
        """A body as the model's own file or an extension reads it; as it is, where they leave it to LMI."""
        if isinstance(data, Lines):
            return Lines(
                each if isinstance(each, LmiError) else self._translated(each, exchange, model) for each in data
            )
        own = model.plan.extension
        translators = [own.parses_request if own else None, self._context.parses_request]
        answers = (each(body=data, headers=exchange.headers) for each in translators if each is not None)
        translated = next((answer for answer in answers if answer is not None), None)
        data = data if translated is None else translated
        return tgi.read(data) if model.dialect.is_tgi else data

    async def _whole(
        self, exchange: Exchange, generation: Generation, parameters: Parameters, formatter: Formatter | None
    ) -> None:
        result = await generation.result()
        if formatter is not None and not formatter.takes_answer:
            written = growing_answer(formatter, generation, parameters)
            await exchange.answer(written.add(result.tokens, result.finish_reason))
            return
        dialect = generation.model.dialect
        answer, in_list = formatted(self._context, generation.model, generation.request, result), False
        if answer is None:
            answer, in_list = dialect.writing.whole(generation, parameters, result), dialect.in_list
        answer = answer if formatter is None else formatter.answer(answer)
        await send_whole(exchange, [answer] if in_list else answer)

    async def _several(
        self,
        model: Model,
        request: TextRequest,
        parameters: Parameters,
        keeps_tokens: bool,
        formatter: Formatter | None,
    ) -> Choices | Beams:
        """Start what is answered with several sequences."""
        asked = parameters.asked_sequences
        if request.stream:
            raise no_stream(asked)
        if formatter is not None and not formatter.takes_answer:
            raise writes_one_sequence(asked, model)
        more: dict[str, Any] = {
            "n_answers": parameters.n,
            "asked_as": parameters.asked_as,
            "keeps_tokens": keeps_tokens,
        }
        if not parameters.is_beam_search:
            return await admit_choices(model, request, n_candidates=parameters.n_candidates, **more)
        settings = BeamSettings(
            n_beams=parameters.num_beams,
            length_penalty=parameters.length_penalty,
            early_stopping=parameters.early_stopping,
        )
        return await admit_beams(model, request, settings, **more)

    async def _choices(
        self,
        exchange: Exchange,
        choices: Choices | Beams,
        model: Model,
        parameters: Parameters,
        formatter: Formatter | None,
    ) -> None:
        found = await choices.result()
        others = tuple(choice.result for choice in found[1:])
        dialect = model.dialect
        result = dataclasses.replace(found[0].result, others=others)
        answer, in_list = formatted(self._context, model, choices.request, result), False
        if answer is None:
            answer, in_list = dialect.writing.of_choices(found, parameters), dialect.in_list
        answer = answer if formatter is None else formatter.answer(answer)
        await send_whole(exchange, [answer] if in_list else answer)

    async def _stream(
        self, exchange: Exchange, generation: Generation, parameters: Parameters, formatter: Formatter | None
    ) -> None:
        dialect = generation.model.dialect
        is_own = formatter is not None and not formatter.takes_answer  # which writes what it likes
        form = exchange.form = dialect.lines if is_own else dialect.stream_form(exchange.accept)
        write = stream_writer(generation, parameters, formatter, dialect.writing, form)
        tokens = await generation.next()  # a failure before the first token still has a status of its own
        await exchange.start(200, form.stream_type)
        while not generation.finish_reason:
            generation.n_writes += 1
            await exchange.write(write(tokens))
            tokens = await generation.next()
        generation.n_writes += 1
        await exchange.write(write(tokens), is_last=True)
