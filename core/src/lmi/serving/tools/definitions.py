# SPDX-License-Identifier: Apache-2.0
"""The tools of a request, as OpenAI's chat completions have them: their definitions, and which ones may be called.

Source: ``tools``, ``tool_choice`` and ``parallel_tool_calls`` of OpenAI's API.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag

from lmi.api.errors import RequestError
from lmi.config.names import did_you_mean
from lmi.serving.bodies import Part, complete

MOST_TOOLS = 128
_MOST_SCHEMA_CHARS = 65536

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise ValueError(f"input should be a JSON schema with the type 'object', not {schema['type']!r}")
    n_chars = len(json.dumps(schema, ensure_ascii=False))
    if n_chars > _MOST_SCHEMA_CHARS:
        raise ValueError(f"the schema has {n_chars} characters; at most {_MOST_SCHEMA_CHARS} are taken")
    return schema


class Function(Part):
    """A function that a model may call.

    ``strict`` is taken and changes nothing: calls follow the schema wherever ``tool_choice`` asks for one.
    """

    model_config = ConfigDict(frozen=True)

    name: ToolName
    description: str | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_object_schema)] | None = None
    strict: bool | None = None

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """The schema of its arguments; without parameters, of an empty object."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}


class Tool(Part):
    """One entry of ``tools``."""

    model_config = ConfigDict(frozen=True)

    type: Literal["function"]
    function: Function

    @property
    def name(self) -> str:
        return self.function.name


Named = TypeVar("Named", bound="Tool | Function")


def unique(tools: list[Named]) -> list[Named]:
    """Tools, refused where two have one name."""
    twice = [name for name, count in Counter(tool.name for tool in tools).items() if count > 1]
    if twice:
        raise complete(f"tools: {', '.join(map(repr, twice))} is defined more than once; every name must be unique")
    return tools


Tools = Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True), AfterValidator(unique)]
"""The field ``tools`` of a body."""


class NamedFunction(Part):
    """The function that must be called."""

    model_config = ConfigDict(frozen=True)

    name: str


class NamedTool(Part):
    """``{"type": "function", "function": {"name": ...}}``: this one must be called."""

    model_config = ConfigDict(frozen=True)

    type: Literal["function"]
    function: NamedFunction


class AllowedChoice(Part):
    """Which tools are allowed, and whether one of them must be called."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=MOST_TOOLS, fail_fast=True)


class AllowedTools(Part):
    """``{"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}``: these and no others."""

    model_config = ConfigDict(frozen=True)

    type: Literal["allowed_tools"]
    allowed_tools: AllowedChoice


def kind_of_choice(choice: Any) -> str:
    """Which of its forms a ``tool_choice`` has: what tells them apart before one of them is read."""
    kind = choice.get("type") if isinstance(choice, dict) else getattr(choice, "type", "word")
    return str(kind)


OPEN_CHOICES = Discriminator(
    kind_of_choice,
    custom_error_type="complete",
    custom_error_message="tool_choice must be 'none', 'auto', 'required', or an object of type 'function' or "
    "'allowed_tools'",
)
"""What a ``tool_choice`` may be; tools that a service brings along are none."""

Word: TypeAlias = Literal["none", "auto", "required"]
Decision: TypeAlias = Word | NamedTool
"""What is said of all tools that a model may call."""

ToolChoice: TypeAlias = Annotated[
    Annotated[Word, Tag("word")]
    | Annotated[NamedTool, Tag("function")]
    | Annotated[AllowedTools, Tag("allowed_tools")],
    OPEN_CHOICES,
]
"""The field ``tool_choice`` of a body."""


def tool_named(tools: Sequence[Tool], name: str) -> Tool:
    """The tool that a ``tool_choice`` names.

    Raises:
        RequestError: there is no such tool.
    """
    names = [tool.name for tool in tools]
    if name in names:
        return tools[names.index(name)]
    message = f"tool_choice names {name!r}, which is not among the tools"
    raise RequestError("request.invalid", message, did_you_mean(name, names, f"Tools: {', '.join(names) or 'none'}"))


def offered(tools: Sequence[Tool], choice: ToolChoice | None) -> tuple[list[Tool], Decision]:
    """The tools that a model is shown, and what is said of them.

    Args:
        tools: of the request.
        choice: its ``tool_choice``; None where it has none.
    Raises:
        RequestError: a tool is allowed that is not there.
    """
    if choice is None:
        choice = "auto" if tools else "none"
    if isinstance(choice, AllowedTools):
        allowed = {tool_named(tools, each.function.name).name for each in choice.allowed_tools.tools}
        return [tool for tool in tools if tool.name in allowed], choice.allowed_tools.mode
    return ([] if choice == "none" else list(tools)), choice
