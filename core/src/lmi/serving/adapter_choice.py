# SPDX-License-Identifier: Apache-2.0
"""Which adapter a request asks for, wherever it says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

from lmi.api.errors import NotFoundError, RequestError
from lmi.serving.attributes import attribute

ALIAS = "x-amzn-sagemaker-adapter-alias"
"""The header that says what people call an adapter."""

_IDENTIFIER = "x-amzn-sagemaker-adapter-identifier"


def asked_adapter(named: Sequence[str] | None, headers: Mapping[str, str], query: bytes = b"") -> str:
    """The adapter a request asks for; empty for the base model.

    SageMaker's header comes before the body, the body before everything else; an empty name in the body asks for the
    base model. Source: DJL Serving and the LMI schema.

    Args:
        named: ``adapters`` of the body; None where it has none.
        headers: names in lower case.
        query: what stands behind the ``?``.
    Raises:
        RequestError: the body names several.
        NotFoundError: SageMaker's header is there, and is empty.
    """
    identifier = headers.get(_IDENTIFIER)
    if identifier:
        return identifier
    if identifier is not None:
        raise NotFoundError(
            "adapter.unknown", f"{_IDENTIFIER} is empty, and names no adapter", "Leave it out for the model itself"
        )
    if named:
        if len(named) > 1:
            raise RequestError(
                "request.invalid", f"adapters={list(named)!r} has {len(named)} names for one text", "Send one name"
            )
        return named[0]
    asked = parse_qs(query.decode("latin-1")).get("adapter", [""])[-1] if query else ""
    return asked or headers.get("adapter", "") or attribute(headers, "adapter")
