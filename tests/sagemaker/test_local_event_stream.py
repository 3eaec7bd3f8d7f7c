# SPDX-License-Identifier: Apache-2.0
"""Messages of an event stream, read by botocore's own reader."""

from __future__ import annotations

import json

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer

from lmi.sagemaker_local.event_stream import exception, part


def read(content: bytes) -> list[tuple[dict[str, str], bytes]]:
    buffer = EventStreamBuffer()
    buffer.add_data(content)
    return [(event.headers, event.payload) for event in buffer]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 400])
def test_a_part_is_an_event_with_its_bytes(content: bytes) -> None:
    [(headers, payload)] = read(part(content))
    assert (headers[":message-type"], headers[":event-type"]) == ("event", "PayloadPart")
    assert payload == content


def test_an_exception_says_what_it_is_and_has_its_members() -> None:
    [(headers, payload)] = read(exception("ModelStreamError", {"Message": "gone", "ErrorCode": "StreamBroken"}))
    assert (headers[":message-type"], headers[":exception-type"]) == ("exception", "ModelStreamError")
    assert json.loads(payload) == {"Message": "gone", "ErrorCode": "StreamBroken"}


def test_messages_that_follow_each_other_are_told_apart() -> None:
    assert [payload for _, payload in read(part(b"a") + part(b"b"))] == [b"a", b"b"]


def test_a_byte_that_changed_is_noticed() -> None:
    message = bytearray(part(b"abc"))
    message[-6] ^= 1
    with pytest.raises(ChecksumMismatch):
        read(bytes(message))
