# SPDX-License-Identifier: Apache-2.0
"""From messages to a prompt: equal to transformers, within limits, and every refusal says why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from lmi.api import ArtifactFormat, ModelArtifacts, RequestError
from lmi.serving import chat_environment
from lmi.serving.chat_files import ChatFiles, TemplateSource
from lmi.serving.chat_template import ChatTemplate, load_chat_template
from lmi.serving.tokenizer import FileTokenizer
from tests.core.chat_cases import CASES, GOLDEN_PROGRAM, HELLO, TEMPLATES, TOOL, write_chat_model
from tests.core.tokenizer_folders import byte_level, write
from tests.limits import limit_s

TAKES_PARTS = {"parts", "gemma"}


def artifacts(folder: Path) -> ModelArtifacts:
    return ModelArtifacts(folder=str(folder), format=ArtifactFormat.PRETRAINED)


def template_of(text: str, **tokens: str) -> ChatTemplate:
    return ChatTemplate(ChatFiles(templates={"default": TemplateSource(text, "a file")}, tokens=tokens))


def refusal(template: ChatTemplate, messages: Any = (HELLO,), **more: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        template.render(list(messages), **more)
    return caught.value


# ------------------------------------------------------------------------------------------- the same as transformers


def in_the_form_of(template: str, case: dict[str, Any]) -> dict[str, Any]:
    """A case as a caller of transformers would write it for a template that takes one form of contents only."""

    def content(given: Any) -> Any:
        if isinstance(given, str) and template == "parts":
            return [{"type": "text", "text": given}]
        if isinstance(given, list) and template not in TAKES_PARTS:
            return "\n".join(part["text"] for part in given)
        return given

    return {**case, "messages": [{**message, "content": content(message["content"])} for message in case["messages"]]}


def golden(folders: dict[str, Path]) -> dict[str, dict[str, list[str]]]:
    cases = {name: {key: in_the_form_of(name, case) for key, case in CASES.items()} for name in folders}
    run = subprocess.run(
        [sys.executable, "-c", GOLDEN_PROGRAM],
        input=json.dumps([{name: str(folder) for name, folder in folders.items()}, cases]),
        capture_output=True,
        text=True,
        timeout=limit_s(120),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answers: dict[str, dict[str, list[str]]] = json.loads(run.stdout)
    return answers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("chats")
    return {path.stem: write_chat_model(root / path.stem, path.read_text("utf-8")) for path in TEMPLATES}


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[str, dict[str, list[str]]]:
    return golden(folders)


def assert_the_same(template: ChatTemplate, case: dict[str, Any], found: list[str]) -> None:
    kind, text = found
    if kind == "text":
        assert template.render(**case) == text
        return
    error = refusal(template, **case)
    assert error.code == "request.chat-template"
    if kind == "TemplateError":
        assert error.message == f"the chat template refuses these messages: {text}"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", [path.stem for path in TEMPLATES])
def test_prompts_equal_those_of_transformers(family, name, folders, expected):
    template = load_chat_template(artifacts(folders[family]))
    assert_the_same(template, CASES[name], expected[family][name])


@pytest.mark.parametrize("family", [path.stem for path in TEMPLATES])
def test_most_conversations_are_rendered_by_transformers_at_all(family, expected):
    """Otherwise the test above would compare refusals."""
    assert sum(kind == "text" for kind, _ in expected[family].values()) > len(CASES) / 3


@pytest.mark.model
def test_prompts_of_the_demo_model_equal_those_of_transformers(demo_model):
    answers = golden({"demo": demo_model})["demo"]
    template = load_chat_template(artifacts(demo_model))
    for name, case in CASES.items():
        assert_the_same(template, case, answers[name])
    assert template.render([HELLO]).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


# ----------------------------------------------------------------------------------------------------------- encoding


def test_a_prompt_is_encoded_without_special_tokens_of_the_tokenizers_own(tmp_path):
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    folder = write(tmp_path / "m", tokenizer)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    loaded = FileTokenizer(folder / "tokenizer.json", {})
    prompt = load_chat_template(artifacts(folder)).render([HELLO])
    assert prompt.startswith("<s>Hello")
    ids = loaded.encode(prompt, adds_special=False)
    assert (ids.count(1), ids[0], ids[-1] == 2) == (1, 1, False)
    assert loaded.encode(prompt).count(1) == 2


# ----------------------------------------------------------------------------------------------------------- refusals


def test_a_model_without_a_template_says_what_to_do():
    error = refusal(ChatTemplate(ChatFiles()))
    assert (error.code, error.message) == ("request.no-chat-template", "this model has no chat template")
    assert "option.chat_template" in error.hint


def test_a_model_with_named_templates_alone_says_which():
    template = ChatTemplate(
        ChatFiles(templates={"rag": TemplateSource("x", "a"), "tool_use": TemplateSource("t", "a")})
    )
    assert refusal(template).message == "this model has no chat template called default, only rag, tool_use"
    assert template.render([HELLO], tools=[TOOL]) == "t"


def test_what_is_wrong_with_a_template_is_told_to_those_who_ask_for_a_chat():
    error = refusal(template_of("a\nb {% if %}"))
    assert error.code == "request.no-chat-template"
    assert error.message.startswith(
        "this model has no chat template that can be used: the chat template in a file, line 2"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n{{ raise_exception('only  in\nGreek') }}", "the chat template refuses these messages: only in Greek"),
        ("\n\n{{ nobody.knows }}", "cannot render these messages in its line 3: UndefinedError: 'nobody' is undefined"),
        ("{{ messages[0].content + 1 }}", "in its line 1: TypeError: can only concatenate str"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ nobody | tojson }}", "TypeError: Object of type Undefined is not JSON serializable"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages[0].update({'a': 1}) }}", "SecurityError"),
        ("{% include 'x' %}", "TypeError: no loader for this environment specified"),
    ],
)
def test_a_template_that_fails_says_where_and_why(text, said):
    error = refusal(template_of(text))
    assert error.code == "request.chat-template"
    assert said in error.message


def test_an_enormous_complaint_is_shortened():
    assert len(refusal(template_of("{{ raise_exception(messages[0].content * 999) }}")).message) < 700


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "than 1000 steps"),
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}", "1000 steps"),
        ("{% for a in range(999) recursive %}{{ loop([1, 2]) }}{% endfor %}", "RecursionError"),
        ("{% for a in range(900) %}1234567890123{% endfor %}", "more than 10000 characters"),
        ("{{ 'x' * 10001 }}", "operator *"),
        ("{{ 10001 * 'x' }}", "operator *"),
        ("{{ ([1] * 200) * 100 }}", "operator *"),
        ("{% set n = namespace(x='xx') %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", "operator +"),
        ("{{ 9 ** 99999 }}", "operator **"),
        ("{{ range(100001) }}", "OverflowError: Range too big"),
    ],
)
def test_a_template_that_never_comes_to_an_end_is_stopped(text, said, monkeypatch):
    monkeypatch.setattr(chat_environment, "MAX_STEPS", 1000)
    monkeypatch.setattr(chat_environment, "MAX_CHARS", 10_000)
    error = refusal(template_of(text))
    assert (error.code, said in error.message) == ("request.chat-template", True), error.message


def test_the_limits_are_those_of_one_rendering(monkeypatch):
    monkeypatch.setattr(chat_environment, "MAX_STEPS", 10)
    template = template_of("{% for a in range(9) %}{{ a }}{% endfor %}")
    assert {template.render([HELLO]) for _ in range(9)} == {"012345678"}


@pytest.mark.parametrize(
    ("messages", "code", "said"),
    [
        ([{"role": "assistant", "content": None}], "", ""),
        ([{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}], "request.invalid",
         "has no text to go on with"),
        ([{"role": "user", "content": "gone"}], "request.chat-template", "does not write the last message"),
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_continued_is_refused(messages, code, said):
    template = template_of("{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}")
    if not code:
        assert template.render(messages, continue_final_message=True) == ""
        return
    error = refusal(template, messages, continue_final_message=True)
    assert (error.code, said in error.message) == (code, True)


def test_a_message_that_holds_the_mark_of_continuation_is_continued_at_its_end():
    template = template_of("{{ messages[0].content }}|")
    text = "LMI_CONTINUES_HERE  and on"
    assert template.render([{"role": "user", "content": text}], continue_final_message=True) == text
