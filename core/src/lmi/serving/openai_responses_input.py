# SPDX-License-Identifier: Apache-2.0
"""From the input of OpenAI's Responses API to the messages of a chat: what a model said in one turn is one message.

Source: OpenAI's API reference, responses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lmi.api.errors import UnsupportedError
from lmi.serving.chat_messages import given_arguments, text_of_part, wrong

_ROLES = ("system", "developer", "user", "assistant")
_ANSWERER = "assistant"


def messages_of(given: str | Sequence[dict[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """The messages that an input stands for.

    Args:
        given: ``input``: what a user says, or a list of items.
        instructions: what is said before it.
    Raises:
        UnsupportedError: there is an item that only a service which keeps answers, or has tools of its own, can read.
        RequestError: an item is wrong.
    """
    turns = _Turns()
    if instructions is not None:
        turns.messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        turns.messages.append({"role": "user", "content": given})
        return turns.messages
    for index, item in enumerate(given):
        turns.add(f"input[{index}]", item)
    return turns.messages


class _Turns:
    """Messages, gathered item by item."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        """The message of the model that its next item may belong to."""
        self._readers: dict[str, Callable[[str, dict[str, Any]], None]] = {
            "message": self._add_message,
            "reasoning": self._add_reasoning,
            "function_call": self._add_call,
            "function_call_output": self._add_output,
        }

    def add(self, at: str, item: dict[str, Any]) -> None:
        """Read one item."""
        kind = item.get("type") or "message"
        read = self._readers.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise UnsupportedError(
                "request.unsupported", f"{at} is an item of type {kind!r:.60}; items here are of the types "
                f"{', '.join(self._readers)}", "Send those, each as a whole: nothing is kept here that an item could "
                "refer to, and tools are functions of the caller's",
            )  # fmt: skip
        read(at, item)

    def _add_message(self, at: str, item: dict[str, Any]) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise wrong(f"{at}.role", role, f"one of {', '.join(_ROLES)}")
        content = _content(f"{at}.content", item.get("content"))
        if role != _ANSWERER:
            self._say(role=role, content=content)
            return
        before = self._open or {}
        turn = self._turn(is_new="content" in before and "tool_calls" not in before)
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        turn["content"] = turn.get("content", "") + text

    def _add_reasoning(self, at: str, item: dict[str, Any]) -> None:
        """The reasoning itself, or else its summary; one that only its service can read says nothing here."""
        text = "".join(_reasoning_texts(at, item, "content")) or "".join(_reasoning_texts(at, item, "summary"))
        if text:
            turn = self._turn(is_new=not (self._open or {}).keys().isdisjoint(("content", "tool_calls")))
            turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def _add_call(self, at: str, item: dict[str, Any]) -> None:
        arguments = given_arguments(f"{at}.arguments", item.get("arguments"))
        function = {"name": _text(at, item, "name"), "arguments": arguments}
        call = {"id": _text(at, item, "call_id"), "type": "function", "function": function}
        self._turn().setdefault("tool_calls", []).append(call)

    def _add_output(self, at: str, item: dict[str, Any]) -> None:
        content = _content(f"{at}.output", item.get("output"))
        self._say(role="tool", tool_call_id=_text(at, item, "call_id"), content=content)

    def _say(self, **message: Any) -> None:
        self._open = None
        self.messages.append(message)

    def _turn(self, *, is_new: bool = False) -> dict[str, Any]:
        """The message that the model's next item belongs to."""
        if self._open is None or is_new:
            self._open = {"role": _ANSWERER}
            self.messages.append(self._open)
        return self._open


def _content(at: str, content: Any) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(at, content, "a text or a list of parts")
    texts = [text_of_part(f"{at}[{index}]", part) for index, part in enumerate(content)]
    return [{"type": "text", "text": text} for text in texts]


def _reasoning_texts(at: str, item: dict[str, Any], field: str) -> list[str]:
    """The texts of the parts of a field, which may be missing."""
    parts = item.get(field) or []
    if not isinstance(parts, list):
        raise wrong(f"{at}.{field}", parts, "a list of parts")
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            raise wrong(f"{at}.{field}[{index}]", part, "an object with type and text")
    return [_text(f"{at}.{field}[{index}]", part, "text") for index, part in enumerate(parts)]


def _text(at: str, item: dict[str, Any], field: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise wrong(f"{at}.{field}", value, "a text")
    return value
