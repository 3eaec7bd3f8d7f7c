# SPDX-License-Identifier: Apache-2.0
"""Errors of the runtime API, as AWS's clients read them."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from starlette.responses import Response

from lmi.sagemaker_limits import BODY_BYTES, ERROR_TEXT_CHARS

ACCOUNT, REGION = "000000000000", "us-east-1"
"""Of the account and region that there are not."""

_CLIENT_ERRORS = range(400, 500)


class ApiError(Exception):
    """What a call is answered with in place of a result.

    Args:
        kind: name of the exception in the service model; empty where it has none.
        status: of HTTP.
        message: for the caller.
        members: further ones of the exception.
    """

    def __init__(self, kind: str, status: int, message: str, **members: Any) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status
        self.message = message[:ERROR_TEXT_CHARS]
        self.members = members

    def response(self) -> Response:
        """It, on the wire."""
        headers = {"x-amzn-RequestId": str(uuid4())}
        if self.kind:
            headers["x-amzn-ErrorType"] = self.kind
        body = {**self.members, "Message": self.message} if self.kind else {"message": self.message}
        return Response(json.dumps(body), self.status, headers, "application/json")


def invalid(message: str, code: str = "") -> ApiError:
    """The call itself is wrong.

    Args:
        message: for the caller.
        code: AWS's own word for it, where it has one.
    """
    return ApiError("ValidationError", 400, message, **({"ErrorCode": code} if code else {}))


def not_found(endpoint: str) -> ApiError:
    """There is no such endpoint, or it is not in service yet."""
    return invalid(f"Endpoint {endpoint} of account {ACCOUNT} not found.")


def too_large() -> ApiError:
    """The body has more bytes than the service takes; that comes from before the service, and is no exception of it."""
    return ApiError("", 413, f"HTTP content length exceeded {BODY_BYTES} bytes.")


def model_error(endpoint: str, status: int, body: bytes) -> ApiError:
    """The container answered with an error.

    Args:
        endpoint: its name.
        status: of the container's answer.
        body: of it.
    """
    text = body.decode(errors="replace")
    kind, code = (
        ("client", "CLIENT_ERROR_FROM_MODEL") if status in _CLIENT_ERRORS else ("server", "INTERNAL_FAILURE_FROM_MODEL")
    )
    return _of_model(
        endpoint, status, f'Received {kind} error ({status}) from primary with message "{text}"', text, code
    )


def timed_out(endpoint: str) -> ApiError:
    """The container did not answer in time."""
    text = (
        "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
        "each container in Amazon CloudWatch, resolve the issue, and try again."
    )
    message = f'Received server error (0) from primary with message "{text}"'
    return _of_model(endpoint, 0, message, text, "INTERNAL_FAILURE_FROM_MODEL")


def cut(endpoint: str) -> ApiError:
    """The container's answer has no end."""
    message = "Received server error (0) from primary and could not load the entire response body"
    return _of_model(endpoint, 0, message, "", "INTERNAL_FAILURE_FROM_MODEL")


def unreachable() -> ApiError:
    """A copy that is in service did not take the connection."""
    return ApiError("InternalFailure", 500, "The container did not accept the connection.")


def unavailable() -> ApiError:
    """No copy is healthy."""
    return ApiError("ServiceUnavailable", 503, "No container of the endpoint is healthy. Try your call again.")


def log_group(endpoint: str) -> str:
    """Where CloudWatch would have the container's log."""
    return f"/aws/sagemaker/Endpoints/{endpoint}"


def _of_model(endpoint: str, status: int, message: str, original: str, code: str) -> ApiError:
    console = f"https://{REGION}.console.aws.amazon.com/cloudwatch/home?region={REGION}"
    where = f"See {console}#logEventViewer:group={log_group(endpoint)} in account {ACCOUNT} for more information."
    return ApiError(
        "ModelError",
        424,
        f"{message}. {where}",
        ErrorCode=code,
        OriginalStatusCode=status,
        OriginalMessage=original[:ERROR_TEXT_CHARS],
        LogStreamArn=f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{log_group(endpoint)}",
    )
