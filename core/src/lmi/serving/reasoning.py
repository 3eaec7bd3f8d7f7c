# SPDX-License-Identifier: Apache-2.0
"""Reasoning that a model writes before its answer, told from the answer while both are being written."""

from __future__ import annotations

from lmi.serving.tools.deltas import Content, Reasoning, merged
from lmi.serving.tools.reader import Ended, Reader, Reading, captured

MARKERS = {"think": ("<think>", "</think>"), "mistral": ("[THINK]", "[/THINK]")}
"""The name of a format, as ``option.reasoning_parser`` has it -> what stands before and after reasoning."""


def reasoning_for(chat_template: str | None) -> str:
    """The name of the format in which a model writes reasoning, by its chat template; ``none`` if it writes none."""
    template = chat_template or ""
    return next((name for name, words in MARKERS.items() if any(each in template for each in words)), "none")


def new_reasoning_parser(name: str, prompt: str) -> ReasoningParser | None:
    """A parser for one answer; None for ``none``.

    Args:
        name: a name in ``MARKERS``, or ``none``.
        prompt: as the chat template rendered it: some templates open the reasoning in it.
    """
    if name == "none":
        return None
    opening, closing = MARKERS[name]
    return ReasoningParser(opening, closing, starts_inside=prompt.rstrip().endswith(opening))


class ReasoningParser:
    """Tells reasoning from content, while text is being written.

    Reasoning stands at the beginning of an answer, or nowhere: markers further on are content. Line breaks next to
    markers belong to the format and are left out; all other text is given once, as soon as it is known what it is.
    An answer that ends in its reasoning has no content.

    Args:
        opening, closing: the markers. They may be special tokens of a tokenizer and must be part of the text.
        starts_inside: the prompt has opened the reasoning already; a marker that opens it again is left out.
    """

    def __init__(self, opening: str, closing: str, *, starts_inside: bool = False) -> None:
        self.markers = (opening, closing)
        self._starts_inside = starts_inside
        self._reader = Reader()
        self._found: list[Content | Reasoning] = []
        self._is_fresh = True
        """Nothing but line breaks since the last marker."""
        self._n_breaks = 0
        """Line breaks at the end of the reasoning up to now."""
        self._steps = self._read()

    def push(self, text: str) -> list[Content | Reasoning]:
        """Take the next text; return what is known by now."""
        self._reader.feed(text)
        next(self._steps)
        return self._taken()

    def finish(self) -> list[Content | Reasoning]:
        """Return what was still held; nothing follows."""
        self._reader.is_ended = True
        for _ in self._steps:  # goes to the end: nothing waits any more
            pass
        return self._taken()

    def _taken(self) -> list[Content | Reasoning]:
        found, self._found = merged(self._found), []
        return found

    def _read(self) -> Reading[None]:
        reader = self._reader
        opening, closing = self.markers
        blank: list[str] = []
        is_open = False
        try:
            yield from captured(reader, reader.space(), blank)
            is_open = yield from reader.literal(opening)
        except Ended:
            pass
        if not is_open:
            give = self._give_reasoning if self._starts_inside else self._give_first_content
            give("".join(blank))
        if is_open or self._starts_inside:
            if not (yield from reader.until(closing, self._give_reasoning)):
                self._give_breaks()
                return
            reader.at += len(closing)
            self._is_fresh = True
            yield from reader.rest(self._give_content)
        else:
            yield from reader.rest(self._give_first_content)

    def _give_reasoning(self, text: str) -> None:
        if self._is_fresh:
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        if body:
            self._is_fresh = False
            self._give_breaks()
            self._found.append(Reasoning(body))
        self._n_breaks += len(text) - len(body)

    def _give_breaks(self) -> None:
        if self._n_breaks:
            self._found.append(Reasoning("\n" * self._n_breaks))
        self._n_breaks = 0

    def _give_content(self, text: str) -> None:
        """Content after reasoning."""
        if self._is_fresh:
            text = text.lstrip("\n")
        if text:
            self._is_fresh = False
            self._found.append(Content(text))

    def _give_first_content(self, text: str) -> None:
        """Content of an answer without reasoning, as it is."""
        if text:
            self._found.append(Content(text))
