# SPDX-License-Identifier: Apache-2.0
"""From an HTTP request to the Input that a custom handler gets, as DJL Serving fills it."""

from __future__ import annotations

import email.parser
import email.policy
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from djl_python import Input
from lmi.api import RequestError, TaskRequest

_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_FORM = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
OVERRIDE = "ALLOW_REQUEST_HANDLER_OVERRIDE"


def empty_input(properties: Mapping[str, str]) -> Input:
    """The Input of the call at load: the model's options and no content."""
    inputs = Input()
    inputs.properties = dict(properties)
    return inputs


def input_of(task: TaskRequest, properties: Mapping[str, str], *, allows_override: bool) -> Input:
    """The Input of one request.

    Args:
        task: the request.
        properties: the model's options; no header of a client can replace one.
        allows_override: whether a header ``handler`` may name another function.
    Raises:
        RequestError: it names one and may not, or its form cannot be read.
    """
    inputs = Input()
    headers = dict(task.headers)
    for pair in headers.get(_ATTRIBUTES, "").split(";"):
        name, sign, value = pair.partition("=")
        if sign and name.strip():
            headers.setdefault(name.strip(), value.strip())
    function = headers.pop("handler", None)
    if function is not None and not allows_override:
        raise RequestError(
            "request.function-override",
            f"handler={function!r} asks for another function of the model's file",
            f"Leave it out, or start the server with {OVERRIDE}=true",
        )
    inputs.function_name = function
    inputs.properties = {**headers, **properties}
    for name, item in parse_qsl(task.query, keep_blank_values=True):
        inputs.content.add(name, item.encode())
    _add_body(inputs, task.body, headers.get("content-type", ""))
    return inputs


def _add_body(inputs: Input, body: bytes, content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _MULTIPART:
        for name, value in _multipart(body, content_type):
            inputs.content.add(name, value)
    elif kind == _FORM and b"=" in body and body.lstrip()[:1] not in (b"{", b"["):  # JSON under curl's default type
        for name, text in parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True):
            inputs.content.add(name, text.encode())
    elif body:
        inputs.content.add("data", body)


def _multipart(body: bytes, content_type: str) -> list[tuple[str, bytes]]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message: Any = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    parts = [(part.get_param("name", header="content-disposition"), part) for part in message.iter_parts()]
    if not parts or message.defects:
        raise RequestError("request.invalid", f"the body is no {_MULTIPART} with this boundary: {content_type!r}")
    return [(str(name or "data"), part.get_payload(decode=True) or b"") for name, part in parts]
