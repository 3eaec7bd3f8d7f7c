# SPDX-License-Identifier: Apache-2.0
"""The formats in which models write calls of tools."""

from __future__ import annotations

import re

from lmi.serving.tools.calls import CallReader
from lmi.serving.tools.parser import ToolParser
from lmi.serving.tools.reader import Reading, captured

_NAME = re.compile(r"[A-Za-z0-9_.\-]*")


class HermesParser(ToolParser):
    """An object between tags, one pair of tags a call; content may stand before and between them.

    ``<tool_call>\\n{"name": "f", "arguments": {"a": 1}}\\n</tool_call>``. The closing tag may be missing.
    Source: the chat templates of Hermes 2 Pro, Qwen 2.5 and Qwen 3.
    """

    markers = ("<tool_call>", "</tool_call>")

    def _read(self, text: CallReader) -> Reading[None]:
        opening, closing = self.markers
        while (yield from text.content_until(opening)):
            yield from text.space()
            if (yield from text.call()):
                yield from text.closed(closing)


class Llama3JsonParser(ToolParser):
    """Objects, with ``;`` or only whitespace between them, at the beginning of the answer or after a tag.

    ``<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": ...}``, the tag being optional at the beginning.
    Source: the chat templates and the prompt format of Llama 3.1 to 3.3.
    """

    markers = ("<|python_tag|>",)
    is_strict = True

    def _read(self, text: CallReader) -> Reading[None]:
        (tag,) = self.markers
        text.hold()
        yield from text.space()
        yield from text.literal(tag)
        is_there = True
        while is_there:
            yield from text.space()
            while (yield from text.call()):
                yield from self._read_separator(text, tag)
            is_there = yield from text.content_until(tag)

    @staticmethod
    def _read_separator(text: CallReader, tag: str) -> Reading[None]:
        following = yield from text.after_call(";", tag)
        if following:
            yield from text.to_next_call()
        if following == ";":
            yield from text.literal(tag)


class MistralParser(ToolParser):
    """A marker, then a list of objects; or a marker for each call, then its name and its arguments.

    ``[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, ...]``; later ``[TOOL_CALLS]f[ARGS]{"a": 1}``, also without
    ``[ARGS]``, or with ``[CALL_ID]123456789`` before it, which is left out: calls have ids of our own.
    Source: mistral-common's tokenizers v3 to v13; chat templates of Mistral and Ministral.
    """

    markers = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")

    def _read(self, text: CallReader) -> Reading[None]:
        while (yield from text.content_until(self.markers[0])):
            yield from text.space()
            if (yield from text.literal("[")):
                yield from text.calls()
            else:
                yield from self._read_named(text)

    def _read_named(self, text: CallReader) -> Reading[None]:
        name = yield from captured(text, text.run(_NAME), [])
        if name:
            yield from text.arguments_of(name, self._read_markers(text))
        else:
            text.release()

    def _read_markers(self, text: CallReader) -> Reading[None]:
        """Read what stands between a name and its arguments."""
        _, call_id, arguments = self.markers
        if (yield from text.literal(call_id)):
            yield from text.run(_NAME)
        yield from text.literal(arguments)
        yield from text.space()


class JsonParser(ToolParser):
    """The whole answer is one object, or a list of objects, perhaps in a fence of Markdown.

    ``{"name": "f", "arguments": {"a": 1}}``; ``parameters`` is another name of the arguments. It reads what
    ``constraint_for`` lets a model write, and what models write that were only asked for JSON.
    """

    is_strict = True

    def _read(self, text: CallReader) -> Reading[None]:
        text.hold()
        yield from text.space()
        is_fenced = yield from text.literal("```")
        if is_fenced:
            yield from text.literal("json")
            yield from text.space()
        is_list = yield from text.literal("[")
        is_whole = yield from (text.calls() if is_list else text.call())
        if is_whole and is_fenced:
            yield from text.closed("```")
