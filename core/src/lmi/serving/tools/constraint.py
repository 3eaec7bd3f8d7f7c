# SPDX-License-Identifier: Apache-2.0
"""What makes a model call a tool where the request says that it must."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lmi.api.errors import RequestError
from lmi.api.requests import Constraint
from lmi.serving.tools.definitions import Decision, NamedTool, Tool, tool_named

_MAPS_OF_SCHEMAS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_VALUES = frozenset(("enum", "const", "default", "examples"))
_OF_WHOLE_SCHEMAS = frozenset(("$schema", "$id"))


def constraint_for(tools: Sequence[Tool], tool_choice: Decision, parallel: bool = True) -> Constraint | None:
    """The schema of an answer that must be calls; None where the model decides.

    The answer is a list of calls, at least one; a single call where a tool is named or ``parallel`` is false. The
    parser ``json`` reads it.

    Args:
        tools: of the request.
        tool_choice: whether tools must be called, or the one that must be.
        parallel: whether there may be several calls.
    Raises:
        RequestError: there is no such tool, or none at all.
    """
    if isinstance(tool_choice, NamedTool):
        tools, parallel = [tool_named(tools, tool_choice.function.name)], False
    elif tool_choice != "required":
        return None
    if not tools:
        raise RequestError("request.invalid", "tool_choice='required' needs tools", "Give tools, or leave it out")
    calls = [_call_schema(tool.name) for tool in tools]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if parallel:
        schema = {"type": "array", "items": schema, "minItems": 1}
    definitions = {tool.name: _moved(tool.function.schema_of_arguments, _place(tool.name)) for tool in tools}
    source = json.dumps({**schema, "$defs": definitions}, ensure_ascii=False)
    return Constraint(kind="json_schema", source=source)


def _call_schema(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"enum": [name]}, "arguments": {"$ref": _place(name)}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _place(name: str) -> str:
    return f"#/$defs/{name}"


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references within itself go on to work from where it is put."""
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _OF_WHOLE_SCHEMAS:
            continue
        if key in _VALUES:
            moved[key] = value
        elif key in _MAPS_OF_SCHEMAS and isinstance(value, dict):
            moved[key] = {name: _moved(each, place) for name, each in value.items()}
        elif key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            moved[key] = place + value[1:]
        else:
            moved[key] = _moved(value, place)
    return moved
