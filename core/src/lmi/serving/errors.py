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
_RETRY_AFTER_S = 1


def status_of(error: LmiError) -> int:
    """HTTP status of an error; 500 for everything that is not the caller's fault and not temporary."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def body_of(error: LmiError, status: int | None = None) -> bytes:
    """The JSON body of an error: ``code`` (HTTP status), ``error`` (slug) and ``message`` (whole text)."""
    body = {"code": status_of(error) if status is None else status, "error": error.code, "message": str(error)}
    return json.dumps(body, ensure_ascii=False).encode()


def headers_of(error: LmiError) -> list[tuple[bytes, bytes]]:
    """Headers an error adds: when to try again, where that makes sense."""
    if status_of(error) in (429, 503):
        return [(b"retry-after", str(_RETRY_AFTER_S).encode())]
    return []
