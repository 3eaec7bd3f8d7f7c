# SPDX-License-Identifier: Apache-2.0
"""The tools of a request, as OpenAI's chat completions have them: their definitions, and which ones may be called.

Source: ``tools``, ``tool_choice`` and ``parallel_tool_calls`` of OpenAI's API.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lmi.serving.bodies import complete

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


class Function(BaseModel):
    """A function that a model may call.

    ``strict`` is taken and changes nothing: calls follow the schema wherever ``tool_choice`` asks for one.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

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


class Tool(BaseModel):
    """One entry of ``tools``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["function"]
    function: Function

    @property
    def name(self) -> str:
        return self.function.name


def _unique(tools: list[Tool]) -> list[Tool]:
    twice = [name for name, count in Counter(tool.name for tool in tools).items() if count > 1]
    if twice:
        raise complete(f"tools: {', '.join(map(repr, twice))} is defined more than once; every name must be unique")
    return tools


Tools = Annotated[list[Tool], Field(max_length=MOST_TOOLS), AfterValidator(_unique)]
"""The field ``tools`` of a body."""


class NamedFunction(BaseModel):
    """The function that must be called."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str


class NamedTool(BaseModel):
    """``{"type": "function", "function": {"name": ...}}``: this one must be called."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool
"""The field ``tool_choice`` of a body."""
