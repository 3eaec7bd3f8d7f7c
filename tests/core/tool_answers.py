# SPDX-License-Identifier: Apache-2.0
"""What parsers of tool calls make of a text, in a form that tests can write down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmi.serving.tools.choice import PARSERS
from lmi.serving.tools.deltas import CallStart, Content, Delta, merged

NAMES = ("get_weather", "f")
"""The tools of the request."""


def parsed(name: str, pieces: Sequence[str], *, is_streamed: bool = True) -> list[Delta]:
    """All deltas of a text that comes in these pieces, those that belong together made one."""
    parser = PARSERS[name](NAMES, is_streamed=is_streamed)
    return merged([delta for piece in pieces for delta in parser.push(piece)] + parser.finish())


def shown(deltas: Sequence[Delta]) -> list[Any]:
    """Contents as texts and calls as pairs."""
    found: list[Any] = []
    for delta in deltas:
        if isinstance(delta, Content):
            found.append(delta.text)
        elif isinstance(delta, CallStart):
            found.append((delta.name, ""))
        else:
            found[-1] = (found[-1][0], delta.text)
    return found


def read(name: str, text: str) -> list[Any]:
    return shown(parsed(name, [text]))
