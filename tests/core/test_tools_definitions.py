# SPDX-License-Identifier: Apache-2.0
"""The tools of a request."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletionFunctionToolParam
from pydantic import BaseModel, ConfigDict, TypeAdapter

from lmi.api import RequestError
from lmi.serving.bodies import validated
from lmi.serving.tools.definitions import AllowedTools, ToolChoice, Tools, offered


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tools: Tools | None = None
    tool_choice: ToolChoice = "auto"


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def test_tools_are_read_as_clients_write_them():
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    written: list[ChatCompletionFunctionToolParam] = [
        {
            "type": "function",
            "function": {"name": "get-weather_2", "description": "It.", "parameters": schema, "strict": True},
        },
        {"type": "function", "function": {"name": "x" * 64}},
    ]
    tools = validated(Body, {"tools": written}).tools
    assert tools is not None
    assert [each.name for each in tools] == ["get-weather_2", "x" * 64]
    assert tools[0].function.schema_of_arguments == schema
    assert tools[1].function.schema_of_arguments == {
        "type": "object", "properties": {}, "additionalProperties": False,
    }  # fmt: skip
    assert [each.model_dump(exclude_none=True) for each in tools] == written


@pytest.mark.parametrize("parameters", [{}, {"properties": {}}, {"type": "object"}])
def test_parameters_are_of_the_type_object_where_they_do_not_say_so(parameters):
    (read,) = validated(Body, {"tools": [tool(parameters=parameters)]}).tools or []
    assert read.function.schema_of_arguments == {"type": "object", **parameters}


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([{"type": "custom", "custom": {}}], "tools.0.type='custom': input should be 'function'"),
        ([{"type": "function"}], "tools.0.function is missing"),
        ([tool(naem="f")], "tools.0.function.naem is not a parameter"),
        ([tool("a b")], "tools.0.function.name='a b': string should match pattern"),
        ([tool("")], "tools.0.function.name='': string should match pattern"),
        ([tool("x" * 65)], "string should match pattern"),
        ([tool("f\n")], "string should match pattern"),
        ([tool(parameters=[])], "tools.0.function.parameters=[]: input should be a valid dictionary"),
        ([tool(parameters={"type": "array"})], "input should be a JSON schema with the type 'object', not 'array'"),
        ([tool(parameters={"x": "y" * 70000})], "the schema has 70009 characters; at most 65536 are taken"),
        ([tool("f"), tool("g"), tool("f")], "tools: 'f' is defined more than once; every name must be unique"),
        ([tool(f"f{i}") for i in range(129)], "at most 128 items"),
        ({}, "tools={}: input should be a valid list"),
    ],
)
def test_a_wrong_definition_is_named_with_its_value_and_the_bound(tools, said):
    with pytest.raises(RequestError) as caught:
        validated(Body, {"tools": tools})
    assert caught.value.code == "request.invalid"
    assert said in str(caught.value)


def test_as_many_tools_as_the_bound_are_taken():
    assert len(validated(Body, {"tools": [tool(f"f{i}") for i in range(128)]}).tools or []) == 128


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


CHOICES = ["none", "auto", "required", {"type": "function", "function": {"name": "f"}}, allowed("f", "g")]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_tools_is_read(choice):
    read = TypeAdapter[Any](ToolChoice).validate_python(choice)
    assert (read if isinstance(read, str) else read.model_dump()) == choice


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("sometimes", "tool_choice.word='sometimes': input should be 'none', 'auto' or 'required'"),
        ({"type": "web_search"}, "tool_choice must be 'none', 'auto', 'required', or an object of type 'function' or"),
        ({}, "tool_choice must be 'none'"),
        ({"type": "function"}, "tool_choice.function.function is missing"),
        (allowed(), "tool_choice.allowed_tools.allowed_tools.tools=[]: list should have at least 1 item"),
        (allowed("f", mode="none"), "mode='none': input should be 'auto' or 'required'"),
    ],
)
def test_a_wrong_choice_is_named(choice, said):
    with pytest.raises(RequestError) as caught:
        validated(Body, {"tools": [tool()], "tool_choice": choice})
    assert said in str(caught.value)


def test_of_allowed_tools_a_model_is_shown_no_others():
    tools = validated(Body, {"tools": [tool("f"), tool("g"), tool("h")]}).tools or []
    choice = AllowedTools.model_validate(allowed("h", "f", mode="required"))
    shown, decision = offered(tools, choice)
    assert [each.name for each in shown] == ["f", "h"]
    assert decision == "required"
    with pytest.raises(RequestError, match=r"names 'e', which is not among the tools.*Tools: f, g, h"):
        offered(tools, AllowedTools.model_validate(allowed("f", "e")))
    assert offered(tools, "none") == ([], "none")
    assert offered(tools, None) == (tools, "auto")
