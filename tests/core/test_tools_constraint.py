# SPDX-License-Identifier: Apache-2.0
"""The schema of an answer that must be calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from lmi.api import RequestError
from lmi.api.requests import Constraint
from lmi.serving.tools.choice import new_parser
from lmi.serving.tools.constraint import constraint_for
from lmi.serving.tools.definitions import Decision, NamedTool, Tools
from lmi.serving.tools.deltas import CallArguments, CallStart

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TREE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/tree",
    "type": "object",
    "properties": {
        "kind": {"$ref": "#/$defs/kind"},
        "below": {"type": "array", "items": {"$ref": "#"}},
        "$ref": {"type": "integer"},
        "sample": {"const": {"$ref": "#/kept"}},
    },
    "$defs": {"kind": {"enum": ["oak", "#/$defs/kept"]}},
    "required": ["kind"],
    "additionalProperties": False,
}
TOOLS = TypeAdapter(Tools).validate_python(
    [
        {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
        {"type": "function", "function": {"name": "plant", "parameters": TREE}},
        {"type": "function", "function": {"name": "now"}},
    ]
)
PLANT = NamedTool.model_validate({"type": "function", "function": {"name": "plant"}})


def schema_for(choice: Decision, *, parallel: bool = True) -> dict[str, Any]:
    constraint = constraint_for(TOOLS, choice, parallel)
    assert constraint is not None
    assert constraint.kind == "json_schema"
    schema: dict[str, Any] = json.loads(constraint.source)
    return schema


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_model_that_may_decide_is_not_constrained(choice):
    assert constraint_for(TOOLS, choice) is None


def test_required_is_a_list_of_calls_each_with_the_schema_of_its_function():
    schema = schema_for("required")
    assert (schema["type"], schema["minItems"]) == ("array", 1)
    for call, name in zip(schema["items"]["anyOf"], ["get_weather", "plant", "now"], strict=True):
        assert call["properties"]["name"] == {"enum": [name]}
        assert call["properties"]["arguments"] == {"$ref": f"#/$defs/{name}"}
        assert call["required"] == ["name", "arguments"]
        assert call["additionalProperties"] is False
    assert schema["$defs"]["get_weather"] == CITY
    assert schema["$defs"]["now"] == {"type": "object", "properties": {}, "additionalProperties": False}


def test_one_call_at_a_time_is_an_object():
    assert [each["properties"]["name"] for each in schema_for("required", parallel=False)["anyOf"]] == [
        {"enum": ["get_weather"]}, {"enum": ["plant"]}, {"enum": ["now"]},
    ]  # fmt: skip


def test_a_named_tool_is_the_only_one_and_is_called_once():
    schema = schema_for(PLANT)
    assert schema["type"] == "object"
    assert schema["properties"]["name"] == {"enum": ["plant"]}
    assert list(schema["$defs"]) == ["plant"]


def test_references_within_parameters_go_on_to_work_and_values_stay():
    plant = schema_for(PLANT)["$defs"]["plant"]
    properties = plant["properties"]
    assert properties["kind"] == {"$ref": "#/$defs/plant/$defs/kind"}
    assert properties["below"] == {"type": "array", "items": {"$ref": "#/$defs/plant"}}
    assert properties["$ref"] == {"type": "integer"}
    assert properties["sample"] == {"const": {"$ref": "#/kept"}}
    assert plant["$defs"] == TREE["$defs"]
    assert "$id" not in plant


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        (TOOLS, "pant", "tool_choice names 'pant', which is not among the tools. Did you mean 'plant'?"),
        (TOOLS, "zzzzzzz", "Tools: get_weather, plant, now"),
        ([], "plant", "Tools: none"),
        ([], "required", "tool_choice='required' needs tools"),
    ],
)
def test_a_tool_that_is_not_there_cannot_be_chosen(tools, choice, said):
    if choice != "required":
        choice = NamedTool.model_validate({"type": "function", "function": {"name": choice}})
    with pytest.raises(RequestError) as caught:
        constraint_for(tools, choice)
    assert caught.value.code == "request.invalid"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("choice", "parallel", "answer", "is_taken"),
    [
        ("required", True, '[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]', True),
        ("required", True, '[{"name": "get_weather", "arguments": {"city": "B", "in": "C"}}]', True),
        ("required", True, '[{"name": "plant", "arguments": {"kind": "oak", "below": [{"kind": "oak"}]}}]', True),
        ("required", True, '[{"name": "plant", "arguments": {"kind": "elm"}}]', False),
        ("required", True, '[{"name": "now", "arguments": {"city": "B"}}]', False),
        ("required", True, '[{"name": "get_weather", "arguments": {}}]', False),
        ("required", True, '[{"name": "later", "arguments": {}}]', False),
        ("required", True, "[]", False),
        ("required", True, '{"name": "now", "arguments": {}}', False),
        ("required", False, '{"name": "now", "arguments": {}}', True),
        ("required", False, '[{"name": "now", "arguments": {}}]', False),
        (PLANT, True, '{"name": "plant", "arguments": {"kind": "oak"}}', True),
        (PLANT, True, '{"name": "now", "arguments": {}}', False),
    ],
)  # fmt: skip
def test_what_the_library_lets_a_model_write_is_what_the_parser_reads(choice, parallel, answer, is_taken):
    constraint = constraint_for(TOOLS, choice, parallel)
    assert constraint is not None
    assert allows(constraint, answer) is is_taken
    if is_taken:
        parser = new_parser("json", [tool.name for tool in TOOLS])
        assert parser is not None
        deltas = [*parser.push(answer), *parser.finish()]
        assert all(isinstance(each, CallStart | CallArguments) for each in deltas)
        calls = json.loads(answer)
        n_calls = len(calls) if isinstance(calls, list) else 1
        assert sum(isinstance(each, CallStart) for each in deltas) == n_calls


def allows(constraint: Constraint, answer: str) -> bool:
    """Whether a model may write this and nothing more, a byte a token."""
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    class Bytes:
        eos_token_id, bos_token_id = 256, None
        tokens = [bytes([value]) for value in range(256)] + [b"<eos>"]
        special_token_ids = [256]

        def __call__(self, text: bytes | str) -> list[int]:
            return list(text.encode() if isinstance(text, str) else text)

    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(Bytes())), LLMatcher.grammar_from_json_schema(constraint.source))
    assert not matcher.get_error()
    ids = list(answer.encode())
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())
