# SPDX-License-Identifier: Apache-2.0
"""LMI's own schema: ``inputs``, ``parameters`` and ``stream`` in, ``generated_text`` or one JSON line a token out.

Source: the LMI input and output schema, as DJL Serving 0.26 to 0.29 speaks it.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.types import Receive, Scope, Send

from lmi.api.errors import EngineDeadError, LmiError, RequestError, sentences
from lmi.api.requests import SamplingParams
from lmi.api.texts import TextRequest, TextResult, TextToken
from lmi.custom.answer import answer_task
from lmi.custom.formatter import Formatter, GrowingAnswer
from lmi.serving.generation import Generation
from lmi.serving.streaming import JSON_LINES, ClientGoneError, Exchange

if TYPE_CHECKING:
    from lmi.custom.extension import ModelExtension
    from lmi.serving.context import Context

_LOG = logging.getLogger(__name__)


_LARGEST = 2**31 - 1
"""Bound of ids and counts: engines keep them in 32 bits, and no vocabulary or context comes near."""

TokenId = Annotated[int, Field(ge=0, le=_LARGEST)]
TokenIdKey = Annotated[int, Field(ge=0, le=_LARGEST, strict=False)]  # JSON has no other keys than texts


_ASKED_AS = {
    "min_tokens": "min_new_tokens",
    "ignore_eos": "ignore_eos_token",
    "n_logprobs": "top_n_tokens",
    "n_prompt_logprobs": "decoder_input_details",
}


class Parameters(BaseModel):
    """``parameters`` of a request. Bounds are those of SamplingParams; None means "not asked for"."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)

    max_new_tokens: int = Field(30, ge=1)
    min_new_tokens: int = Field(0, ge=0, le=_LARGEST)
    do_sample: bool | None = None
    seed: int | None = Field(None, ge=0, lt=2**64)
    temperature: float | None = Field(None, ge=0)
    top_k: int | None = Field(None, ge=-1, le=_LARGEST)
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[TokenIdKey, float] = Field(default_factory=dict, max_length=1024)
    stop_sequences: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(
        default_factory=list, alias="stop", max_length=32
    )
    stop_token_ids: list[TokenId] = Field(default_factory=list, max_length=128)
    ignore_eos_token: bool = Field(False, alias="ignore_eos")
    details: bool = False
    decoder_input_details: bool = False
    top_n_tokens: int | None = Field(None, ge=0, le=100)
    return_full_text: bool = False

    @property
    def wants_details(self) -> bool:
        return self.details or self.decoder_input_details or self.top_n_tokens is not None

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn: as ``do_sample`` says, else when anything that shapes a draw is set."""
        if self.do_sample is not None:
            return self.do_sample and self.temperature != 0
        shaping = (self.temperature, self.top_k, self.top_p, self.min_p, self.typical_p)
        return self.temperature != 0 and any(value is not None for value in shaping)

    def asked_as(self, field: str, value: Any) -> str:
        """How the caller asked for a field of SamplingParams."""
        if field == "temperature" and self.temperature is None:
            return "do_sample=True" if self.do_sample else "drawing tokens"
        name = _ASKED_AS.get(field, field)
        return f"{name}={getattr(self, name, value)!r}"

    def sampling(self, *, needs_logprobs: bool) -> SamplingParams:
        n_logprobs = self.top_n_tokens if self.top_n_tokens is not None else 0
        draw: dict[str, Any] = {}
        if self.samples:
            draw = {
                "temperature": 1.0 if self.temperature is None else self.temperature,
                "top_k": max(0, self.top_k or 0),
                "top_p": 1.0 if self.top_p is None else self.top_p,
                "min_p": self.min_p or 0.0,
                "typical_p": 1.0 if self.typical_p is None else self.typical_p,
                "seed": self.seed,
            }
        return SamplingParams(
            max_tokens=self.max_new_tokens,
            min_tokens=self.min_new_tokens,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=self.logit_bias,
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos_token,
            n_logprobs=n_logprobs if needs_logprobs else None,
            n_prompt_logprobs=0 if self.decoder_input_details else None,
            **draw,
        )


class Invocation(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: str
    parameters: Parameters = Parameters()
    stream: bool = False
    adapters: str = ""

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("the body must be a JSON object")
        return data


def parse(body: bytes) -> Invocation:
    """Read a body.

    Raises:
        RequestError: naming each field that is wrong, its value and the bound.
    """
    try:
        return Invocation.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from None


def parse_decoded(body: Any) -> Invocation:
    """The same for a body that an extension has translated."""
    try:
        return Invocation.model_validate(body)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> RequestError:
    details = error.errors(include_url=False)
    if details[0]["type"] == "json_invalid":
        return RequestError("request.malformed-json", f"the body is not JSON: {details[0]['ctx']['error']}")
    texts, hints = [], []
    for detail in details:
        field = ".".join(map(str, detail["loc"])) or "body"
        if detail["type"] == "extra_forbidden":
            name = str(detail["loc"][-1])
            known = Parameters if detail["loc"][0] == "parameters" else Invocation
            near = difflib.get_close_matches(name, known.model_fields, n=1)
            texts.append(f"{field} is not a parameter")
            hints.append(f"Did you mean {near[0]!r}" + "?" if near else "Known: " + ", ".join(known.model_fields))
        elif detail["type"] == "missing":
            texts.append(f"{field} is missing")
        else:
            value = repr(detail["input"])
            value = value if len(value) <= 80 else value[:77] + "..."
            texts.append(f"{field}={value}: {detail['msg'][0].lower()}{detail['msg'][1:]}")
    return RequestError("request.invalid", "; ".join(texts), sentences(*hints))


class Line(msgspec.Struct, omit_defaults=True):
    """One line of a stream; the last one also has the whole text."""

    token: TextToken | msgspec.UnsetType = msgspec.UNSET
    generated_text: str | None = None
    details: dict[str, Any] | None = None


_encoder = msgspec.json.Encoder()


class InvocationRoute:
    """``POST /invocations`` and ``POST /predictions/{model}``, as an ASGI application.

    Args:
        context: the server's models and hooks.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            await self._answer(exchange, scope)
        except ClientGoneError:
            pass
        except LmiError as error:
            await exchange.fail(error)
        except Exception as error:
            _LOG.exception("request %s failed", exchange.request_id)
            await exchange.fail(EngineDeadError("server.error", f"{type(error).__name__}: {error}"))
        finally:
            exchange.unwatch()

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        named = scope.get("path_params", {})
        model = self._context.model(named.get("model") or exchange.wanted_model, named.get("version"))
        body = await exchange.body(model.plan.options.max_request_size)
        if model.plan.serves_tasks:
            await answer_task(self._context, model, exchange, scope, body)
            return
        own = model.plan.extension
        invocation = self._parse(body, exchange, own)
        parameters = invocation.parameters
        is_stream = invocation.stream or model.plan.options.output_formatter == "jsonlines"
        formatter = own.formatter if own is not None else None
        needs_logprobs = model.gives_logprobs and (parameters.wants_details or is_stream or formatter is not None)
        request = TextRequest(
            request_id=exchange.unique_id,
            model=model.name,
            prompt=invocation.inputs,
            sampling=parameters.sampling(needs_logprobs=needs_logprobs or parameters.top_n_tokens is not None),
            stop_sequences=tuple(parameters.stop_sequences),
            stream=is_stream,
            adapter=invocation.adapters,
            headers=exchange.headers,
        )
        keeps_tokens = parameters.wants_details or self._context.formats_response is not None or own is not None
        generation = await model.admit(request, keeps_tokens=keeps_tokens, asked_as=parameters.asked_as)
        exchange.watch(generation.cancel)
        outcome = "error"
        try:
            if is_stream:
                await self._stream(exchange, generation, parameters, formatter)
            else:
                await self._whole(exchange, generation, parameters, formatter)
            outcome = "ok"
        except ClientGoneError:
            outcome = "cancelled"
            raise
        finally:
            if outcome != "ok":  # a filter may have refused in the middle: nobody wants the rest
                model.pool.cancel(generation.flight)
            self._context.metrics.count(generation, outcome)

    def _parse(self, body: bytes, exchange: Exchange, own: ModelExtension | None) -> Invocation:
        translators = [own.parses_request if own else None, self._context.parses_request]
        if translators == [None, None]:
            return parse(body)
        try:
            decoded = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError("request.malformed-json", f"the body is not JSON: {error}") from None
        answers = (each(body=decoded, headers=exchange.headers) for each in translators if each is not None)
        translated = next((answer for answer in answers if answer is not None), None)
        return parse_decoded(decoded if translated is None else translated)

    async def _whole(
        self, exchange: Exchange, generation: Generation, parameters: Parameters, formatter: Formatter | None
    ) -> None:
        result = await generation.result()
        if formatter is not None and not formatter.takes_answer:
            growing = _growing(formatter, generation, parameters)
            await exchange.answer(growing.add(result.tokens, result.finish_reason))
            return
        own = generation.model.plan.extension
        writers = [own.formats_response if own else None, self._context.formats_response]
        answers = (each(request=generation.request, result=result) for each in writers if each is not None)
        answer = next((answer for answer in answers if answer is not None), None)
        if answer is None:
            answer = {"generated_text": _shown_text(generation, parameters, result.text)}
            if parameters.wants_details:
                answer["details"] = _details(generation, parameters, result)
        await exchange.answer(_encoder.encode(answer if formatter is None else formatter.answer(answer)))

    async def _stream(
        self, exchange: Exchange, generation: Generation, parameters: Parameters, formatter: Formatter | None
    ) -> None:
        write = _line_writer(generation, parameters, formatter)
        tokens = await generation.next()  # a failure before the first token still has a status of its own
        await exchange.start(200, JSON_LINES)
        while not generation.finish_reason:
            generation.n_writes += 1
            await exchange.write(write(tokens))
            tokens = await generation.next()
        generation.n_writes += 1
        await exchange.write(write(tokens), is_last=True)


