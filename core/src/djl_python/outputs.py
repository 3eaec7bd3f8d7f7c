# SPDX-License-Identifier: Apache-2.0
"""What a ``handle`` function answers."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable
from typing import Any

from djl_python.np_util import to_nd_list
from djl_python.pair_list import PairList

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"


def _plain(value: Any) -> Any:
    """What JSON can hold of dates and of numpy's numbers and arrays."""
    if isinstance(value, datetime.datetime):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, and torch's tensors, without importing either
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def encode_json(value: Any) -> bytes:
    """UTF-8 JSON.

    Raises:
        TypeError, ValueError: JSON cannot hold it (NaN and infinity neither).
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain, separators=(",", ":")).encode()


def json_line(token_texts: Any) -> bytes:
    """A line of a stream: ``{"outputs": [...]}``, or ``{"error_msg": ...}`` for an exception."""
    shown = {"error_msg": str(token_texts)} if isinstance(token_texts, Exception) else {"outputs": token_texts}
    return encode_json(shown) + b"\n"


class Output:
    """An answer: status code, properties (the answer's headers) and content.

    The content named ``data`` is the body, else the first one. Without a property ``content-type`` the body's type
    follows from what was added.

    Args:
        code: HTTP status.
        message: for the log.
    """

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        self.code = code
        self.message = message
        self.properties: dict[str, str] = {}
        self.content = PairList()
        self.content_types: list[str] = []
        self.stream_content: Any = None
        self.stream_formatter: Callable[[Any], Any] | None = None
        self.finalizer: Callable[[], Any] | None = None

    def __str__(self) -> str:
        return f"Output(code={self.code}, message={self.message!r}, content={self.content.get_keys()})"

    def set_code(self, code: int) -> Output:
        self.code = code
        return self

    def set_message(self, message: str) -> Output:
        self.message = message
        return self

    def error(self, error: str, code: int = 424, message: str = "prediction failure") -> Output:
        """Make it the answer of a failure: a JSON body with ``code``, ``message`` and ``error``."""
        self.code = code
        self.message = message
        self.content = PairList()
        self.content_types = []
        self.stream_content = None
        self.add_property("content-type", JSON)
        return self.add_as_json({"code": code, "message": message, "error": error})

    def add_property(self, key: str, val: Any) -> Output:
        self.properties[key] = val
        return self

    # ------------------------------------------------------------------------------------------------------- content

    def add(self, value: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Add text, bytes, or anything else as JSON."""
        if isinstance(value, str):
            return self._add(value.encode(), TEXT, key, batch_index)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._add(bytes(value), BYTES, key, batch_index)
        return self.add_as_json(value, key=key, batch_index=batch_index)

    def add_as_string(self, value: str, key: str | None = None, batch_index: int | None = None) -> Output:
        return self._add(value.encode(), TEXT, key, batch_index)

    def add_as_json(self, val: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        return self._add(encode_json(val), JSON, key, batch_index)

    def add_as_numpy(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        return self._add(to_nd_list(np_list), "tensor/ndlist", key, batch_index)

    def add_as_npz(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        import numpy as np

        file = io.BytesIO()
        np.savez(file, *np_list)
        return self._add(file.getvalue(), "tensor/npz", key, batch_index)

    def _add(self, value: bytes, content_type: str, key: str | None, batch_index: int | None) -> Output:
        if batch_index:
            raise ValueError(f"batch_index={batch_index}, but every call has one request; batch_size is 1")
        self.content.add(None if key is None else str(key), value)
        self.content_types.append(content_type)
        return self

    # ------------------------------------------------------------------------------------------------------- streams

    _default_stream_output_formatter = staticmethod(json_line)  # handlers name it

    def add_stream_content(
        self, stream_content: Any, output_formatter: Callable[[Any], Any] | None = json_line
    ) -> Output:
        """Stream what an iterable (or asynchronous iterable) gives, piece by piece, while it gives it.

        Args:
            stream_content: pieces; by default lists with the new text of each prompt.
            output_formatter: turns a piece into text or bytes; None sends text and bytes as they are, the rest as
                JSON.
        """
        self.stream_content = stream_content
        self.stream_formatter = output_formatter
        return self

    def finalize(self, function: Callable[..., Any], *args: Any) -> Output:
        """Call ``function(*args)`` once the answer is complete or its client has gone."""
        self.finalizer = lambda: function(*args)
        return self
