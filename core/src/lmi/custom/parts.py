# SPDX-License-Identifier: Apache-2.0
"""From what a custom handler returned to the HTTP answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

from djl_python import Output
from djl_python.outputs import encode_json
from lmi.api import LmiError, TaskPart

_JSON_LINES = "application/jsonlines"
_NOT_OURS_TO_SEND = frozenset({
    "connection", "content-length", "date", "keep-alive", "server", "trailer", "transfer-encoding", "upgrade",
    "x-request-id",
})  # fmt: skip
"""Headers that the server writes itself; a second one would break the answer."""


def checked_output(answer: Any, function: str) -> Output:
    """The answer as an Output; None becomes 204.

    Raises:
        LmiError: it is something else, or has a status that HTTP does not have.
    """
    if answer is None:
        return Output(204, "No content")
    if not isinstance(answer, Output):
        message = f"{function} returned {type(answer).__name__}, not an Output"
        raise LmiError("script.wrong-output", message, "Return Output().add(...)")
    if not isinstance(answer.code, int) or not 200 <= answer.code <= 599:
        message = f"{function} returned an Output with code {answer.code!r}"
        raise LmiError("script.wrong-output", message, "Take an HTTP status from 200 to 599")
    return answer


def headers_of(output: Output) -> dict[str, str]:
    """The headers of an answer: its properties, and the type of its content where they do not say it.

    Raises:
        LmiError: a property cannot be a header.
    """
    headers = {str(name).lower(): str(value) for name, value in output.properties.items()}
    for name, value in headers.items():
        if not name.isascii() or not name or any(c in name + value for c in "\r\n\0") or " " in name or ":" in name:
            message = f"the property {name!r}={value!r} of an Output cannot be a header"
            raise LmiError("script.wrong-output", message, "Write it into the content")
    if "content-type" not in headers:
        if output.stream_content is not None:
            headers["content-type"] = _JSON_LINES
        elif output.content_types:
            headers["content-type"] = output.content_types[_index(output)]
    return {name: value for name, value in headers.items() if name not in _NOT_OURS_TO_SEND}


def body_of(output: Output) -> bytes:
    """The content under ``data``, else the first one."""
    return b"" if output.content.is_empty() else bytes(output.content.value_at(_index(output)))


def _index(output: Output) -> int:
    keys = output.content.get_keys()
    return keys.index("data") if "data" in keys else 0


def whole(output: Output) -> TaskPart:
    """An answer that does not stream."""
    return TaskPart(status=output.code, headers=headers_of(output), body=body_of(output))


async def pieces(output: Output) -> AsyncGenerator[bytes, None]:
    """The pieces of a stream, as its formatter writes them."""
    write = output.stream_formatter or _raw
    async for piece in _each(output.stream_content):
        yield _bytes(write(piece))


async def _each(content: Any) -> AsyncGenerator[Any, None]:
    if isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
    elif isinstance(content, Iterable):
        for piece in content:
            yield piece
    else:
        message = f"add_stream_content got {type(content).__name__}, nothing to iterate over"
        raise LmiError("script.wrong-output", message, "Give it a generator")


def _raw(piece: Any) -> Any:
    return piece if isinstance(piece, (str, bytes, bytearray)) else encode_json(piece) + b"\n"


def _bytes(written: Any) -> bytes:
    if isinstance(written, str):
        return written.encode()
    return bytes(written) if isinstance(written, (bytes, bytearray)) else encode_json(written)
