# SPDX-License-Identifier: Apache-2.0
"""Which headers pass, under which name, and what they may hold.

Source: service model of sagemaker-runtime; what reaches a container is the Developer Guide's list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lmi import sagemaker_limits as limits
from lmi.sagemaker_local.failures import ApiError, invalid

_PREFIX = "x-amzn-sagemaker-"
ACCEPT, CONTENT_TYPE = f"{_PREFIX}accept", f"{_PREFIX}content-type"
"""Names of two headers where HTTP's own would speak of the API's answer, or body, in place of the model's."""

CUSTOM_ATTRIBUTES = f"{_PREFIX}custom-attributes"
INFERENCE_ID = f"{_PREFIX}inference-id"
INFERENCE_COMPONENT = f"{_PREFIX}inference-component"
SESSION_ID = f"{_PREFIX}session-id"
TARGET_MODEL = f"{_PREFIX}target-model"
TARGET_VARIANT = f"{_PREFIX}target-variant"
ADAPTER = f"{_PREFIX}adapter-identifier"
FORWARDED_API = f"{_PREFIX}forwarded-api"
NEW_SESSION_ID, CLOSED_SESSION_ID = f"{_PREFIX}new-session-id", f"{_PREFIX}closed-session-id"
INPUT_LOCATION = f"{_PREFIX}inputlocation"
OUTPUT_LOCATION, FAILURE_LOCATION = f"{_PREFIX}outputlocation", f"{_PREFIX}failurelocation"
OUTPUT_EXTENSION, FILE_NAME = f"{_PREFIX}s3outputpathextension", f"{_PREFIX}filename"
AGE_SECONDS, TIMEOUT_SECONDS = f"{_PREFIX}requestttlseconds", f"{_PREFIX}invocationtimeoutseconds"
INVOKED_VARIANT = "x-amzn-invoked-production-variant"
VARIANT = "AllTraffic"
"""Name of the one variant that an endpoint has here."""

NEW_SESSION = "NEW_SESSION"
_NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9])*"
_PRINTED = r"[!-~][ -~]*"
_ASCII = r"[\x00-\x7f]*"


@dataclass(frozen=True)
class _Member:
    name: str
    most: int
    pattern: str


_MEMBERS = {
    "accept": _Member("accept", 1024, _ASCII),
    "content-type": _Member("contentType", 1024, _ASCII),
    ACCEPT: _Member("accept", 1024, _ASCII),
    CONTENT_TYPE: _Member("contentType", 1024, _ASCII),
    CUSTOM_ATTRIBUTES: _Member("customAttributes", limits.CUSTOM_ATTRIBUTES_CHARS, _ASCII),
    f"{_PREFIX}enable-explanations": _Member("enableExplanations", 64, r".+"),
    FILE_NAME: _Member("filename", 32, r"(?!.*\..*\.)[a-zA-Z0-9][a-zA-Z0-9\-_.]*"),
    INFERENCE_COMPONENT: _Member("inferenceComponentName", 63, r"[a-zA-Z0-9]([\-a-zA-Z0-9]*[a-zA-Z0-9])?"),
    INFERENCE_ID: _Member("inferenceId", limits.INFERENCE_ID_CHARS, _PRINTED),
    INPUT_LOCATION: _Member("inputLocation", 1024, r"(https|s3|file)://([^/]*)/?(.*)"),  # file: only here
    f"{_PREFIX}prefix-aware-id": _Member("prefixAwareId", 64, _PRINTED),
    OUTPUT_EXTENSION: _Member("s3OutputPathExtension", 512, r"(?!s3:|https:)[a-zA-Z0-9!_.*'()/-]+"),
    SESSION_ID: _Member("sessionId", limits.NEW_SESSION_CHARS, f"{NEW_SESSION}|{limits.SESSION_PATTERN}"),
    f"{_PREFIX}target-container-hostname": _Member("targetContainerHostname", 63, _NAME),
    TARGET_MODEL: _Member("targetModel", 1024, _PRINTED),
    TARGET_VARIANT: _Member("targetVariant", 63, _NAME),
    AGE_SECONDS: _Member("requestTTLSeconds", 6, r"\d+"),
    TIMEOUT_SECONDS: _Member("invocationTimeoutSeconds", 6, r"\d+"),
}
"""Header -> its member in the API, how long that may be, and what it may hold."""

_TO_CONTAINER = (CUSTOM_ATTRIBUTES, TARGET_MODEL, SESSION_ID, INFERENCE_ID)

