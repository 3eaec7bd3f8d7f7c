# SPDX-License-Identifier: Apache-2.0
"""What callers send as messages, and what a template wants of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from lmi.api import RequestError, UnsupportedError
from lmi.serving.chat_environment import compiled
from lmi.serving.chat_files import ChatFiles, TemplateSource
from lmi.serving.chat_messages import ROLES, given_kwargs, given_messages, given_objects
from lmi.serving.chat_template import ChatTemplate
from lmi.serving.chat_wants import ContentForm, Wants

TEXT, PARTS, EITHER = (Wants(form, knows_developer=False) for form in ContentForm)

# ---------------------------------------------------------------------------------------------- what a template wants

SHOWING = "{% macro show(c) %}{% if c is not string %}{% for p in c %}{{ p }}{% endfor %}{% endif %}{% endmacro %}"
IN_LOOP = "{{% for message in messages %}}{}{{% endfor %}}"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("{{ messages[0].content }}", "text"),
        (IN_LOOP.format("{{ message['content'] | trim }}"), "text"),
        (IN_LOOP.format("{% for line in message.content.split('\n') %}{{ line }}{% endfor %}"), "text"),
        (IN_LOOP.format("{% if message.content is string %}{{ message.content }}{% endif %}"), "text"),
        (IN_LOOP.format("{% for call in message.tool_calls %}{{ call.content }}{% endfor %}"), "text"),
        ("{% for each in documents %}{% for x in each.content %}{{ x }}{% endfor %}{% endfor %}", "text"),
        (IN_LOOP.format("{% for part in message.content %}{{ part.text }}{% endfor %}"), "parts"),
        (IN_LOOP.format("{% for part in message['content'] %}{{ part.text }}{% endfor %}"), "parts"),
        (IN_LOOP.format("{% for part in message.get('content') %}{{ part.text }}{% endfor %}"), "parts"),
        (IN_LOOP.format("{% set c = message.content or [] %}{% for p in c %}{{ p.text }}{% endfor %}"), "parts"),
        (IN_LOOP.format("{{ message.content | selectattr('type') | map(attribute='text') | join }}"), "parts"),
        ("{% for part in messages[0].content %}{{ part.text }}{% endfor %}", "parts"),
        ("{% for part in (messages | first).content %}{{ part.text }}{% endfor %}", "parts"),
        ("{% set rest = messages[1:] %}{% for m in rest[::-1] %}{% for p in m.content %}{% endfor %}{% endfor %}",
         "parts"),
        (IN_LOOP.format("{% if message.content is string %}a{% endif %}{% for p in message.content %}{% endfor %}"),
         "either"),
        (SHOWING + IN_LOOP.format("{{ show(message.content) }}"), "either"),
        (SHOWING + IN_LOOP.format("{{ show(c=message.content) }}"), "either"),
        (SHOWING + IN_LOOP.format("{{ show(message.name) }}"), "text"),
    ],
)  # fmt: skip
def test_a_template_that_goes_over_contents_takes_parts(text, form):
    assert compiled(text).wants.content.value == form


@pytest.mark.parametrize(
    ("content_format", "written"), [("auto", "['one']one\ntwo"), ("string", "['one']one\ntwo"), ("openai", None)]
)
def test_the_form_of_contents_can_be_chosen(content_format, written):
    text = "{{ [messages[0].content] }}{{ messages[1].content }}"
    messages = [{"role": "user", "content": "one"}, {"role": "user", "content": ["one", "two"]}]
    files = ChatFiles(templates={"default": TemplateSource(text, "")})
    found = ChatTemplate(files, content_format).render(messages)
    parts = [{"type": "text", "text": each} for each in ("one", "two")]
    assert found == (f"{[parts[:1]]}{parts}" if written is None else written)


@pytest.mark.parametrize(
    ("text", "role"),
    [
        (IN_LOOP.format("{{ message.role }}"), "system"),
        (IN_LOOP.format("{% if message.role in ['system', 'developer'] %}{{ message.role }}{% endif %}"), "developer"),
        (IN_LOOP.format("{% if message.role == 'developer' %}{{ message.role }}{% endif %}"), "developer"),
    ],
)
def test_a_developer_speaks_as_the_system_where_the_template_knows_none(text, role):
    files = ChatFiles(templates={"default": TemplateSource(text, "")})
    assert ChatTemplate(files).render([{"role": "developer", "content": "x"}]) == role


# ----------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("wants", "content", "given_as"),
    [
        (TEXT, "a", "a"),
        (EITHER, "a", "a"),
        (PARTS, "a", [{"type": "text", "text": "a"}]),
        (TEXT, [{"type": "text", "text": "a", "cache": 1}, {"type": "refusal", "refusal": "b"}, "c"], "a\nb\nc"),
        (EITHER, [{"type": "input_text", "text": "a"}, "b"],
         [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        (PARTS, [{"type": "text", "text": "a"}], [{"type": "text", "text": "a"}]),
        (TEXT, [], ""),
        (PARTS, [], []),
    ],
)  # fmt: skip
def test_contents_come_in_the_form_that_the_template_takes(wants, content, given_as):
    assert given_messages([{"role": "user", "content": content}], wants) == [{"role": "user", "content": given_as}]


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}
OBJECT_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}
NO_ARGUMENTS = {"function": {"name": "f", "arguments": {}}}


@pytest.mark.parametrize(
    ("message", "given_as"),
    [
        ({"content": None, "tool_calls": [CALL]}, {"tool_calls": [OBJECT_CALL]}),
        ({"tool_calls": [CALL]}, {"tool_calls": [OBJECT_CALL]}),
        ({"content": "x", "tool_calls": [OBJECT_CALL]}, {"content": "x", "tool_calls": [OBJECT_CALL]}),
        ({"tool_calls": [{"function": {"name": "f"}}]}, {"tool_calls": [NO_ARGUMENTS]}),
        ({"tool_calls": [{"function": {"name": "f", "arguments": " "}}]},
         {"tool_calls": [NO_ARGUMENTS]}),
        ({"content": "x", "tool_calls": None, "refusal": None, "audio": None}, {"content": "x"}),
        ({"content": "x", "tool_calls": []}, {"content": "x"}),
        ({"content": None}, {"content": ""}),
        ({"content": None, "reasoning_content": "hm"}, {"content": "", "reasoning_content": "hm", "thinking": "hm"}),
        ({"content": None, "function_call": {"name": "f"}}, {"function_call": {"name": "f"}}),
        ({"content": "x", "name": "Ann", "own": [1]}, {"content": "x", "name": "Ann", "own": [1]}),
    ],
)  # fmt: skip
def test_what_the_model_said_is_handed_on_as_templates_expect_it(message, given_as):
    sent = {"role": "assistant", **message}
    before = copy.deepcopy(sent)
    assert given_messages([sent], TEXT) == [{"role": "assistant", **given_as}]
    assert sent == before, "the caller's message was changed"


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def calling(*calls: Any) -> list[Any]:
    return [{"role": "assistant", "tool_calls": list(calls)}]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "messages is missing; it must be a list of at least one message"),
        ([], "messages is empty; it must be a list of at least one message"),
        ("hello", "messages is 'hello'; it must be a list of at least one message"),
        (["hello"], "messages[0] is 'hello'; it must be an object with role and content"),
        ([*user("a"), None], "messages[1] is missing; it must be an object with role and content"),
        ([{"content": "a"}], f"messages[0].role is missing; it must be one of {', '.join(ROLES)}"),
        ([{"role": "bot", "content": "a"}], "messages[0].role is 'bot'; it must be one of system, developer, user"),
        ([{"role": ["user"], "content": "a"}], "messages[0].role is a list; it must be one of"),
        ([{"role": "user"}], "messages[0].content is missing; it must be a text or a list of parts"),
        (user(5), "messages[0].content is 5; it must be a text or a list of parts"),
        (user({"a": 1}), "messages[0].content is an object with a; it must be a text or a list of parts"),
        (user([5]), "messages[0].content[0] is 5; it must be an object with type and text"),
        (user([{"text": "a"}]), "messages[0].content[0] is an object with text; it must be an object with type and"),
        (user([{"type": "text"}]), "messages[0].content[0].text is missing; it must be a text"),
        (user(10**99), "messages[0].content is 1000000"),
        (calling("f"), "messages[0].tool_calls[0] is 'f'; it must be an object with id, type and function"),
        (calling({"function": {}}), "messages[0].tool_calls[0].function.name is missing; it must be a text"),
        (calling({"function": {"name": "f", "arguments": "{"}}), "function.arguments is '{'; it must be the JSON text"),
        (calling({"function": {"name": "f", "arguments": "[1]"}}), "function.arguments is '[1]'; it must be the JSON"),
        (calling({"function": {"name": "f", "arguments": [1]}}), "function.arguments is a list; it must be the JSON"),
        (calling({"function": {"name": "f", "arguments": False}}), "function.arguments is False; it must be the JSON"),
        (calling({"function": {"name": "f", "arguments": "[" * 99999}}), "function.arguments is '[[[["),
        ([{"role": "assistant", "tool_calls": 5}], "messages[0].tool_calls is 5; it must be a list of calls"),
    ],
)
def test_what_is_no_message_is_refused_with_its_place(messages, said):
    with pytest.raises(RequestError) as caught:
        given_messages(messages, TEXT)
    assert caught.value.code == "request.invalid"
    assert caught.value.message.startswith(said) or said in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url", "file", "image"])
@pytest.mark.parametrize("wants", [TEXT, PARTS, EITHER])
def test_parts_that_are_no_text_are_refused_by_their_type(wants, kind):
    with pytest.raises(UnsupportedError) as caught:
        given_messages(user([{"type": "text", "text": "a"}, {"type": kind, kind: {}}]), wants)
    assert caught.value.code == "request.unsupported"
    assert caught.value.message == f"messages[0].content[1] is a part of type {kind!r}; chats hold text only here"


FIELDS = ["role", "content", "type", "text", "tool_calls", "function", "name", "arguments"]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from([*ROLES, "text", "image_url", "f", "{}"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None, derandomize=True, database=None, max_examples=300)
@given(messages=st.lists(ODD, max_size=3) | ODD, tools=ODD, documents=ODD)
def test_odd_values_are_rendered_or_refused_and_never_crash(messages, tools, documents):
    text = "{{ messages }}{{ tools | tojson }}{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}"
    files = ChatFiles(templates={"default": TemplateSource(text, "")})
    try:
        assert isinstance(ChatTemplate(files).render(messages, tools=tools, documents=documents), str)
    except RequestError as error:
        assert error.code in ("request.invalid", "request.unsupported", "request.chat-template")


# ------------------------------------------------------------------------------------------------- beside the messages


@pytest.mark.parametrize(("value", "found"), [(None, None), ([], None), ([{"a": 1}], [{"a": 1}])])
def test_no_tools_and_an_empty_list_of_them_are_the_same(value, found):
    assert given_objects("tools", value) == found


@pytest.mark.parametrize(
    ("value", "said"),
    [({"a": 1}, "tools is an object with a; it must be a list of objects"), (["f"], "tools[0] is 'f'; it must be an")],
)
def test_tools_that_are_no_objects_are_refused(value, said):
    with pytest.raises(RequestError, match=r"request\.invalid") as caught:
        given_objects("tools", value)
    assert caught.value.message.startswith(said)


def test_names_that_have_a_field_of_their_own_are_refused_among_those_for_the_template():
    assert given_kwargs(None) == {}
    assert given_kwargs({"enable_thinking": False}) == {"enable_thinking": False}
    with pytest.raises(RequestError, match="chat_template_kwargs has 'tools', which has a field of its own"):
        given_kwargs({"tools": []})
