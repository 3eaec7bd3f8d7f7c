# SPDX-License-Identifier: Apache-2.0
"""What the routes that change a server are told: fields of a small JSON object, or of the query."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from lmi.api.errors import RequestError
from lmi.serving.bodies import decoded
from lmi.serving.streaming import whole_body

_MOST_BODY_BYTES = 64 << 10
_MOST_SHOWN = 40


async def fields_of(request: Request, wanted: str) -> dict[str, Any]:
    """Every field of the body and of the query, which wins.

    Args:
        request: the request.
        wanted: what to send, for refusals: ``name and src``.
    Raises:
        RequestError: the body is no JSON object, or too large.
    """
    body = await whole_body(request.receive, _MOST_BODY_BYTES, named="of this route", hint=f"Send {wanted} alone")
    fields = decoded(body) if body.strip() else {}
    if not isinstance(fields, dict):
        raise RequestError("request.invalid", "the body must be a JSON object", f"Send an object with {wanted}")
    return {**fields, **request.query_params}


def number(request: Request, name: str, default: int, most: int, *, least: int = 0) -> int:
    """A number of the query.

    Raises:
        RequestError: it is none, or out of bounds.
    """
    text = request.query_params.get(name, str(default))
    digits = (text.lstrip("0") or "0") if text.isdecimal() else ""
    # Thousands of digits are more than Python makes a number of.
    if not digits or len(digits) > len(str(most)) or not least <= int(digits) <= most:
        raise RequestError(
            "request.invalid", f"{name}={shown(text)} is no number from {least} to {most}", f"Leave {name} out"
        )
    return int(digits)


def shown(value: Any) -> str:
    """The beginning of what somebody sent."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
