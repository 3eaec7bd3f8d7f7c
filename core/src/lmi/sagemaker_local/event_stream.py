# SPDX-License-Identifier: Apache-2.0
"""Messages of ``application/vnd.amazon.eventstream``.

Source: Amazon Transcribe's and S3 Select's developer guides describe the framing; botocore.eventstream reads it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping

MEDIA_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7
_PRELUDE_BYTES, _CRC_BYTES = 8, 4


def part(content: bytes) -> bytes:
    """A piece of an answer, as the event PayloadPart."""
    names = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}
    return _message(names, content)


def exception(kind: str, members: Mapping[str, str]) -> bytes:
    """The end of an answer that failed.

    Args:
        kind: ``ModelStreamError`` or ``InternalStreamFailure``.
        members: of the exception, as the service model names them.
    """
    names = {":message-type": "exception", ":exception-type": kind, ":content-type": "application/json"}
    return _message(names, json.dumps(members).encode())


def _message(names: Mapping[str, str], payload: bytes) -> bytes:
    headers = b"".join(_header(name, value) for name, value in names.items())
    n_bytes = _PRELUDE_BYTES + _CRC_BYTES + len(headers) + len(payload) + _CRC_BYTES
    prelude = n_bytes.to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = prelude + zlib.crc32(prelude).to_bytes(4, "big") + headers + payload
    return message + zlib.crc32(message).to_bytes(4, "big")


def _header(name: str, value: str) -> bytes:
    name_bytes, value_bytes = name.encode(), value.encode()
    return bytes([len(name_bytes)]) + name_bytes + bytes([_STRING]) + len(value_bytes).to_bytes(2, "big") + value_bytes
