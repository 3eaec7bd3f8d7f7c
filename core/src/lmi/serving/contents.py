# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests that are not JSON: each content type as the data that a JSON body would have.

Source: the content types that the handlers of DJL Serving 0.26 to 0.29 decode.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from lmi.api.errors import LmiError, RequestError
from lmi.serving.bodies import decoded

_LINES = ("application/jsonlines", "application/jsonl", "application/x-jsonlines", "application/x-ndjson")
_UNSAID = ("", "application/octet-stream", "binary/octet-stream")
"""What clients send that were not told a content type."""
_PLAIN, _CSV = "text/plain", "text/csv"
_CSV_COLUMNS = ("inputs", "question", "context")
_MOST_FIELDS = 1000
_MOST_SHOWN_CHARS = 80


class Lines(list[Any]):
    """The requests of a body with one a line; an error stands for a line that is none."""


def is_json(content_type: str) -> bool:
    """Whether a body of this content type is read as JSON."""
    if content_type == "application/json" or not content_type:  # the usual ones
        return True
    kind = _kind_of(content_type)
    return kind in ("application/json", *_UNSAID) or (kind.startswith("application/") and kind.endswith("+json"))


def data_of(body: bytes, content_type: str) -> Any:
    """What a body says, decoded.

    Args:
        body: not empty.
        content_type: as its header has it; empty where there is none.
    Raises:
        RequestError: the content type is not taken, or the body is not of it.
    """
    if is_json(content_type):
        return decoded(body)
    kind = _kind_of(content_type)
    if kind in _LINES:
        lines = Lines(_line(line) for line in body.splitlines() if line.strip())
        if not lines:
            raise RequestError("request.empty-prompt", "all lines of the body are empty", "Send a request a line")
        return lines
    read = _READERS.get(kind)
    if read is None:
        shown = content_type if len(content_type) <= _MOST_SHOWN_CHARS else content_type[:_MOST_SHOWN_CHARS] + "..."
        raise RequestError(
            "request.content-type",
            f"a body of content type {shown!r} is not taken",
            f"Send one of: application/json, {', '.join(_READERS)}, {_LINES[0]}",
        )
    return read(_text(body, content_type))


def records_of(body: bytes, content_type: str, *, takes_several: bool) -> list[bytes] | None:
    """The requests of a batch transform job's body, each as JSON, right or wrong; None where the body is one request.

    Args:
        body: of the job's request.
        content_type: as its header has it.
        takes_several: whether the platform puts several lines of a file into one body.
    Raises:
        RequestError: it is not of its content type.
    """
    kind = _kind_of(content_type)
    if kind == _CSV:
        return [json.dumps(each).encode() for each in _rows(_text(body, content_type))]
    if takes_several and kind == _PLAIN:
        lines = _text(body, content_type).splitlines()
        return [json.dumps(_of_text(line)).encode() for line in lines if line.strip()]
    if kind in _LINES or (takes_several and is_json(content_type) and _begins_with_a_value(body)):
        return [line for line in body.splitlines() if line.strip()]
    return None


def _begins_with_a_value(body: bytes) -> bool:
    """Whether the first of several lines is whole JSON: lines are then what the body is made of, not its layout."""
    first, _, rest = body.lstrip().partition(b"\n")
    return bool(rest.strip()) and not isinstance(_line(first), LmiError)


def as_json(body: bytes, content_type: str) -> bytes:
    """The body as JSON, for what takes no other.

    Raises:
        RequestError: as ``data_of``; lines are not taken.
    """
    if is_json(content_type):
        return body
    data = data_of(body, content_type)
    if isinstance(data, Lines):
        raise RequestError(
            "request.content-type",
            "this model takes no lines of JSON",
            "Send application/json with a list of inputs",
        )
    return json.dumps(data).encode()


def _kind_of(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _text(body: bytes, content_type: str) -> str:
    charset = "utf-8"
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"')
    try:
        return body.decode(charset)
    except (LookupError, ValueError) as error:
        raise RequestError(
            "request.malformed-body", f"the body is no text in {charset[:_MOST_SHOWN_CHARS]!r}: {error}", "Send UTF-8"
        ) from None


def _line(line: bytes) -> Any:
    try:
        return decoded(line)
    except LmiError as error:
        return error


def _of_text(text: str) -> Any:
    return {"inputs": text}


def _of_csv(text: str) -> Any:
    """The column ``inputs``, a text a row; with question and context, an object a row."""
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise _no_csv(error) from None
    columns = [each for each in _CSV_COLUMNS if rows and each in rows[0]]
    if not columns:
        header = text.partition("\n")[0].strip()[:_MOST_SHOWN_CHARS]
        raise RequestError(
            "request.malformed-body",
            f"the CSV has no rows under a header with inputs, question or context; its first line is {header!r}",
            "Name the columns in the first line",
        )
    if "inputs" in columns:
        return {"inputs": [row["inputs"] for row in rows]}
    return {"inputs": [{name: row[name] for name in columns} for row in rows]}


def _no_csv(error: csv.Error) -> RequestError:
    return RequestError("request.malformed-body", f"the body is not CSV: {error}", 'Quote texts, with "" for a "')


def _rows(text: str) -> list[Any]:
    """The request of each row; without a header, which a part of a longer file has not, a row is a text."""
    try:
        first = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
        if not any(name in _CSV_COLUMNS for name in first):
            rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
            # A comma that nobody has quoted is the text's own.
            return [_of_text(",".join(row)) for row in rows]
    except csv.Error as error:
        raise _no_csv(error) from None
    return [{"inputs": each} for each in _of_csv(text)["inputs"]]


def _of_form(text: str) -> Any:
    """Fields of a form; ``inputs`` may come more than once. Other fields are JSON, where they can be read as such."""
    if text.lstrip().startswith(("{", "[")):  # curl names this content type unless it is told another
        return decoded(text.encode())
    try:
        fields = parse_qs(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise RequestError("request.malformed-body", f"the body is no form: {error}", "Send JSON") from None
    data: dict[str, Any] = {name: _value(values[-1]) for name, values in fields.items()}
    if "inputs" in fields:
        inputs = fields["inputs"]
        data["inputs"] = inputs[0] if len(inputs) == 1 else inputs
    return data


def _value(text: str) -> Any:
    try:
        return decoded(text.encode())
    except LmiError:
        return text


_READERS: dict[str, Callable[[str], Any]] = {
    _PLAIN: _of_text,
    _CSV: _of_csv,
    "application/x-www-form-urlencoded": _of_form,
}
