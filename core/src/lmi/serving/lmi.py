# SPDX-License-Identifier: Apache-2.0
"""LMI's own schema: ``inputs``, ``parameters`` and ``stream`` in, ``generated_text`` or one JSON line a token out.

Source: the LMI input and output schema, as DJL Serving 0.26 to 0.29 speaks it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from lmi.api.backend import Task
from lmi.api.errors import UnsupportedError
from lmi.api.texts import TextRequest, TextResult
from lmi.custom.formatter import Formatter
from lmi.serving.adapter_choice import asked_adapter
from lmi.serving.answers import answer_of_choices, encoder, growing_answer, line_writer, whole_answer
from lmi.serving.beam_search import BeamSettings
from lmi.serving.beams import Beams, admit_beams
from lmi.serving.bodies import decoded, validated
from lmi.serving.choices import Choices, admit_choices
from lmi.serving.embeddings import answer_vectors
from lmi.serving.generation import Generation
from lmi.serving.invocation import Invocation
from lmi.serving.parameters import Parameters
from lmi.serving.route import InferenceRoute
from lmi.serving.streaming import JSON_LINES, ClientGoneError, Exchange
from lmi.serving.whole_requests import answer_task

if TYPE_CHECKING:
    from lmi.custom.extension import ModelExtension
    from lmi.serving.models import Model


class InvocationRoute(InferenceRoute):
    """``POST /invocations`` and ``POST /predictions/{model}``."""

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        named = scope.get("path_params", {})
        model = self._context.model(named.get("model") or exchange.wanted_model, named.get("version"))
        body = await exchange.body(model.plan.options.max_request_size)
        query = scope.get("query_string", b"")
        if model.plan.serves_whole_requests:
            if not model.plan.is_custom:
                model.adapters.refuse_unknown(asked_adapter(None, exchange.headers, query))
            await answer_task(self._context, model, exchange, scope, body)
            return
        if model.plan.task is not Task.GENERATE:
            model.adapters.refuse_unknown(asked_adapter(None, exchange.headers, query))
            await answer_vectors(self._context, model, exchange, body)
            return
        invocation = self._parse(body, exchange, model.plan.extension)
        adapter = asked_adapter(invocation.adapters, exchange.headers, query)
        await self._generate(exchange, model, invocation, adapter)

    async def _generate(self, exchange: Exchange, model: Model, invocation: Invocation, adapter: str) -> None:
        own, parameters = model.plan.extension, invocation.parameters
        parameters.check()
        formatter = own.formatter if own is not None else None
        request = self._request(exchange, model, invocation, adapter, formatter)
        keeps_tokens = parameters.wants_details or self._context.formats_response is not None or own is not None
        answering: Generation | Choices | Beams
        if parameters.is_single:
            answering = await model.admit(request, keeps_tokens=keeps_tokens, asked_as=parameters.asked_as)
        else:
            answering = await self._several(model, request, parameters, keeps_tokens, formatter)
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
            self._context.metrics.count(answering, outcome)

    @staticmethod
    def _request(
        exchange: Exchange, model: Model, invocation: Invocation, adapter: str, formatter: Formatter | None
    ) -> TextRequest:
        parameters = invocation.parameters
        is_stream = invocation.stream or model.plan.options.output_formatter == "jsonlines"
        shows_logprobs = model.gives_logprobs and (parameters.wants_details or is_stream or formatter is not None)
        return TextRequest(
            request_id=exchange.unique_id,
            model=model.name,
            prompt=invocation.inputs,
            sampling=parameters.sampling(shows_logprobs=shows_logprobs),
            stop_sequences=tuple(parameters.stop_sequences),
            bad_words=tuple(parameters.bad_words),
            keeps_stop=parameters.include_stop_str_in_output,
            shows_special=not parameters.skip_special_tokens,
            n_last_prompt_tokens=parameters.truncate,
            stream=is_stream,
            adapter=adapter,
            headers=exchange.headers,
        )

    def _parse(self, body: bytes, exchange: Exchange, own: ModelExtension | None) -> Invocation:
        data = decoded(body)
        translators = [own.parses_request if own else None, self._context.parses_request]
        answers = (each(body=data, headers=exchange.headers) for each in translators if each is not None)
        translated = next((answer for answer in answers if answer is not None), None)
        return validated(Invocation, data if translated is None else translated)

    async def _whole(
        self, exchange: Exchange, generation: Generation, parameters: Parameters, formatter: Formatter | None
    ) -> None:
        result = await generation.result()
        if formatter is not None and not formatter.takes_answer:
            written = growing_answer(formatter, generation, parameters)
            await exchange.answer(written.add(result.tokens, result.finish_reason))
            return
        answer = self._formatted(generation.model, generation.request, result)
        if answer is None:
            answer = whole_answer(generation, parameters, result)
        await exchange.answer(encoder.encode(answer if formatter is None else formatter.answer(answer)))

    def _formatted(self, model: Model, request: TextRequest, result: TextResult) -> Any:
        """An answer as the model's own file or an extension writes it; None where they leave it to LMI's schema."""
        own = model.plan.extension
        writers = [own.formats_response if own else None, self._context.formats_response]
        answers = (each(request=request, result=result) for each in writers if each is not None)
        return next((answer for answer in answers if answer is not None), None)

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
            raise UnsupportedError(
                "request.unsupported",
                f"{asked} was asked of a stream; the lines of a stream are those of one sequence",
                "Leave out stream (or output_formatter=jsonlines, where the server has it), or ask for one answer",
            )
        if formatter is not None and not formatter.takes_answer:
            raise UnsupportedError(
                "request.unsupported",
                f"{asked} was asked, but the output formatter of model {model.name!r} writes one sequence",
                "Ask for one answer",
            )
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
        answer = self._formatted(model, choices.request, dataclasses.replace(found[0].result, others=others))
        if answer is None:
            answer = answer_of_choices(found, parameters)
        await exchange.answer(encoder.encode(answer if formatter is None else formatter.answer(answer)))

    async def _stream(
        self, exchange: Exchange, generation: Generation, parameters: Parameters, formatter: Formatter | None
    ) -> None:
        write = line_writer(generation, parameters, formatter)
        tokens = await generation.next()  # a failure before the first token still has a status of its own
        await exchange.start(200, JSON_LINES)
        while not generation.finish_reason:
            generation.n_writes += 1
            await exchange.write(write(tokens))
            tokens = await generation.next()
        generation.n_writes += 1
        await exchange.write(write(tokens), is_last=True)
