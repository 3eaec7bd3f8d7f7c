# SPDX-License-Identifier: Apache-2.0
"""What requests in LMI's schema have in common, one in a body or several: how they are read, asked and answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmi.api.errors import UnsupportedError
from lmi.api.texts import TextRequest, TextResult
from lmi.custom.formatter import Formatter
from lmi.serving.answers import encoder
from lmi.serving.bodies import Body, validated, validated_known
from lmi.serving.dialect import takes_lines
from lmi.serving.parameters import Parameters
from lmi.serving.streaming import JSON_LINES, Exchange, unbroken

if TYPE_CHECKING:
    from lmi.serving.context import Context
    from lmi.serving.models import Model


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request.

    Args:
        prompt: its text.
        parameters: which may be those of several.
        adapter: its adapter; empty for the base model.
    """

    prompt: str
    parameters: Parameters
    adapter: str


def read(kind: type[Body], model: Model, data: Any) -> Body:
    """A decoded body as the model takes it.

    Raises:
        RequestError: naming each field that is wrong.
    """
    if not model.dialect.drops_unknown:
        return validated(kind, data)
    return validated_known(kind, data, lambda name: model.note_left_out(name, "nobody knows it"))


def text_request(exchange: Exchange, model: Model, asked: Asked, request_id: str, *, is_stream: bool) -> TextRequest:
    """A request in the words of the server.

    Args:
        exchange, model: whence and where to.
        asked: what.
        request_id: unique in the server.
        is_stream: whether its caller reads tokens as they come.
    """
    parameters = asked.parameters
    has_formatter = formatter_of(model) is not None
    shows_logprobs = model.gives_logprobs and (parameters.wants_details or is_stream or has_formatter)
    return request_of(
        exchange,
        model,
        parameters,
        request_id=request_id,
        prompt=asked.prompt,
        sampling=parameters.sampling(shows_logprobs=shows_logprobs),
        stream=is_stream,
        adapter=asked.adapter,
    )


def request_of(exchange: Exchange, model: Model, parameters: Parameters, **more: Any) -> TextRequest:
    """A request with what its parameters say of its text.

    Args:
        exchange, model: whence and where to.
        parameters: in LMI's words.
        more: all else of a TextRequest, and what is to be otherwise.
    """
    said = {
        "stop_sequences": tuple(parameters.stop_sequences),
        "bad_words": tuple(parameters.bad_words),
        "keeps_stop": parameters.include_stop_str_in_output,
        "shows_special": not parameters.skip_special_tokens,
        "n_last_prompt_tokens": parameters.truncate,
    }
    return TextRequest(model=model.name, headers=exchange.headers, **{**said, **more})


def keeps_tokens(context: Context, model: Model, parameters: Parameters) -> bool:
    """Whether every token is wanted again when the answer is complete."""
    return parameters.wants_details or context.formats_response is not None or model.plan.extension is not None


def formatter_of(model: Model) -> Formatter | None:
    """What writes the model's answers, where its own file does."""
    own = model.plan.extension
    return None if own is None else own.formatter


def formatted(context: Context, model: Model, request: TextRequest, result: TextResult) -> Any:
    """An answer as the model's own file or an extension writes it; None where they leave it to LMI's schema."""
    own = model.plan.extension
    writers = [own.formats_response if own else None, context.formats_response]
    answers = (each(request=request, result=result) for each in writers if each is not None)
    return next((answer for answer in answers if answer is not None), None)


async def send_whole(exchange: Exchange, answer: Any, *, is_lines: bool = False) -> None:
    """Send one whole answer, in the form that its caller takes.

    Args:
        exchange: the request.
        answer: an object, or a list of them.
        is_lines: whether it is lines in any case.
    """
    if is_lines or takes_lines(exchange.accept):
        lines = encoder.encode_lines(answer if isinstance(answer, list) else [answer])
        await exchange.answer(unbroken(lines), JSON_LINES)
    else:
        await exchange.answer(encoder.encode(answer))


def no_stream(asked: str) -> UnsupportedError:
    """The refusal to stream what has several sequences."""
    return UnsupportedError(
        "request.unsupported",
        f"{asked} was asked of a stream; the lines of a stream are those of one sequence",
        "Leave out stream (or output_formatter=jsonlines or sse, where the server has it), or ask for one answer",
    )


def writes_one_sequence(asked: str, model: Model) -> UnsupportedError:
    """The refusal of several sequences where the model's own formatter writes tokens."""
    return UnsupportedError(
        "request.unsupported",
        f"{asked} was asked, but the output formatter of model {model.name!r} writes one sequence",
        "Ask for one answer",
    )
