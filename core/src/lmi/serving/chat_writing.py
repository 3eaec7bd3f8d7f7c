# SPDX-License-Identifier: Apache-2.0
"""From a conversation to a prompt, and from the output to a message: its content, its reasoning, its calls of tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from lmi.api.errors import RequestError
from lmi.api.requests import SamplingParams
from lmi.loading import LoadPlan
from lmi.serving.chat_messages import given_kwargs
from lmi.serving.chat_template import ChatTemplate, load_chat_template
from lmi.serving.openai_bodies import ChatBody
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
        tokenizer: which of the formats' words are special tokens.
    """

    template: ChatTemplate
    calls: str
    reasoning: str
    tokenizer: Tokenizer

    @classmethod
    def of(cls, plan: LoadPlan, tokenizer: Tokenizer) -> Speech:
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
        return cls(template, calls, reasoning, tokenizer)

    @cached_property
    def _special(self) -> frozenset[str]:
        """Words of the formats that have no text unless special tokens are shown."""
        words = [word for parser in PARSERS.values() for word in parser.markers]
        words += [word for pair in MARKERS.values() for word in pair]
        encode, decode = self.tokenizer.encode, self.tokenizer.decode
        return frozenset(word for word in words if not decode(encode(word, adds_special=False)))

    def hides(self, calls: str, reasoning: str) -> bool:
        """Whether words of these formats are special tokens."""
        words = {*(PARSERS[calls].markers if calls in PARSERS else ()), *MARKERS.get(reasoning, ())}
        return not words.isdisjoint(self._special)


class Conversation:
    """One request: the prompt, what the answer must follow, and what reads it.

    Args:
        speech: of the model.
        body: of the request.
    Raises:
        RequestError: the conversation cannot be rendered, or what it asks for excludes each other.
    """

    def __init__(self, speech: Speech, body: ChatBody) -> None:
        self._speech, self._body = speech, body
        tools, self._choice = offered(body.tools or [], body.tool_choice)
        self._names = [tool.name for tool in tools]
        kwargs = given_kwargs(body.chat_template_kwargs)
        if body.reasoning_effort is not None:
            kwargs.setdefault("reasoning_effort", body.reasoning_effort)
        self.prompt = speech.template.render(
            body.messages,
            tools=[tool.model_dump(exclude_none=True) for tool in tools] or None,
            add_generation_prompt=body.add_generation_prompt is not False,
            continue_final_message=bool(body.continue_final_message),
            documents=body.documents,
            **kwargs,
        )
        calls = constraint_for(tools, self._choice, body.parallel_tool_calls is not False)
        self._is_forced = calls is not None
        form = body.response_format
        asked = form.constraint if form is not None else None
        if calls is not None and asked is not None:
            raise RequestError(
                "request.invalid", f"response_format={form.type if form else ''} and tool_choice={self._choice!r} "
                "exclude each other", "Keep one of them",
            )  # fmt: skip
        self._constraint = calls or asked

    @property
    def is_named(self) -> bool:
        """Whether one tool must be called: the answer then ends with ``stop``."""
        return isinstance(self._choice, NamedTool)

    @property
    def _formats(self) -> tuple[str, str]:
        """Of calls and of reasoning in this answer."""
        if self._is_forced:
            return _FORCED, "none"
        return (self._speech.calls if self._names else "none"), self._speech.reasoning

    @property
    def reads_special(self) -> bool:
        """Whether special tokens must have a text."""
        return self._speech.hides(*self._formats)

    def constrained(self, sampling: SamplingParams) -> SamplingParams:
        """The sampling with what the answer has to follow.

        Raises:
            RequestError: it has to follow something else already.
        """
        if self._constraint is None:
            return sampling
        if sampling.constraint is not None:
            raise RequestError(
                "request.invalid", "response_format or tool_choice, and a guided_ parameter, exclude each other",
                "Keep one of them",
            )  # fmt: skip
        return msgspec.structs.replace(sampling, constraint=self._constraint)

    def message(self, *, is_streamed: bool) -> Message:
        """What reads one output."""
        calls, reasoning = self._formats
        parser = ReplyParser(
            new_reasoning_parser(reasoning, self.prompt), new_parser(calls, self._names, is_streamed=is_streamed)
        )
        return Message(parser, self._speech.template.text)


class Message:
    """One message while it grows.

    Args:
        parser: takes the text apart.
        template: of the chat, which may ask for ids of its own kind.
    """

    def __init__(self, parser: ReplyParser, template: str) -> None:
        self._parser, self._template = parser, template
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
            call = {"id": new_call_id(self._template), "type": "function", "function": function}
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
