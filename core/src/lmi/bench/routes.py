# SPDX-License-Identifier: Apache-2.0
"""Where requests go, and in what their answers come: a server's own route, or an endpoint of SageMaker."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from lmi.api.errors import LmiError
from lmi.bench.hearing import Hearing
from lmi.client import Answer, Target, error_of

_REGION = re.compile(r"\.sagemaker\.([a-z0-9-]+)\.")
"""In a host, as ``runtime.sagemaker.eu-west-1.amazonaws.com``. Source: AWS General Reference, SageMaker endpoints."""
_ANY_REGION = "us-east-1"


class Route:
    """A route of the server itself.

    Args:
        path: of it.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def headers(self, body: bytes, given: Mapping[str, str]) -> Mapping[str, str]:
        """What one request has beside the headers that all have.

        Args:
            body: of the request.
            given: headers that all have, names in lower case.
        """
        return {}

    def ear(self, hearing: Hearing) -> Callable[[bytes], None]:
        """Takes the parts of a good answer as they come."""
        return hearing.add

    def error_of(self, answer: Answer) -> tuple[str, str]:
        """Code and message of an answer that says that something is wrong."""
        return error_of(answer.body, answer.status)


class EndpointRoute(Route):
    """InvokeEndpointWithResponseStream of an endpoint, signed where botocore finds credentials.

    Source: Amazon SageMaker API reference, InvokeEndpointWithResponseStream.

    Args:
        target: the runtime, AWS's or one that stands in for it.
        name: of the endpoint.
    Raises:
        LmiError: botocore is not installed, or cannot read what says whose credentials to use.
    """

    def __init__(self, target: Target, name: str) -> None:
        super().__init__(f"/endpoints/{quote(name, safe='')}/invocations-response-stream")
        try:
            from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped,unused-ignore]
            from botocore.session import Session  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            message = f"endpoint {name} is asked as AWS's clients do, with botocore, which is not installed"
            raise LmiError("bench.no-botocore", message, "pip install 'lmi-core[aws]'") from None
        try:
            self._credentials = Session().get_credentials()
        except BotoCoreError as error:
            message = f"credentials for endpoint {name} cannot be had: {error}"
            raise LmiError("bench.no-credentials", message, "Check AWS_PROFILE and ~/.aws") from error
        scheme, port = ("https", 443) if target.is_tls else ("http", 80)
        self._host = target.authority.removesuffix(f":{port}")
        self._url = f"{scheme}://{self._host}{target.prefix}{self.path}"
        found = _REGION.search(target.host)
        self._region = found[1] if found else _ANY_REGION

    def headers(self, body: bytes, given: Mapping[str, str]) -> Mapping[str, str]:
        from botocore.auth import SigV4Auth  # type: ignore[import-untyped,unused-ignore]
        from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped,unused-ignore]

        if self._credentials is None:
            return {}
        request = AWSRequest("POST", self._url, {"content-type": "application/json", **given}, body)
        SigV4Auth(self._credentials, "sagemaker", self._region).add_auth(request)
        return {"host": self._host, **{name.lower(): value for name, value in request.headers.items()}}

    def ear(self, hearing: Hearing) -> Callable[[bytes], None]:
        from botocore.eventstream import (  # type: ignore[import-untyped,unused-ignore]
            EventStreamBuffer,
            ParserError,
        )

        messages = EventStreamBuffer()

        def add(part: bytes) -> None:
            if hearing.error is not None:
                return
            messages.add_data(part)
            try:
                for message in messages:
                    _hear(hearing, message)
            except ParserError as error:
                hearing.fail("client.not-events", f"the answer is no event stream of AWS's: {error}")

        return add

    def error_of(self, answer: Answer) -> tuple[str, str]:
        told = _members(answer.body)
        if "OriginalMessage" in told:  # the container's own words
            return error_of(str(told["OriginalMessage"]).encode(), int(told.get("OriginalStatusCode") or answer.status))
        kind = answer.headers.get("x-amzn-errortype", "").partition(":")[0]
        code, message = error_of(answer.body, answer.status)
        return kind or code, str(told.get("Message") or message)


def _hear(hearing: Hearing, message: Any) -> None:
    """A message of the stream: a part of the answer, or why it has no end."""
    kind = message.headers.get(":message-type")
    if kind == "event":
        hearing.add(message.payload)
        return
    told = _members(message.payload)
    code = told.get("ErrorCode") or message.headers.get(":exception-type") or message.headers.get(":error-code")
    text = told.get("Message") or message.headers.get(":error-message") or message.payload.decode(errors="replace")
    hearing.fail(str(code or kind), str(text))


def _members(content: bytes | bytearray) -> dict[str, Any]:
    """Of an exception; none of what is no JSON object."""
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
