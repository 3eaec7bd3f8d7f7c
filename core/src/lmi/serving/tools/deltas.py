# SPDX-License-Identifier: Apache-2.0
"""What a model's text turns out to be, piece by piece: content, reasoning, calls of tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias, TypeVar


@dataclass(frozen=True, slots=True)
class Content:
    """Text for whoever asked."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that the model wrote for itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins: its place among the calls of this answer, from 0, and the tool's name."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of a call's arguments; all pieces of a call, joined, are the text of one JSON object."""

    index: int
    text: str


Delta: TypeAlias = Content | CallStart | CallArguments
"""What a parser of tool calls gives."""

Each = TypeVar("Each", bound=Content | Reasoning | CallStart | CallArguments)


def merged(deltas: Sequence[Each]) -> list[Each]:
    """The same deltas, neighbours that go on with one text made one."""
    if len(deltas) < 2:  # a stream's usual case
        return list(deltas)
    found: list[Each] = []
    for _, run in groupby(deltas, key=_run):
        first, *others = run
        if others and not isinstance(first, CallStart):
            first = replace(
                first, text="".join(each.text for each in (first, *others) if not isinstance(each, CallStart))
            )
        found.append(first)
    return found


def _run(delta: Delta | Reasoning) -> tuple[type, int]:
    """What two neighbours share that are one."""
    return type(delta), 0 if isinstance(delta, Content | Reasoning) else delta.index


class Deltas:
    """Collects the deltas of one answer.

    Whitespace that stands alone before a call, between two or after the last one is the format's and is left out.
    """

    __slots__ = ("_blank", "_found", "n_calls")

    def __init__(self) -> None:
        self._found: list[Delta] = []
        self._blank: list[str] | None = []
        """Whitespace since the beginning or the last call; None after other content."""
        self.n_calls = 0

    def content(self, text: str) -> None:
        """Add content."""
        if not text:
            return
        if self._blank is not None:
            self._blank.append(text)
            if text.isspace():
                return
            text, self._blank = "".join(self._blank), None
        self._found.append(Content(text))

    def start(self, name: str) -> None:
        """Begin the next call."""
        self._found.append(CallStart(self.n_calls, name))
        self._blank = []
        self.n_calls += 1

    def arguments(self, text: str) -> None:
        """Add to the arguments of the call that began last."""
        if text:
            self._found.append(CallArguments(self.n_calls - 1, text))

    def end(self) -> None:
        """Nothing follows: an answer that is whitespace alone is content."""
        if self._blank and not self.n_calls:
            self._found.append(Content("".join(self._blank)))
        self._blank = []

    def take(self) -> list[Delta]:
        """What was added since this was last asked."""
        found, self._found = merged(self._found), []
        return found
