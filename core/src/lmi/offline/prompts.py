# SPDX-License-Identifier: Apache-2.0
"""The file of prompts: a JSON object a line, in any of the schemas that ``/invocations`` takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmi.api.errors import ConfigError, RequestError

_NOT_SENT = ("id", "stream")
"""Keys of a line that are no part of its request: whose it is, and how an answer comes over a network."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One line.

    Args:
        number: of the line, from 1.
        digest: of what the line says.
        text: the line.
    """

    number: int
    digest: str
    text: bytes

    def request(self) -> tuple[Any, bytes]:
        """Its id, None where it has none, and the body of its request.

        Raises:
            RequestError: the line is no JSON object.
        """
        try:
            found = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise RequestError("generate.bad-line", f"line {self.number} is no JSON: {error}", _HINT) from error
        if not isinstance(found, dict):
            kind = type(found).__name__
            raise RequestError("generate.bad-line", f"line {self.number} is a {kind}, not an object", _HINT)
        body = {key: value for key, value in found.items() if key not in _NOT_SENT}
        return found.get("id"), json.dumps(body).encode()


_HINT = 'Write {"inputs": ...}, {"messages": [...]} or {"prompt": ...}'


def prompts_of(file: Path) -> Iterator[Prompt]:
    """The lines that are not empty, in order; read while they are asked for.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if text := line.strip():
                    yield Prompt(number=number, digest=hashlib.sha256(text).hexdigest()[:16], text=text)
    except OSError as error:
        raise ConfigError(
            "generate.cannot-read", f"{file}: {error.strerror}", (), "Name a file with one JSON object a line"
        ) from error