_OF_HTTP = {
    "accept-encoding", "authorization", "connection", "content-length", "expect", "host", "keep-alive", "te",
    "transfer-encoding", "upgrade", "user-agent", "x-forwarded-for", "x-forwarded-port", "x-forwarded-proto",
}  # fmt: skip
_OF_CLIENTS = ("x-amz-", "amz-sdk-", "x-amzn-trace-id", "sec-", "traceparent")
"""Beginnings of headers that AWS's clients and browsers send, and that say nothing to a model."""

_OF_SERVERS = {
    "access-control-allow-origin", "allow", "alt-svc", "cache-control", "connection", "content-length", "date", "etag",
    "keep-alive", "last-modified", "retry-after", "server", "transfer-encoding", "vary", "via", "x-request-id",
}  # fmt: skip
"""Headers that servers send unasked, and that nobody misses."""


def check(headers: Mapping[str, str]) -> None:
    """See that the members of a call fit the service model.

    Args:
        headers: of the call, names in lower case.
    Raises:
        ApiError: one does not.
    """
    for header, member in _MEMBERS.items():
        value = headers.get(header)
        if value is None:
            continue
        if len(value) > member.most:
            raise unfit(header, value, f"Member must have length less than or equal to {member.most}")
        if not re.fullmatch(member.pattern, value):
            raise unfit(header, value, f"Member must satisfy regular expression pattern: {member.pattern}")


def unfit(header: str, value: str, constraint: str) -> ApiError:
    """A member of a call does not fit the service model; in AWS's words.

    Args:
        header: that has it.
        value: of it.
        constraint: that it breaks.
    """
    name = _MEMBERS[header].name
    return invalid(
        f"1 validation error detected: Value '{value[:80]}' at '{name}' failed to satisfy constraint: {constraint}"
    )


def to_container(headers: Mapping[str, str], api: str) -> dict[str, str]:
    """What a container gets of a call's headers; all others are stripped.

    Args:
        headers: of the call, names in lower case.
        api: the operation that was called.
    """
    has_own_accept = api != "InvokeEndpoint"
    has_own_type = api == "InvokeEndpointAsync"
    passed = {
        # What is not named is not sent, in place of a type that the client never said.
        "content-type": headers.get(CONTENT_TYPE if has_own_type else "content-type", ""),
        "accept": headers.get(ACCEPT if has_own_accept else "accept", ""),
        FORWARDED_API: api,
    }
    passed.update({name: headers[name] for name in _TO_CONTAINER if name in headers})
    return passed


def stripped(headers: Mapping[str, str]) -> list[str]:
    """Headers of a call that its sender meant for the model, and that no model ever sees."""
    return [
        name
        for name in headers
        if name not in _MEMBERS and name not in _OF_HTTP and not name.startswith(_OF_CLIENTS)
    ]  # fmt: skip


def lost(headers: Mapping[str, str], *, is_stream: bool = False) -> list[str]:
    """Headers of a container's answer that its client never sees.

    Args:
        headers: of the answer, names in lower case.
        is_stream: whether it is passed on as events.
    """
    back = {"content-type", CUSTOM_ATTRIBUTES, *(() if is_stream else (NEW_SESSION_ID, CLOSED_SESSION_ID))}
    return [name for name in headers if name not in back and name not in _OF_SERVERS]


def wrong_custom_attributes(value: str) -> str:
    """What is wrong with those of an answer; empty if nothing is."""
    if len(value) > limits.CUSTOM_ATTRIBUTES_CHARS:
        return f"they have {len(value)} characters of {limits.CUSTOM_ATTRIBUTES_CHARS}"
    return "" if value.isascii() else "they have characters that are not ASCII"


def new_session(value: str) -> tuple[str, str] | None:
    """Id and end of a new session; None where the header is not what the service model says."""
    if not re.fullmatch(limits.NEW_SESSION_PATTERN, value) or len(value) > limits.NEW_SESSION_CHARS:
        return None
    name, _, end = value.partition(";")
    return name, end.strip().removeprefix("Expires=")


def is_closed_session(value: str) -> bool:
    """Whether it is what Closed-Session-Id may be."""
    return re.fullmatch(limits.SESSION_PATTERN, value) is not None and len(value) <= limits.NEW_SESSION_CHARS


def is_name(text: str) -> bool:
    """Whether an endpoint, or an inference component, may have that name."""
    return re.fullmatch(_NAME, text) is not None and len(text) <= 63
