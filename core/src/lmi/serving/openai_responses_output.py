# SPDX-License-Identifier: Apache-2.0
"""The output of OpenAI's Responses API while it grows: its items, and the events that tell of each step.

Source: OpenAI's API reference, responses and their streaming events.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

from lmi.serving.tools.deltas import CallArguments, CallStart, Content, Delta, Reasoning

Event: TypeAlias = dict[str, Any]
Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]

_ID_BYTES = 16


class _Item(ABC):
    """One item of an output.

    Args:
        place: among the items.
    """

    id_start: ClassVar[str]

    def __init__(self, place: int) -> None:
        self._place = place
        self._id = f"{self.id_start}_{secrets.token_hex(_ID_BYTES)}"
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """What it says so far."""
        return "".join(self._texts)

    @abstractmethod
    def shown(self, status: Status) -> dict[str, Any]:
        """The item as it is now."""

    def begun(self) -> list[Event]:
        """What tells that it begins."""
        item = self.shown("in_progress")
        return [{"type": "response.output_item.added", "output_index": self._place, "item": item}]

    def grown(self, text: str, scores: Sequence[dict[str, Any]]) -> list[Event]:
        """Add text to it.

        Args:
            text: what comes next.
            scores: log probabilities of its tokens.
        Returns:
            What tells of it.
        """
        self._texts.append(text)
        return [self._delta(text, scores)]

    @abstractmethod
    def _delta(self, text: str, scores: Sequence[dict[str, Any]]) -> Event:
        """What tells of further text."""

    def ended(self, status: Status) -> list[Event]:
        """What tells that it ends."""
        return [{"type": "response.output_item.done", "output_index": self._place, "item": self.shown(status)}]

    def _event(self, kind: str, **more: Any) -> Event:
        return {"type": kind, "item_id": self._id, "output_index": self._place, **more}


class _Spoken(_Item):
    """An item whose text is a part of it."""

    part_kind: ClassVar[str]

    @abstractmethod
    def _part(self, text: str) -> dict[str, Any]:
        """The part with a text."""

    @abstractmethod
    def _done(self) -> dict[str, Any]:
        """What the event that ends the text has."""

    def begun(self) -> list[Event]:
        return [*super().begun(), self._event("response.content_part.added", content_index=0, part=self._part(""))]

    def ended(self, status: Status) -> list[Event]:
        return [
            self._event(f"response.{self.part_kind}.done", content_index=0, **self._done()),
            self._event("response.content_part.done", content_index=0, part=self._part(self.text)),
            *super().ended(status),
        ]

    def _parts(self) -> list[dict[str, Any]]:
        return [self._part(self.text)] if self._texts else []


class _Thought(_Spoken):
    """Reasoning, as the model wrote it."""

    id_start, part_kind = "rs", "reasoning_text"

    def shown(self, status: Status) -> dict[str, Any]:
        return {"id": self._id, "type": "reasoning", "summary": [], "content": self._parts(), "status": status}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": self.part_kind, "text": text}

    def _delta(self, text: str, scores: Sequence[dict[str, Any]]) -> Event:
        return self._event("response.reasoning_text.delta", content_index=0, delta=text)

    def _done(self) -> dict[str, Any]:
        return {"text": self.text}


class _Said(_Spoken):
    """A message."""

    id_start, part_kind = "msg", "output_text"

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self._scores: list[dict[str, Any]] = []

    def shown(self, status: Status) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "content": self._parts(), "status": status}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": self.part_kind, "text": text, "annotations": [], "logprobs": [*self._scores]}

    def _delta(self, text: str, scores: Sequence[dict[str, Any]]) -> Event:
        self._scores += scores
        return self._event("response.output_text.delta", content_index=0, delta=text, logprobs=[*scores])

    def _done(self) -> dict[str, Any]:
        return {"text": self.text, "logprobs": [*self._scores]}


class _Called(_Item):
    """A call of a function.

    Args:
        place: among the items.
        call_id: which its output will name.
        name: of the function.
    """

    id_start = "fc"

    def __init__(self, place: int, call_id: str, name: str) -> None:
        super().__init__(place)
        self._call = {"call_id": call_id, "name": name}

    def shown(self, status: Status) -> dict[str, Any]:
        return {"id": self._id, "type": "function_call", **self._call, "arguments": self.text, "status": status}

    def _delta(self, text: str, scores: Sequence[dict[str, Any]]) -> Event:
        return self._event("response.function_call_arguments.delta", delta=text)

    def ended(self, status: Status) -> list[Event]:
        return [self._event("response.function_call_arguments.done", arguments=self.text), *super().ended(status)]


class Output:
    """The items of one answer while they grow, one after the other.

    Args:
        new_call_id: makes an id for a call.
    """

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self._new_call_id = new_call_id
        self._items: list[_Item] = []

    def add(self, found: Delta | Reasoning, scores: Sequence[dict[str, Any]] = ()) -> list[Event]:
        """Take what was found next in the model's text.

        Args:
            found: of content, reasoning, or a call.
            scores: log probabilities of its tokens.
        Returns:
            What tells of it.
        """
        if isinstance(found, CallStart):
            return self._next(_Called(len(self._items), self._new_call_id(), found.name))
        last = self._items[-1] if self._items else None
        events: list[Event] = []
        if not isinstance(found, CallArguments):  # those are of the call that has begun last
            kind = _Said if isinstance(found, Content) else _Thought
            if not isinstance(last, kind):
                last = kind(len(self._items))
                events = self._next(last)
        return [*events, *last.grown(found.text, scores)] if last is not None else events

    def end(self, *, is_whole: bool) -> list[Event]:
        """Nothing follows; an output without anything is a message without text.

        Args:
            is_whole: whether the model had no more to say.
        """
        events: list[Event] = []
        if not self._items:
            events = self._next(_Said(0))
            events += self._items[0].grown("", ())
        return [*events, *self._items[-1].ended("completed" if is_whole else "incomplete")]

    def _next(self, item: _Item) -> list[Event]:
        """Begin an item; the one before it is complete."""
        before = self._items[-1].ended("completed") if self._items else []
        self._items.append(item)
        return [*before, *item.begun()]

    @property
    def goes_on(self) -> bool:
        """Whether content that comes now is the beginning of the output, or goes on with a message."""
        return not self._items or isinstance(self._items[-1], _Said)

    @property
    def reasoning(self) -> str:
        """All reasoning so far."""
        return "".join(item.text for item in self._items if isinstance(item, _Thought))

    def shown(self, *, is_whole: bool) -> list[dict[str, Any]]:
        """All items; only the last one can be incomplete."""
        last = len(self._items) - 1
        return [
            item.shown("completed" if is_whole or place < last else "incomplete")
            for place, item in enumerate(self._items)
        ]