def _line_writer(
    generation: Generation, parameters: Parameters, formatter: Formatter | None
) -> Callable[[list[TextToken]], bytes]:
    """What turns new tokens into bytes of a stream: LMI's lines, or what the model's own formatter makes of them."""
    if formatter is not None and not formatter.takes_answer:
        growing = _growing(formatter, generation, parameters)
        return lambda tokens: growing.add(tokens, generation.finish_reason)
    if formatter is not None:
        change = formatter.answer
        return lambda tokens: _encoder.encode_lines([change(line) for line in _lines(generation, parameters, tokens)])
    return lambda tokens: _encoder.encode_lines(_lines(generation, parameters, tokens))


def _lines(generation: Generation, parameters: Parameters, tokens: list[TextToken]) -> list[Line]:
    """A line a token; when the answer is complete, the last one says so."""
    lines = [Line(token) for token in tokens]
    if generation.finish_reason:
        lines = lines or [Line()]
        lines[-1].generated_text = _shown_text(generation, parameters, generation.text)
        if parameters.wants_details:
            lines[-1].details = _details(generation, parameters, None)
    return lines


def _growing(formatter: Formatter, generation: Generation, parameters: Parameters) -> GrowingAnswer:
    asked = parameters.model_dump(exclude_unset=True)
    return formatter.growing(generation.request, generation.flight.request.prompt_ids, asked)


def _shown_text(generation: Generation, parameters: Parameters, text: str) -> str:
    return generation.request.prompt + text if parameters.return_full_text else text


def _details(generation: Generation, parameters: Parameters, result: TextResult | None) -> dict[str, Any]:
    """``details`` of an answer; a stream has sent its tokens already."""
    details: dict[str, Any] = {
        "finish_reason": generation.finish_reason,
        "generated_tokens": generation.n_output_tokens,
        "inputs": generation.request.prompt,
    }
    decode = generation.model.tokenizer.decode
    if result is not None:
        details["tokens"] = result.tokens
    if parameters.decoder_input_details:
        ids = generation.flight.request.prompt_ids
        logprobs = generation.prompt_logprobs or [None] * len(ids)
        details["prefill"] = [
            TextToken(token_id, decode([token_id]), None if entry is None else entry.logprob)
            for token_id, entry in zip(ids, logprobs, strict=True)
        ]
    if parameters.top_n_tokens is not None:
        details["top_tokens"] = [
            [TextToken(token_id, decode([token_id]), value) for token_id, value in entry.top]
            for entry in generation.logprobs[: generation.n_output_tokens]
        ]
    return details
