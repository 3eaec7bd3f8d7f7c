# SPDX-License-Identifier: Apache-2.0
"""From a conversation to a prompt, and from the output to a message: its content, its reasoning, its calls of tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from lmi.api.errors import RequestError
from lmi.api.requests import ReasoningMarks, SamplingParams
from lmi.loading import LoadPlan
from lmi.serving.chat_messages import given_kwargs
from lmi.serving.chat_template import ChatTemplate, load_chat_template
from lmi.serving.openai_bodies import GUIDES, ChatBody
from lmi.serving.reasoning import MARKERS, new_reasoning_parser, reasoning_for
from lmi.serving.tokenizer import Tokenizer
from lmi.serving.tools.choice import PARSERS, new_call_id, new_parser, parser_for
from lmi.serving.tools.constraint import constraint_for
from lmi.serving.tools.definitions import NamedTool, offered
from lmi.serving.tools.deltas import CallArguments, CallStart, Content, Delta, Reasoning
from lmi.serving.tools.reply import ReplyParser

_FORCED = "json"
"""The format of calls that a constraint asks for."""


@dataclass(frozen=True)
class Speech:
    """How a model writes: its template, and the formats of its calls and its reasoning.

    Args:
        template: from messages to a prompt.
        calls: name of a format, or ``none``.
        reasoning: the same.
        tokenizer: which of the formats' words are tokens, and which of those special ones.
        reasons_first: whether reasoning may come before what a constraint holds for, as the engine says once it is
            loaded.
    """

    template: ChatTemplate
    calls: str
    reasoning: str
    tokenizer: Tokenizer
    reasons_first: Callable[[], bool]

    @classmethod
    def of(cls, plan: LoadPlan, tokenizer: Tokenizer, reasons_first: Callable[[], bool]) -> Speech:
        """What a model's files and options say."""
        options, artifacts = plan.options, plan.artifacts
        template = load_chat_template(
            artifacts, options.chat_template, options.chat_template_content_format, plan.folder
        )
        calls: str = options.tool_call_parser
        if calls == "auto":
            calls = parser_for(artifacts.model_type, artifacts.architectures, template.text)
        reasoning: str = options.reasoning_parser
        if reasoning == "auto":
            reasoning = reasoning_for(template.text)
        return cls(template, calls, reasoning, tokenizer, reasons_first)

    @cached_property
    def _special_ids(self) -> dict[str, frozenset[int]]:
        """Words of the formats that have no text unless special tokens are shown, and their ids."""
        words = [word for parser in PARSERS.values() for word in parser.markers]
        words += [word for pair in MARKERS.values() for word in pair]
        tokenizer = self.tokenizer
        ids = {word: tokenizer.encode(word, adds_special=False) for word in words}
        return {word: frozenset(found) for word, found in ids.items() if not tokenizer.decode(found)}

    def special_ids(self, calls: str, reasoning: str) -> frozenset[int]:
        """Ids of the words of these formats that are special tokens."""
        words = (*(PARSERS[calls].markers if calls in PARSERS else ()), *MARKERS.get(reasoning, ()))
        return frozenset().union(*(self._special_ids.get(word, ()) for word in words))

    @cached_property
    def _mark_ids(self) -> tuple[int, int] | None:
        """The ids of the marks around reasoning; None where there are none, or one is no token of its own."""
        found = []
        for word in MARKERS.get(self.reasoning, ()):
            ids = self.tokenizer.encode(word, adds_special=False)
            decoder = self.tokenizer.decoder(shows_special=True)
            if len(ids) == 1 and "".join(decoder.push(ids)) + decoder.flush() == word:
                found += ids
        return (found[0], found[1]) if len(found) == 2 else None

    def marks_before(self, prompt: str, *, goes_on: bool) -> ReasoningMarks | None:
        """The reasoning that may come before an answer that follows a constraint; None where none may.

        Args:
            prompt: as the template rendered it. It may have opened the reasoning, or closed it.
            goes_on: it ends within a message, and the answer is the rest of that.
        """
        if self._mark_ids is None or not self.reasons_first():
            return None
        opening, closing = MARKERS[self.reasoning]
        end = prompt.rstrip()
        is_open = end.endswith(opening)
        if not is_open and (goes_on or end.endswith(closing)):
            return None
        start_id, end_id = self._mark_ids
        return ReasoningMarks(start_id=start_id, end_id=end_id, is_open=is_open)


