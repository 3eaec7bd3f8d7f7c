# SPDX-License-Identifier: Apache-2.0
"""The one table from errors to HTTP status codes, and the body every error has."""

from __future__ import annotations

import json

from lmi.api import errors
from lmi.api.errors import LmiError

_STATUS: tuple[tuple[type[LmiError], int], ...] = (
    (errors.NotFoundError, 404),
    (errors.ExistsError, 409),
    (errors.TooLargeError, 413),
    (errors.RequestError, 400),
    (errors.OverloadedError, 429),
    (errors.NotReadyError, 503),
    (errors.DeadlineError, 504),
    (errors.OutOfMemoryError, 507),
)
_LMI_STATUS: tuple[tuple[type[LmiError], int], ...] = (
    (errors.NotFoundError, 404),
    (errors.ExistsError, 409),
    (errors.TooLargeError, 413),
    (errors.OverloadedError, 503),
    (errors.NotReadyError, 503),
    (errors.OutOfMemoryError, 507),
)
"""Of those that do not depend on the code."""
_LMI_STATUS_OF_CODE = {
    "adapter.unknown": 503,
    "request.no-model": 400,
    "request.function-override": 400,
    "server.error": 500,
}
_LMI_FAILED = 424
_TGI_TYPES = {400: "validation", 413: "validation", 429: "overloaded", 503: "overloaded"}
_NO_MODEL = "model_not_found"
_OPENAI_CODES = {"request.too-long": "context_length_exceeded", "model.not-found": _NO_MODEL}
_RETRY_AFTER_S = 1
_SERVER_ERROR = 500


def status_of(error: LmiError) -> int:
    """HTTP status of an error; 500 for everything that is not the caller's fault and not temporary."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def lmi_status_of(error: LmiError) -> int:
    """HTTP status of an error as LMI has had them: 424 for whatever a model's own code could have raised.

    Source: DJL Serving 0.29.
    """
    known = _LMI_STATUS_OF_CODE.get(error.code)
    if known is not None:
        return known
    return next((status for kind, status in _LMI_STATUS if isinstance(error, kind)), _LMI_FAILED)


def tgi_body_of(error: LmiError, status: int) -> bytes:
    """The JSON body of an error as clients of text-generation-inference read it; ``message`` is the same text."""
    kind = _TGI_TYPES.get(status_of(error), "generation")
    body = {"error": str(error), "error_type": kind, "code": status, "message": str(error)}
    return json.dumps(body, ensure_ascii=False).encode()


def body_of(error: LmiError, status: int | None = None) -> bytes:
    """The JSON body of an error: ``code`` (HTTP status), ``error`` (slug) and ``message`` (whole text)."""
    body = {"code": status_of(error) if status is None else status, "error": error.code, "message": str(error)}
    return json.dumps(body, ensure_ascii=False).encode()


def openai_body_of(error: LmiError, status: int) -> bytes:
    """The JSON body of an error as OpenAI's clients read it.

    ``code`` is OpenAI's where there is one that clients act on, else LMI's slug, with which the message begins.

    Source: OpenAI's API reference, errors.
    """
    kind = "invalid_request_error" if status < _SERVER_ERROR else "server_error"
    code, param = _OPENAI_CODES.get(error.code, error.code), None
    if isinstance(error, errors.OverloadedError):
        kind, code = "requests", "rate_limit_exceeded"
    elif code == _NO_MODEL:
        param = "model"
    body = {"error": {"message": str(error), "type": kind, "param": param, "code": code}}
    return json.dumps(body, ensure_ascii=False).encode()


def headers_of(error: LmiError) -> list[tuple[bytes, bytes]]:
    """Headers an error adds: when to try again, where that makes sense."""
    if status_of(error) in (429, 503):
        return [(b"retry-after", str(_RETRY_AFTER_S).encode())]
    return []
