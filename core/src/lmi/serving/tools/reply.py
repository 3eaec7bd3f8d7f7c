# SPDX-License-Identifier: Apache-2.0
"""A model's answer, taken apart: reasoning first, then content with calls of tools."""

from __future__ import annotations

from collections.abc import Sequence

from lmi.serving.reasoning import ReasoningParser
from lmi.serving.tools.deltas import CallArguments, CallStart, Content, Delta, Reasoning, merged
from lmi.serving.tools.parser import ToolParser


class ReplyParser:
    """Both parsers, one behind the other; either may be missing.

    Args:
        reasoning: takes the text; what is no reasoning goes on.
        tools: takes what is left.
        is_parallel: whether calls after the first are given, or left out.
    """

    def __init__(
        self, reasoning: ReasoningParser | None = None, tools: ToolParser | None = None, *, is_parallel: bool = True
    ) -> None:
        self._reasoning = reasoning
        self._tools = tools
        self._is_parallel = is_parallel

    def push(self, text: str) -> list[Delta | Reasoning]:
        """Take the next text; return what is known by now."""
        parts = self._reasoning.push(text) if self._reasoning else [Content(text)] if text else []
        return self._given(self._sorted(parts))

    def finish(self) -> list[Delta | Reasoning]:
        """Return what was still held; nothing follows."""
        deltas = self._sorted(self._reasoning.finish() if self._reasoning else [])
        return self._given(merged([*deltas, *(self._tools.finish() if self._tools else [])]))

    def _given(self, deltas: list[Delta | Reasoning]) -> list[Delta | Reasoning]:
        if self._is_parallel:
            return deltas
        return [each for each in deltas if not isinstance(each, CallStart | CallArguments) or each.index == 0]

    def _sorted(self, parts: Sequence[Content | Reasoning]) -> list[Delta | Reasoning]:
        deltas: list[Delta | Reasoning] = []
        for part in parts:
            deltas += self._tools.push(part.text) if self._tools and isinstance(part, Content) else [part]
        return deltas
