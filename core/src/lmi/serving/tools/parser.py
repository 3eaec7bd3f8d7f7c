# SPDX-License-Identifier: Apache-2.0
"""What every parser of tool calls does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar

from lmi.serving.tools.calls import CallReader, Rules
from lmi.serving.tools.deltas import Delta
from lmi.serving.tools.reader import Ended, Reading


class ToolParser(ABC):
    """Finds the calls of tools in a model's text, while it is being written.

    Content is given at once unless it may be the beginning of a call; whitespace that stands alone around calls belongs
    to the format. Arguments are given as they come, in the model's own whitespace. Text that looks like a call and is
    none is content, nothing lost and nothing twice. A call that the text ends in is given as far as it goes, once its
    name is complete; in a list, the beginning of a further one belongs to the format. How the text is cut into pieces
    changes nothing.

    Args:
        tool_names: the tools of the request.
        is_streamed: whether arguments are given as they come. If not, a call is given once it is whole, so that one
            with malformed arguments is content from its beginning: for answers that are sent as a whole.
    """

    markers: ClassVar[tuple[str, ...]] = ()
    """Words of the format that may be special tokens of a tokenizer; they must be part of the text that is parsed."""

    is_strict: ClassVar[bool] = False
    """A call of a name that is not among the tools is content: nothing else tells this format from other JSON."""

    def __init__(self, tool_names: Collection[str] = (), *, is_streamed: bool = True) -> None:
        self._text = CallReader(Rules(frozenset(tool_names), is_streamed, self.is_strict))
        self._steps = self._read_all(self._text)

    def push(self, text: str) -> list[Delta]:
        """Take the next text; return what is known by now."""
        self._text.feed(text)
        next(self._steps)
        self._text.flush()
        return self._text.deltas.take()

    def finish(self) -> list[Delta]:
        """Return what was still held; nothing follows."""
        self._text.is_ended = True
        for _ in self._steps:  # goes to the end: nothing waits any more
            pass
        return self._text.deltas.take()

    @abstractmethod
    def _read(self, text: CallReader) -> Reading[None]:
        """Read content and calls, up to where no call can follow; what is held and what follows is content."""

    def _read_all(self, text: CallReader) -> Reading[None]:
        try:
            yield from self._read(text)
            text.release()
            yield from text.rest(text.deltas.content)
        except Ended:
            text.at = len(text.text)
            text.release()
        text.deltas.end()
