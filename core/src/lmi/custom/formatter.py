# SPDX-License-Identifier: Apache-2.0
"""A custom output formatter: a model's own function that writes its answers.

Three signatures are known, the newest last: ``f(token, first, last, details, text, request_id)`` and
``f(request_output)``, called for each token, whose texts joined are the body; ``f(response: dict)``, which changes the
answer (of a stream: each line).

Source: the custom output formatter schema of DJL Serving 0.27 to 0.33.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_origin

import msgspec

from lmi.api import LmiError, TextRequest, TextToken

_N_LEGACY_PARAMETERS = 6
_FOR_DICTS = ("response_data", "response")


class Formatter:
    """A formatter's function, of whichever signature.

    Args:
        function: of the model's file.
        file_name: for messages.
    """

    def __init__(self, function: Callable[..., Any], file_name: str) -> None:
        self._function = function
        self._file_name = file_name
        parameters = list(inspect.signature(function).parameters.values())
        self._is_legacy = len(parameters) == _N_LEGACY_PARAMETERS
        self.takes_answer = len(parameters) == 1 and _wants_dict(parameters[0])

    def answer(self, answer: Any) -> Any:
        """The answer, or one line of a stream, as the function changes it; for ``takes_answer``.

        Raises:
            LmiError: it failed.
        """
        return self._call(msgspec.to_builtins(answer))

    def growing(self, request: TextRequest, prompt_ids: list[int], parameters: Mapping[str, Any]) -> GrowingAnswer:
        """The body of one request, to be fed with its tokens."""
        return GrowingAnswer(self._text, self._is_legacy, request, prompt_ids, dict(parameters))

    def _call(self, *arguments: Any) -> Any:
        try:
            return self._function(*arguments)
        except LmiError:
            raise
        except Exception as error:
            name = getattr(self._function, "__name__", "the output formatter")
            message = f"{name} of {self._file_name} raised {type(error).__name__}: {error}"
            raise LmiError("script.raised", message, "The traceback is in the server's log") from error

    def _text(self, *arguments: Any) -> bytes:
        written = self._call(*arguments)
        if written is None:
            return b""
        if isinstance(written, str):
            return written.encode()
        return bytes(written) if isinstance(written, (bytes, bytearray)) else msgspec.json.encode(written)


class GrowingAnswer:
    """One answer that a per-token formatter writes."""

    def __init__(
        self,
        write: Callable[..., bytes],
        is_legacy: bool,
        request: TextRequest,
        prompt_ids: list[int],
        parameters: dict[str, Any],
    ) -> None:
        from djl_python.request_io import TextGenerationOutput, TextInput

        self._write = write
        self._is_legacy = is_legacy
        self._text = ""
        asked = TextInput(
            request.request_id, parameters=parameters, input_text=request.prompt, input_ids=prompt_ids,
            adapters=request.adapter or None,
        )  # fmt: skip
        self._output = TextGenerationOutput(request.request_id, asked)

    def add(self, tokens: Sequence[TextToken], finish_reason: str) -> bytes:
        """What the formatter writes for these tokens.

        Args:
            tokens: new ones, in order.
            finish_reason: why the answer ends with them; empty while it goes on.
        """
        from djl_python.request_io import Token

        fed = [Token(each.id, each.text, each.logprob) for each in tokens]
        if finish_reason and not fed:
            fed = [Token(-1, "", None, special_token=True)]  # the end must be told, and there is no token to tell it
        parts = []
        for index, token in enumerate(fed):
            is_last = bool(finish_reason) and index == len(fed) - 1
            reason = finish_reason if is_last else None
            self._output.set_next_token(token, is_last_token=is_last, finish_reason=reason)
            self._output.finished = is_last
            self._text += token.text
            parts.append(self._write(*self._legacy(token, is_last)) if self._is_legacy else self._write(self._output))
        return b"".join(parts)

    def _legacy(self, token: Any, is_last: bool) -> tuple[Any, ...]:
        output = self._output
        sequence = output.sequences[output.best_sequence_index]
        details: dict[str, Any] = {}
        if output.input.parameters.get("details"):
            details = {
                "finish_reason": sequence.finish_reason,
                "tokens": output.get_tokens_as_dict(),
                "generated_tokens": len(sequence.tokens),
                "inputs": output.input.input_text,
                "parameters": output.input.parameters,
                "prompt_tokens": len(output.input.input_ids),
            }
        is_first = len(sequence.tokens) == 1
        return token, is_first, is_last, details, self._text if is_last else "", output.request_id


def _wants_dict(parameter: inspect.Parameter) -> bool:
    """Whether a formatter's one parameter is the answer: by its annotation, else by its name."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return parameter.name in _FOR_DICTS
    if isinstance(annotation, str):
        return annotation.lower().startswith(("dict", "typing.dict", "mapping"))
    return (get_origin(annotation) or annotation) in (dict, Mapping)
