# SPDX-License-Identifier: Apache-2.0
"""Which parser a model gets, and what the ids of calls look like."""

from __future__ import annotations

import re

import pytest

from lmi.config.options import ModelOptions
from lmi.serving.reasoning import MARKERS
from lmi.serving.tools.choice import PARSERS, new_call_id, parser_for

QWEN = "{%- if tools %}...return a json object within <tool_call></tool_call> XML tags{%- endif %}"
LLAMA = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
MISTRAL = "[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS]...[TOOL_CALLS]..."


@pytest.mark.parametrize(
    ("model_type", "architectures", "template", "name"),
    [
        ("qwen2", [], QWEN, "hermes"),
        ("llama", ["LlamaForCausalLM"], QWEN, "hermes"),
        ("llama", [], LLAMA, "llama3_json"),
        ("llama", [], "...<|python_tag|>...", "llama3_json"),
        ("mistral", [], MISTRAL, "mistral"),
        ("mistral", [], QWEN, "hermes"),
        ("qwen3_moe", [], "<tool_call>\n<function=f>\n<parameter=a>", "none"),
        ("glm4_moe", [], "<tool_call>f\n<arg_key>", "none"),
        ("qwen3", [], None, "hermes"),
        ("qwen2_vl", [], "{{ messages }}", "hermes"),
        ("mixtral", [], "", "mistral"),
        (None, ["PixtralForConditionalGeneration"], None, "mistral"),
        (None, ["MllamaForConditionalGeneration"], None, "llama3_json"),
        ("llama", [], "{{ messages }}", "llama3_json"),
        ("gpt2", ["GPT2LMHeadModel"], None, "json"),
        (None, [], None, "json"),
    ],
)
def test_the_format_is_the_one_of_the_template_else_of_the_family(model_type, architectures, template, name):
    assert parser_for(model_type, architectures, template) == name


def test_every_parser_can_be_asked_for_and_every_name_has_one():
    for field, names in (("tool_call_parser", PARSERS), ("reasoning_parser", MARKERS)):
        for name in ("auto", "none", *names):
            assert getattr(ModelOptions.model_validate({field: name}), field) == name
        with pytest.raises(ValueError, match="Input should be 'auto', 'none', " + ", ".join(map(repr, names))[:-12]):
            ModelOptions.model_validate({field: "pythonic"})
    assert (ModelOptions().tool_call_parser, ModelOptions().reasoning_parser) == ("auto", "auto")


@pytest.mark.parametrize(
    ("field", "written", "name"),
    [
        ("tool_call_parser", "llama4_json", "llama3_json"),
        ("reasoning_parser", "deepseek_r1", "think"),
        ("reasoning_parser", "qwen3", "think"),
    ],
)
def test_names_of_families_with_one_format_mean_the_same(field, written, name):
    assert getattr(ModelOptions.model_validate({field: written}), field) == name


@pytest.mark.parametrize(
    ("template", "pattern"),
    [
        (None, "call_[A-Za-z0-9]{24}"),
        (QWEN, "call_[A-Za-z0-9]{24}"),
        ("raise_exception('Tool call IDs should be alphanumeric strings with length 9!')", "[A-Za-z0-9]{9}"),
        ("{% if call.id|length != 9 %}", "[A-Za-z0-9]{9}"),
    ],
)
def test_ids_have_the_form_that_the_template_takes_and_differ(template, pattern):
    ids = {new_call_id(template) for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(pattern, each) for each in ids)
