# SPDX-License-Identifier: Apache-2.0
"""The body of a request to OpenAI's Responses API, and the chat that it asks for.

Source: OpenAI's API reference, responses; parameters beyond it as in a chat's body.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Tag, model_validator

from lmi.api.errors import UnsupportedError
from lmi.serving.bodies import Part, complete
from lmi.serving.constraints import SchemaText
from lmi.serving.openai_bodies import ChatBody, NamedSchema, ResponseFormat, TextBody
from lmi.serving.openai_responses_input import messages_of
from lmi.serving.tools.definitions import (
    MOST_TOOLS,
    OPEN_CHOICES,
    AllowedChoice,
    AllowedTools,
    Function,
    NamedFunction,
    NamedTool,
    Tool,
    ToolChoice,
    Word,
    unique,
)

Included: TypeAlias = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]
_LOGPROBS = "message.output_text.logprobs"
_MOST_SHOWN_CHARS = 60
_STATELESS = {
    "previous_response_id": "Send the items of the conversation in input",
    "conversation": "Send the items of the conversation in input",
    "background": "Leave it out, and read the answer, or a stream of it",
    "store": "Leave it out, and keep the answer where you need it",
    "prompt": "Send the prompt itself, as instructions and input",
}
"""Fields that need something kept between requests -> what to do instead."""


def _functions(tools: Any) -> Any:
    kinds = [each.get("type") if isinstance(each, dict) else None for each in tools] if isinstance(tools, list) else []
    for index, kind in enumerate(kinds):
        if isinstance(kind, str) and kind != "function":
            shown = f"{kind!r:.{_MOST_SHOWN_CHARS}}"
            raise complete(f"tools[{index}] is of type {shown}; a model here can call functions of the caller's only")
    return tools


def _given(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("input should be a text, or a list of at least one item")
    for index, each in enumerate(value):
        if not isinstance(each, dict):
            raise complete(f"input[{index}]={each!r:.{_MOST_SHOWN_CHARS}}: an item should be an object")
    return value


class FlatTool(Function):
    """A function that a model may call; its name stands beside its type."""

    type: Literal["function"]

    @property
    def nested(self) -> Tool:
        """The same as chats have it."""
        function = Function.model_construct(**{name: getattr(self, name) for name in Function.model_fields})
        return Tool(type=self.type, function=function)


class FlatNamedTool(Part):
    """``{"type": "function", "name": ...}``: this one must be called."""

    type: Literal["function"]
    name: str

    @property
    def nested(self) -> NamedTool:
        """The same as chats have it."""
        return NamedTool(type=self.type, function=NamedFunction(name=self.name))


class FlatAllowedTools(Part):
    """``{"type": "allowed_tools", "mode": ..., "tools": [...]}``: these and no others."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FlatNamedTool] = Field(min_length=1, max_length=MOST_TOOLS, fail_fast=True)

    @property
    def nested(self) -> AllowedTools:
        """The same as chats have it."""
        tools = [each.nested for each in self.tools]
        return AllowedTools(type=self.type, allowed_tools=AllowedChoice(mode=self.mode, tools=tools))


FlatChoice: TypeAlias = Annotated[
    Annotated[Word, Tag("word")]
    | Annotated[FlatNamedTool, Tag("function")]
    | Annotated[FlatAllowedTools, Tag("allowed_tools")],
    OPEN_CHOICES,
]


class TextFormat(Part):
    """``format`` of ``text``; ``strict`` is always so."""

    model_config = ConfigDict(populate_by_name=True, protected_namespaces=())

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    content: SchemaText | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.content is not None):
            raise complete("text.format needs schema with type='json_schema', and with no other")
        return self

    @property
    def nested(self) -> ResponseFormat:
        """The same as chats have it."""
        if self.content is None:
            return ResponseFormat(type=self.type)
        schema = NamedSchema(name=self.name or "", content=self.content)
        return ResponseFormat(type=self.type, json_schema=schema)

    def shown(self) -> dict[str, Any]:
        """As an answer repeats it."""
        plain = self.model_dump(exclude_none=True, exclude={"content"})
        return plain if self.content is None else {**plain, "schema": json.loads(self.content)}


class TextConfig(Part):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(Part):
    """``effort`` goes to the chat template; reasoning is given itself, so there is no summary of it."""

    effort: str | None = None
    summary: Literal["auto"] | None = None


class ResponseStreamOptions(Part):
    include_obfuscation: Literal[False] | None = None


class ResponsesBody(TextBody):
    """The body of ``POST /v1/responses``."""

    input: Annotated[str | list[dict[str, Any]], BeforeValidator(_given)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    tools: (
        Annotated[
            list[FlatTool],
            Field(max_length=MOST_TOOLS, fail_fast=True),
            AfterValidator(unique),
            BeforeValidator(_functions),
        ]
        | None
    ) = None
    tool_choice: FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    include: Annotated[list[Included], Field(fail_fast=True)] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream_options: ResponseStreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    # Of a service that keeps answers; refused with what to do instead.
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None
    store: bool | None = None
    prompt: dict[str, Any] | None = None
    # Of other servers, for the template.
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> ResponsesBody:
        if self.top_logprobs and not self.wants_logprobs:
            raise complete(f"top_logprobs={self.top_logprobs} needs include=[{_LOGPROBS!r}]")
        return self

    @property
    def wants_logprobs(self) -> bool:
        return _LOGPROBS in (self.include or ())

    def chat(self) -> ChatBody:
        """The chat that is asked for.

        Raises:
            UnsupportedError: it needs something kept between requests.
            RequestError: an item of the input is wrong.
        """
        for name, instead in _STATELESS.items():
            if value := getattr(self, name):
                shown = f"{value!r:.{_MOST_SHOWN_CHARS}}"
                message = f"{name}={shown} was asked, and this server keeps nothing between requests"
                raise UnsupportedError("request.unsupported", message, instead)
        choice: ToolChoice | None = None
        if self.tool_choice is not None:
            choice = self.tool_choice if isinstance(self.tool_choice, str) else self.tool_choice.nested
        form = self.text.format if self.text is not None else None
        return ChatBody.model_construct(  # each field has been checked as part of this body
            **{name: getattr(self, name) for name in TextBody.model_fields},
            messages=messages_of(self.input, self.instructions),
            max_completion_tokens=self.max_output_tokens,
            response_format=form.nested if form is not None else None,
            tools=[each.nested for each in self.tools or ()],
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls,
            logprobs=self.wants_logprobs,
            top_logprobs=self.top_logprobs,
            reasoning_effort=self.reasoning.effort if self.reasoning is not None else None,
            verbosity=self.text.verbosity if self.text is not None else None,
            chat_template_kwargs=self.chat_template_kwargs,
            documents=self.documents,
        )

    def repeated(self) -> dict[str, Any]:
        """What an answer repeats of it, with what holds where it says nothing."""
        chosen = self.tool_choice or "auto"
        form = self.text.format if self.text is not None else None
        return {
            "background": False,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": (self.reasoning or ReasoningConfig()).model_dump(),
            "safety_identifier": self.safety_identifier,
            "service_tier": "default",
            "store": False,
            "text": {
                "format": form.shown() if form is not None else {"type": "text"},
                "verbosity": (self.text.verbosity if self.text is not None else None) or "medium",
            },
            "tool_choice": chosen if isinstance(chosen, str) else chosen.model_dump(),
            "tools": [tool.model_dump() for tool in self.tools or ()],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": "disabled",
            "user": self.user,
        }