class Conversation:
    """One request: the prompt, what the answer must follow, and what reads it.

    Args:
        speech: of the model.
        body: of the request.
        form_name: what its caller calls ``response_format``.
    Raises:
        RequestError: the conversation cannot be rendered, or what it asks for excludes each other.
    """

    def __init__(self, speech: Speech, body: ChatBody, form_name: str = "response_format") -> None:
        self._speech, self._form_name = speech, form_name
        tools, self._choice = offered(body.tools or [], body.tool_choice)
        self._names = [tool.name for tool in tools]
        kwargs = given_kwargs(body.chat_template_kwargs)
        for name in ("reasoning_effort", "verbosity"):
            if (value := getattr(body, name)) is not None:
                kwargs.setdefault(name, value)
        self.prompt = speech.template.render(
            body.messages,
            tools=[tool.model_dump(exclude_none=True) for tool in tools] or None,
            add_generation_prompt=body.add_generation_prompt is not False,
            continue_final_message=bool(body.continue_final_message),
            documents=body.documents,
            **kwargs,
        )
        self._is_parallel = body.parallel_tool_calls is not False
        calls = constraint_for(tools, self._choice, self._is_parallel)
        self._is_forced = calls is not None
        form = body.response_format
        asked = form.constraint if form is not None else None
        if calls is not None and asked is not None:
            raise RequestError(
                "request.invalid", f"{form_name}={form.type if form else ''} and tool_choice={self._choice!r} "
                "exclude each other", "Keep one of them",
            )  # fmt: skip
        self._constraint = calls or asked
        self._marks, self._reasoning = None, speech.reasoning
        if self._constraint is not None or any(getattr(body, name) is not None for name in GUIDES):
            self._marks = speech.marks_before(self.prompt, goes_on=bool(body.continue_final_message))
            if self._marks is None:  # nothing comes before what the constraint holds for
                self._reasoning = "none"

    @property
    def is_named(self) -> bool:
        """Whether one tool must be called: the answer then ends with ``stop``."""
        return isinstance(self._choice, NamedTool)

    @property
    def _formats(self) -> tuple[str, str]:
        """Of calls and of reasoning in this answer."""
        calls = self._speech.calls if self._names else "none"
        return (_FORCED if self._is_forced else calls), self._reasoning

    @property
    def special_ids(self) -> frozenset[int]:
        """Special tokens that must have a text, for they tell what the rest is."""
        return self._speech.special_ids(*self._formats)

    def constrained(self, sampling: SamplingParams) -> SamplingParams:
        """The sampling with what the answer has to follow.

        Raises:
            RequestError: it has to follow something else already.
        """
        if None not in (self._constraint, sampling.constraint):
            raise RequestError(
                "request.invalid", f"{self._form_name} or tool_choice, and a guided_ parameter or "
                "structured_outputs, exclude each other", "Keep one of them",
            )  # fmt: skip
        constraint = self._constraint or sampling.constraint
        if constraint is None:
            return sampling
        constraint = msgspec.structs.replace(constraint, reasoning=self._marks)
        return msgspec.structs.replace(sampling, constraint=constraint)

    def parser(self, *, is_streamed: bool) -> ReplyParser:
        """What takes one output apart."""
        calls, reasoning = self._formats
        return ReplyParser(
            new_reasoning_parser(reasoning, self.prompt),
            new_parser(calls, self._names, is_streamed=is_streamed),
            is_parallel=self._is_parallel,
        )

    def new_call_id(self) -> str:
        """An id for a call, as the template takes them."""
        return new_call_id(self._speech.template.text)

    def message(self, *, is_streamed: bool) -> Message:
        """What reads one output."""
        return Message(self.parser(is_streamed=is_streamed), self.new_call_id)


class Message:
    """One message while it grows.

    Args:
        parser: takes the text apart.
        new_call_id: makes an id for a call.
    """

    def __init__(self, parser: ReplyParser, new_call_id: Callable[[], str]) -> None:
        self._parser, self._new_call_id = parser, new_call_id
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._arguments: list[list[str]] = []

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    def add(self, text: str) -> list[dict[str, Any]]:
        """Read further text; return what it adds to the message, as deltas."""
        return self._told(self._parser.push(text)) if text else []

    def finish(self) -> list[dict[str, Any]]:
        """Nothing follows: return what was held back."""
        return self._told(self._parser.finish())

    def _told(self, found: Sequence[Delta | Reasoning]) -> list[dict[str, Any]]:
        return [self._delta(each) for each in found]

    def _delta(self, found: Delta | Reasoning) -> dict[str, Any]:
        if isinstance(found, Content):
            self._content.append(found.text)
            return {"content": found.text}
        if isinstance(found, Reasoning):
            self._reasoning.append(found.text)
            return {"reasoning_content": found.text}
        if isinstance(found, CallStart):
            function = {"name": found.name, "arguments": ""}
            call = {"id": self._new_call_id(), "type": "function", "function": function}
            self._calls.append(call)
            self._arguments.append([])
            return {"tool_calls": [{"index": found.index, **call, "function": dict(function)}]}
        return self._argued(found)

    def _argued(self, found: CallArguments) -> dict[str, Any]:
        self._arguments[found.index].append(found.text)
        return {"tool_calls": [{"index": found.index, "function": {"arguments": found.text}}]}

    def whole(self) -> dict[str, Any]:
        """The message so far."""
        content: str | None = "".join(self._content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content or (None if self._calls else ""),
            "refusal": None,
        }
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            for call, pieces in zip(self._calls, self._arguments, strict=True):
                call["function"]["arguments"] = "".join(pieces)
            message["tool_calls"] = self._calls
        return message
