# SPDX-License-Identifier: Apache-2.0
"""Several requests in one body: each is a request of its own, and fails by itself; they start together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from lmi.api.errors import LmiError, NotReadyError, OverloadedError, RequestError, UnsupportedError
from lmi.serving.adapter_choice import asked_adapter
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
from lmi.serving.contents import Lines
from lmi.serving.generation import Generation
from lmi.serving.invocation import Invocation, ListInvocation
from lmi.serving.parameters import Parameters
from lmi.serving.route import tell, unexpected
from lmi.serving.streaming import ClientGoneError, Exchange

if TYPE_CHECKING:
    from lmi.serving.context import Context
    from lmi.serving.models import Model


def is_several(data: Any) -> bool:
    """Whether a decoded body has several requests."""
    return isinstance(data, Lines) or (isinstance(data, dict) and isinstance(data.get("inputs"), list))


async def answer_several(
    context: Context, model: Model, exchange: Exchange, data: Any, query: bytes
) -> Invocation | None:
    """Answer the requests of one body, each in its place.

    Args:
        context, model, exchange: as the route has them.
        data: the decoded body, with a list of inputs, or a request a line.
        query: what stands behind the ``?``.
    Returns:
        The one request of a list that is to be streamed, which is left to the caller; else None.
    Raises:
        LmiError: the body is wrong, all of its requests are, or they cannot be served now.
    """
    is_lines = isinstance(data, Lines)
    _refuse_too_many(len(data if is_lines else data["inputs"]), model.plan.options.max_client_batch_size)
    asked: list[Asked | LmiError]
    if is_lines:
        asked = [_asked_in_line(model, exchange, line, query) for line in data]
    else:
        invocation = read(ListInvocation, model, data)
        if invocation.stream or model.dialect.streams_unasked:
            return _streamed(invocation)
        asked = [*_asked_of(invocation, exchange, query)]
    formatter = formatter_of(model)
    if formatter is not None and not formatter.takes_answer:
        raise writes_one_sequence("a list of inputs", model)
    several = _Several(context, model, exchange)
    await several.prepare(asked)
    several.start()
    await send_whole(exchange, await several.answers(), is_lines=is_lines)
    return None


# --------------------------------------------------------------------------------------------------- what is asked


def _refuse_too_many(n_inputs: int, limit: int) -> None:
    if n_inputs > limit:
        raise RequestError(
            "request.too-many-inputs",
            f"the body has {n_inputs} inputs, the limit max_client_batch_size is {limit}",
            "Send them in several requests, or raise option.max_client_batch_size",
        )


def _streamed(invocation: ListInvocation) -> Invocation:
    if len(invocation.inputs) > 1:
        raise no_stream(f"a list of {len(invocation.inputs)} inputs")
    return Invocation.model_construct(**{**dict(invocation), "inputs": invocation.inputs[0]})


def _asked_of(invocation: ListInvocation, exchange: Exchange, query: bytes) -> list[Asked]:
    """The requests of a body with a list of texts."""
    _check(invocation.parameters)
    texts, named = invocation.inputs, invocation.adapters
    if named and len(named) != len(texts):
        raise RequestError(
            "request.invalid",
            f"adapters has {len(named)} names for {len(texts)} inputs",
            'Name one for each, with "" for the base model',
        )
    names: list[list[str] | None] = [[each] for each in named] if named else [None] * len(texts)
    return [
        Asked(prompt=text, parameters=invocation.parameters, adapter=asked_adapter(name, exchange.headers, query))
        for text, name in zip(texts, names, strict=True)
    ]


def _asked_in_line(model: Model, exchange: Exchange, line: Any, query: bytes) -> Asked | LmiError:
    """One line of a body with a request a line, or what is wrong with it."""
    try:
        if isinstance(line, LmiError):
            raise line
        invocation = read(Invocation, model, line)
        if invocation.stream:
            raise no_stream("one line of several")
        _check(invocation.parameters)
        adapter = asked_adapter(invocation.adapters, exchange.headers, query)
    except LmiError as error:
        return error
    return Asked(prompt=invocation.inputs, parameters=invocation.parameters, adapter=adapter)


def _check(parameters: Parameters) -> None:
    """Refuse what one of several requests of a body cannot have."""
    parameters.check()
    if not parameters.is_single:
        raise UnsupportedError(
            "request.unsupported",
            f"{parameters.asked_sequences} was asked beside a list of inputs; each of them has one answer",
            "Send each input by itself, or ask for one answer",
        )


# ------------------------------------------------------------------------------------------------- how it is answered


class _Several:
    """Requests that are answered together."""

    def __init__(self, context: Context, model: Model, exchange: Exchange) -> None:
        self._context, self._model, self._exchange = context, model, exchange
        self._places: list[tuple[Generation, Asked] | LmiError] = []

    async def prepare(self, asked: list[Asked | LmiError]) -> None:
        """Make all ready that can be; what is wrong with one stands in its place.

        Raises:
            NotReadyError, OverloadedError: the model takes no requests now.
        """
        self._model.limits_for(len(asked))  # before any work is done for requests that will be refused
        for index, each in enumerate(asked):
            await asyncio.sleep(0)  # texts that are encoded at once, one after the other, hold up nobody else
            try:
                if isinstance(each, LmiError):
                    raise each
                self._places.append((await self._prepared(index, each), each))
            except (NotReadyError, OverloadedError):
                raise
            except LmiError as error:
                self._places.append(error.with_traceback(None))  # whose frames have this, and every text
            except Exception as error:  # of an extension; the others are not to be lost with it
                self._places.append(unexpected(self._exchange, error))

    async def _prepared(self, index: int, asked: Asked) -> Generation:
        model, exchange = self._model, self._exchange
        request = text_request(exchange, model, asked, f"{exchange.unique_id}/{index}", is_stream=False)
        request, engine_request = await model.prepare(
            request, asked_as=asked.parameters.asked_as, drops_undeclared=model.dialect.drops_unknown
        )
        is_kept = keeps_tokens(self._context, model, asked.parameters)
        return Generation(model, request, engine_request, keeps_tokens=is_kept)

    def start(self) -> None:
        """Start all that are right, together.

        Raises:
            NotReadyError, OverloadedError: they cannot be served now.
            NotFoundError, EngineLoadError: an adapter has gone in the meantime.
        """
        generations = [place[0] for place in self._places if isinstance(place, tuple)]
        self._model.start(generations)

        def cancel(reason: LmiError) -> None:
            for each in generations:
                each.cancel(reason)

        self._exchange.measured = generations
        self._exchange.watch(cancel)

    async def answers(self) -> list[Any]:
        """The answer of each in its place, or the error that stands for it.

        Raises:
            ClientGoneError: nobody waits any more.
            LmiError: all failed; what is wrong with the first.
        """
        waiting = [asyncio.ensure_future(self._answer(place)) for place in self._places]
        try:
            found = await asyncio.gather(*waiting)
        finally:
            for each in waiting:  # of use where one raised
                each.cancel()
        errors = [each for each in found if isinstance(each, LmiError)]
        if len(errors) == len(found):
            raise errors[0]
        form = self._exchange.form
        return [
            msgspec.Raw(form.error_body(each, form.status(each))) if isinstance(each, LmiError) else each
            for each in found
        ]

    async def _answer(self, place: tuple[Generation, Asked] | LmiError) -> Any:
        if isinstance(place, LmiError):
            return place
        generation, asked = place
        outcome = "error"
        try:
            made = await self._made(generation, asked)
            outcome = "ok"
        except ClientGoneError:
            outcome = "cancelled"
            raise
        except LmiError as error:
            tell(self._exchange, error)
            return error
        except Exception as error:
            return unexpected(self._exchange, error)
        finally:
            if outcome != "ok":
                generation.end()
            self._context.metrics.count(generation, outcome, self._exchange.arrived_s)
        return made

    async def _made(self, generation: Generation, asked: Asked) -> Any:
        model, result = self._model, await generation.result()
        answer = formatted(self._context, model, generation.request, result)
        if answer is None:
            answer = model.dialect.writing.whole(generation, asked.parameters, result)
        formatter = formatter_of(model)
        return answer if formatter is None else formatter.answer(answer)
