# SPDX-License-Identifier: Apache-2.0
"""Calls of tools in the words of each family of models."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmi.serving.tools.choice import PARSERS, new_parser
from lmi.serving.tools.deltas import CallArguments, CallStart, Content, merged
from tests.core.tool_answers import NAMES, parsed, read, shown

WEATHER = '{"city": "Kraków", "days": [1, 2.5e-3, {"x": null}]}'
CODE = '{"code": "if (a) { b[\\"c\\"] = \'}\'; } // </tool_call> [TOOL_CALLS] \\\\", "n": -0}'

GOLDEN: dict[str, dict[str, list[Any]]] = {
    "hermes": {
        f'<tool_call>\n{{"name": "get_weather", "arguments": {WEATHER}}}\n</tool_call>': [("get_weather", WEATHER)],
        f'<tool_call>\n{{"name": "f", "arguments": {CODE}}}\n</tool_call>': [("f", CODE)],
        f'I\'ll look.\n<tool_call>\n{{"arguments": {WEATHER}, "name": "f"}}\n</tool_call>\n': [
            "I'll look.\n", ("f", WEATHER),
        ],
        '\n\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "other", "arguments": '
        '{"a":\n 1}}\n</tool_call>': [("f", "{}"), ("other", '{"a":\n 1}')],
        '<tool_call>{"name": "f", "arguments": {}}<tool_call>{"name": "f"}</tool_call> Done': [
            ("f", "{}"), ("f", "{}"), " Done",
        ],
        '<tool_call>\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>': ["<tool_call>\n", ("f", "{}")],
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"ü\\"}"}</tool_call>': [("f", '{"a": "ü"}')],
        '<tool_call>{"id": 7, "name": "f", "arguments": null, "x": [{}, []]}</tool_call>': [("f", "{}")],
        '<tool_call>{"name": "f", "arguments": {"text": "one\ntwo\t\x00"}}</tool_call>': [
            ("f", '{"text": "one\\ntwo\\t\\u0000"}'),
        ],
        '<tool_call>{"name": "f", "arguments": {}, "name": "g", "parameters": {"a": 1}}</tool_call>': [("f", "{}")],
        "a <tool_call without the rest, 1 < 2 and <tool_": ["a <tool_call without the rest, 1 < 2 and <tool_"],
        "  \n": ["  \n"],
        "": [],
    },
    "llama3_json": {
        f'{{"name": "get_weather", "parameters": {WEATHER}}}': [("get_weather", WEATHER)],
        f'\n<|python_tag|>{{"name": "f", "parameters": {CODE}}}': [("f", CODE)],
        '{"type": "function", "name": "f", "parameters": {}}; {"name": "f", "arguments": {"a": 1}};': [
            ("f", "{}"), ("f", '{"a": 1}'),
        ],
        '<|python_tag|>{"name": "f", "parameters": {}}; <|python_tag|>{"name": "f", "parameters": {}}<|python_tag|>'
        '{"name": "f", "parameters": {}}\n{"name": "f", "parameters": {}}\n': [("f", "{}")] * 4,
        'Let me see. <|python_tag|>{"name": "f", "parameters": {}}': ["Let me see. ", ("f", "{}")],
        'Let me see. {"name": "f", "parameters": {}}': ['Let me see. {"name": "f", "parameters": {}}'],
        '{"name": "f", "parameters": {}}; and {"more": 1}': [("f", "{}"), '; and {"more": 1}'],
        '<|python_tag|>search.call(query="x")': ['<|python_tag|>search.call(query="x")'],
    },
    "mistral": {
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {WEATHER}}}]': [("get_weather", WEATHER)],
        f'[TOOL_CALLS][{{"name": "f", "arguments": {CODE}, "id": "abcdefghi"}},\n{{"name": "g", "arguments": {{}}}}]': [
            ("f", CODE), ("g", "{}"),
        ],
        f"I'll look.[TOOL_CALLS]get_weather[ARGS]{WEATHER}": ["I'll look.", ("get_weather", WEATHER)],
        '[TOOL_CALLS]f{"a": "[ARGS]"}[TOOL_CALLS]g-1.b[CALL_ID]a1B2c3D4e[ARGS] {}': [
            ("f", '{"a": "[ARGS]"}'), ("g-1.b", "{}"),
        ],
        '[TOOL_CALLS][{"name": "f", "arguments": {}}] as asked': [("f", "{}"), " as asked"],
        "a [TOOL_CALL] is written [TOOL_CALLS] and then": ["a [TOOL_CALL] is written [TOOL_CALLS] and then"],
        "[TOOL_CALLS][]": ["[TOOL_CALLS][]"],
        "[TOOL_CALLS]f[TOOL_CALLS]g{}": ["[TOOL_CALLS]f", ("g", "{}")],
        "[TOOL_CALLS]f[ARGS]no": ["[TOOL_CALLS]f[ARGS]no"],
    },
    "json": {
        f'{{"name": "get_weather", "arguments": {WEATHER}}}': [("get_weather", WEATHER)],
        f'[{{"name": "f", "parameters": {CODE}}}, {{"name": "f", "arguments": {{}}}}]\n': [("f", CODE), ("f", "{}")],
        '```json\n{"name": "f", "arguments": {}}\n```': [("f", "{}")],
        '```\n[ {"name": "f", "arguments": {}} ]```\n': [("f", "{}")],
        'Here: {"name": "f", "arguments": {}}': ['Here: {"name": "f", "arguments": {}}'],
        '```python\n{"name": "f", "arguments": {}}\n```': ['```python\n{"name": "f", "arguments": {}}\n```'],
        '{"name": "f", "arguments": {}} and more': [("f", "{}"), " and more"],
        '[{"name": "f", "arguments": {}}, {"name": "unknown", "arguments": {}}]': [
            ("f", "{}"), ', {"name": "unknown", "arguments": {}}]',
        ],
        "[1, 2]": ["[1, 2]"],
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in GOLDEN.items() for text in texts])
def test_what_models_write_is_told_apart(name, text):
    assert read(name, text) == GOLDEN[name][text]
    assert shown(parsed(name, list(text))) == GOLDEN[name][text]
    assert shown(parsed(name, [text], is_streamed=False)) == GOLDEN[name][text]
    for each in GOLDEN[name][text]:
        assert isinstance(each, str) or isinstance(json.loads(each[1]), dict)


# What stands around the object of a call in each format, and where an object alone is enough.
AROUND = {
    "hermes": ("<tool_call>\n", "\n</tool_call>"),
    "llama3_json": ("<|python_tag|>", ""),
    "mistral": ("[TOOL_CALLS][", "]"),
    "json": ("[", "]"),
}

NO_CALLS = [
    '{"name": 5, "arguments": {}}',
    '{"name": "", "arguments": {}}',
    '{"name": "\\ud800", "arguments": {}}',
    '{"name": "f", "arguments": 5}',
    '{"name": "f", "arguments": [1]}',
    '{"name": "f", "arguments": "text"}',
    '{"name": "f", "arguments": "[1]"}',
    '{"name": "f", "arguments": "{\\"a\\": NaN}"}',
    '{"name": "f", "arguments": "{\\"a\\": \\"\\ud800\\"}"}',
    '{"name": "f" "arguments": {}}',
    '{"name": "f", arguments: {}}',
    "{'name': 'f', 'arguments': {}}",
    '{"name": "f",, "arguments": {}}',
    '{"arguments": {}}',
    '{"arguments": {"a": tru}, "name": "f"}',
    "{}",
    "[]",
    "f()",
]


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("written", NO_CALLS)
def test_what_is_no_call_is_content_as_it_was_written(name, written):
    text = written.join(AROUND[name])
    assert read(name, text) == [text]


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize(
    ("arguments", "n_valid"),
    [
        ('{"a": 01}', 7), ('{"a": 1.}', 8), ('{"a": -}', 7), ('{"a": 1e+}', 9), ('{"a": .5}', 6), ('{"a": NaN}', 6),
        ('{"a": True}', 6), ('{"a": trux}', 9), ('{"a": \'b\'}', 6), ('{"a": "\\x"}', 8), ('{"a": "\\u12g4"}', 11),
        ('{"a": 1,}', 8), ('{"a": [1,]}', 9), ('{"a": [1}', 8), ('{"a" 1}', 5), ('{"a": 1]', 7), ('{a: 1}', 1),
        ('{,}', 1),
    ],
)  # fmt: skip
def test_malformed_arguments_end_a_streamed_call_and_make_a_whole_one_content(name, arguments, n_valid):
    text = f'{{"name": "f", "arguments": {arguments}}}'.join(AROUND[name])
    begin = text.index(arguments) + n_valid
    assert read(name, text) == [("f", arguments[:n_valid]), text[begin:]]
    assert shown(parsed(name, [text], is_streamed=False)) == [text]


@pytest.mark.parametrize("name", AROUND)
def test_what_is_malformed_behind_the_arguments_is_content_once(name):
    text = '{"name": "f", "arguments": {"a": 1}, oops}'.join(AROUND[name])
    assert read(name, text) == [("f", '{"a": 1}'), text[text.index(", oops") :]]
    assert shown(parsed(name, [text], is_streamed=False)) == [text]


UNFINISHED: dict[str, dict[str, list[Any]]] = {
    "hermes": {
        "<tool_c": ["<tool_c"],
        "<tool_call>\n": ["<tool_call>\n"],
        '<tool_call>\n{"name": "get_we': ['<tool_call>\n{"name": "get_we'],
        '<tool_call>\n{"name": "f"': [("f", "")],
        '<tool_call>\n{"name": "f", "arguments": {"a": "b': [("f", '{"a": "b')],
        '<tool_call>\n{"name": "f", "arguments": {"a": tr': [("f", '{"a": tr')],
        '<tool_call>\n{"name": "f", "arguments": {"a": "\\u00': [("f", '{"a": "\\u00')],
        '<tool_call>\n{"arguments": {"a": 1}, "name": "f': ['<tool_call>\n{"arguments": {"a": 1}, "name": "f'],
        '<tool_call>\n{"name": "f", "arguments": {}': [("f", "{}")],
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool': [("f", "{}")],
    },
    "llama3_json": {
        '{"name": "f"': ['{"name": "f"'],
        '{"name": "f", "parameters": {"a"': [("f", '{"a"')],
        '{"name": "f", "parameters": {}}; {"na': [("f", "{}"), '; {"na'],
        '{"name": "f", "parameters": {}}; ': [("f", "{}")],
    },
    "mistral": {
        "[TOOL_CALLS]get_we": ["[TOOL_CALLS]get_we"],
        "[TOOL_CALLS]f[AR": [("f", "")],
        "[TOOL_CALLS]f[CALL_ID]123": [("f", "")],
        '[TOOL_CALLS]f[ARGS]{"a": [': [("f", '{"a": [')],
        '[TOOL_CALLS][{"name": "f", "arguments": {}}, ': [("f", "{}")],
    },
    "json": {"``": ["``"], "```js": ["```js"], '[{"name": "f", "arguments": {"a": -': [("f", '{"a": -')]},
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in UNFINISHED.items() for text in texts])
def test_a_call_that_the_text_ends_in_is_given_as_far_as_it_goes(name, text):
    assert read(name, text) == UNFINISHED[name][text]
    assert shown(parsed(name, [text], is_streamed=False)) == UNFINISHED[name][text]


@pytest.mark.parametrize(
    ("name", "is_call"), [("hermes", True), ("mistral", True), ("llama3_json", False), ("json", False)]
)
def test_a_name_that_is_no_tool_makes_content_where_nothing_else_marks_a_call(name, is_call):
    text = '{"name": "unknown", "arguments": {}}'.join(AROUND[name])
    assert read(name, text) == ([("unknown", "{}")] if is_call else [text])


@pytest.mark.parametrize(
    ("name", "pieces", "given"),
    [
        ("hermes", ["Hello", " wor", "ld <", "b> <tool", "_call"], ["Hello", " wor", "ld ", "<b> ", ""]),
        ("mistral", ["Hello [", "TOOL", "] x"], ["Hello ", "", "[TOOL] x"]),
        ("llama3_json", ["Hel", "lo {", "x}"], ["Hel", "lo {", "x}"]),
        ("json", ['{"answ', 'er":', " 5}"], ["", '{"answer":', " 5}"]),
        ("json", ["\n", "Hi"], ["", "\nHi"]),
    ],
)
def test_content_is_given_at_once_unless_a_call_may_begin_with_it(name, pieces, given):
    parser = PARSERS[name](NAMES)
    assert ["".join(each.text for each in parser.push(piece) if isinstance(each, Content)) for piece in pieces] == given


@pytest.mark.parametrize("name, begin", [("json", ""), ("mistral", "[TOOL_CALLS]")])
@pytest.mark.parametrize("rest", [",", ", ", ", {", ',\n{"na', ', {"name": "f'])
@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_list_that_is_cut_in_its_next_call_has_no_content(name, begin, rest, is_streamed):
    parser = PARSERS[name](NAMES, is_streamed=is_streamed)
    deltas = [*parser.push(f'{begin}[{{"name": "f", "arguments": {{}}}}{rest}'), *parser.finish()]
    assert merged(deltas) == [CallStart(0, "f"), CallArguments(0, "{}")]


@pytest.mark.parametrize("name", AROUND)
def test_arguments_are_given_as_they_come(name):
    parser = PARSERS[name](NAMES)
    begin, _ = AROUND[name]
    assert parser.push(f'{begin}{{"name": "f", "arguments":') == []
    assert parser.push(" {") == [CallStart(0, "f"), CallArguments(0, "{")]
    for piece in ('"a', 'ä": "', "}", "\\", '"', '", "b": [tr', "ue, 1", ".5", "]\n"):
        assert parser.push(piece) == [CallArguments(0, piece)]
    assert parser.push("}") == [CallArguments(0, "}")]
    assert parser.push("}") == []


def test_calls_are_numbered_in_their_order():
    deltas = parsed("mistral", ["[TOOL_CALLS]f{}[TOOL_CALLS]g{}x[TOOL_CALLS]h{}"])
    assert [(each.index, each.name) for each in deltas if isinstance(each, CallStart)] == [(0, "f"), (1, "g"), (2, "h")]
    assert [each.index for each in deltas if isinstance(each, CallArguments)] == [0, 1, 2]


def test_a_format_that_is_none_has_no_parser():
    assert new_parser("none", NAMES) is None
    assert type(new_parser("hermes", NAMES)) is PARSERS["hermes"]
