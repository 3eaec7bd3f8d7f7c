# SPDX-License-Identifier: Apache-2.0
"""Text that comes in pieces, read as if it were whole.

What reads it is a generator that yields where it needs more text and goes on when there is some, so that a format is
read by code that looks like the format, and where the pieces are cut makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

Found = TypeVar("Found")
Reading: TypeAlias = Generator[None, None, Found]
"""Reads on, yielding where more text is needed; returns what it found."""

Taker: TypeAlias = Callable[[str, str], None]
"""Is given everything that is read: as it was written, and as JSON wants it."""

_SPACE = re.compile(r"[ \t\r\n]*")


class Ended(Exception):
    """The text has ended before what was being read was complete."""


class Malformed(Exception):
    """The text is not what was being read; the first character that does not fit is the next one."""


class Reader:
    """The text up to now. ``at`` is where reading goes on in ``text``, which holds what has not been read, and more."""

    __slots__ = ("_from", "_takers", "at", "is_ended", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.is_ended = False
        self._from = 0
        """What has been read from here on is not with the takers yet."""
        self._takers: list[Taker] = []

    def feed(self, text: str) -> None:
        """Add text; what is in ``text`` and unread is short at any time, so that this is linear."""
        self.flush()
        self.text = self.text[self.at :] + text
        self.at = self._from = 0

    def flush(self) -> None:
        """Give the takers what has been read."""
        part = self.text[self._from : self.at]
        self._from = self.at
        if part:
            for taker in self._takers:
                taker(part, part)

    def begin(self, taker: Taker) -> None:
        """Give a taker what is read from here on."""
        self.flush()
        self._takers.append(taker)

    def end(self, taker: Taker) -> None:
        """Give a taker nothing that is read from here on."""
        self.flush()
        self._takers.remove(taker)

    def read_as(self, shown: str) -> None:
        """Read one character, which JSON wants to be written in another way."""
        self.flush()
        written = self.text[self.at]
        self.at = self._from = self.at + 1
        for taker in self._takers:
            taker(written, shown)

    def peek(self) -> Reading[str]:
        """The next character, unread.

        Raises:
            Ended: there is none.
        """
        while self.at == len(self.text):
            if self.is_ended:
                raise Ended
            yield
        return self.text[self.at]

    def run(self, pattern: re.Pattern[str]) -> Reading[None]:
        """Read all characters that a pattern, which matches any number of them, goes on with.

        Raises:
            Ended: the text has ended with them.
        """
        while True:
            found = pattern.match(self.text, self.at)
            if found is not None:
                self.at = found.end()
            if self.at < len(self.text):
                return
            yield from self.peek()

    def space(self) -> Reading[None]:
        """Read whitespace, if any.

        Raises:
            Ended: nothing else follows.
        """
        yield from self.run(_SPACE)

    def literal(self, words: str) -> Reading[bool]:
        """Read these words if they are what comes next; say whether they are. What is not is unread.

        Raises:
            Ended: the text ends where these words would go on.
        """
        while True:
            ahead = self.text[self.at : self.at + len(words)]
            if ahead == words:
                self.at += len(words)
                return True
            if not words.startswith(ahead):
                return False
            if self.is_ended:
                raise Ended
            yield

    def until(self, marker: str, give: Callable[[str], None]) -> Reading[bool]:
        """Give the text before a marker as it comes; say whether the marker is there, unread.

        What may be the beginning of the marker waits.
        """
        while True:
            end = self.text.find(marker, self.at)
            is_there = end >= 0
            if not is_there:
                end = len(self.text) - (0 if self.is_ended else self._n_begun(marker))
            give(self.text[self.at : end])
            self.at = end
            if is_there or self.is_ended:
                return is_there
            yield

    def rest(self, give: Callable[[str], None]) -> Reading[None]:
        """Give all that follows."""
        while True:
            give(self.text[self.at :])
            self.at = len(self.text)
            if self.is_ended:
                return
            yield

    def _n_begun(self, marker: str) -> int:
        """Characters at the end of the unread text that may be the beginning of a marker."""
        n_characters = len(self.text)
        begin = max(n_characters - len(marker) + 1, self.at)
        while (begin := self.text.find(marker[0], begin)) >= 0:
            if marker.startswith(self.text[begin:]):
                return n_characters - begin
            begin += 1
        return 0


def captured(reader: Reader, reading: Reading[None], parts: list[str]) -> Reading[str]:
    """Read what ``reading`` reads, and return it as JSON wants it.

    Args:
        reader: what it reads from.
        reading: not begun yet.
        parts: gets it, too, also where the text ends in the middle.
    """

    def take(_: str, shown: str) -> None:
        parts.append(shown)

    reader.begin(take)
    try:
        yield from reading
    finally:
        reader.end(take)
    return "".join(parts)
