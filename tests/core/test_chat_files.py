# SPDX-License-Identifier: Apache-2.0
"""Where chat templates and special tokens are found, and what `lmi check` says of broken ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lmi.api import ArtifactFormat, ModelArtifacts, Severity
from lmi.artifacts import detect
from lmi.artifacts.places.files import LocalFiles, ModelFiles
from lmi.cli.check import check
from lmi.config.settings import Setting
from lmi.serving.chat_checks import template_problems
from lmi.serving.chat_files import find_chat_files
from lmi.serving.chat_template import load_chat_template
from tests.core.model_folders import write_model

USER = [{"role": "user", "content": "x"}]
NAMED = [{"name": "default", "template": "list"}, {"name": "tool_use", "template": "list with tools"}]


def folder_of(root: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def artifacts(folder: Path, inner: str = "") -> ModelArtifacts:
    return ModelArtifacts(folder=str(folder), format=ArtifactFormat.PRETRAINED, inner=inner)


# ------------------------------------------------------------------------------------------------------ the template

FILE = {"chat_template.jinja": "file"}
FURTHER = {"additional_chat_templates/tool_use.jinja": "further", "additional_chat_templates/README.md": "no"}
LEGACY = {"chat_template.json": {"chat_template": "legacy"}}
SETTINGS = {"tokenizer_config.json": {"chat_template": "settings"}}


@pytest.mark.parametrize(
    ("files", "plain", "with_tools"),
    [
        ({**FILE, **LEGACY, **SETTINGS}, "file", "file"),
        ({**LEGACY, **SETTINGS}, "legacy", "legacy"),
        (SETTINGS, "settings", "settings"),
        ({"tokenizer_config.json": {"chat_template": NAMED}}, "list", "list with tools"),
        ({"tokenizer_config.json": {"chat_template": {"default": "a", "tool_use": "b"}}}, "a", "b"),
        ({**FILE, "tokenizer_config.json": {"chat_template": NAMED}}, "file", "file"),
        ({**FILE, **FURTHER, **SETTINGS}, "file", "further"),
        ({**FURTHER, **SETTINGS}, "settings", "further"),
        ({"chat_template.json": {"chat_template": ""}, **SETTINGS}, "settings", "settings"),
        ({"chat_template.json": ["x"], **SETTINGS}, "settings", "settings"),
        ({"chat_template.json": "no json", **SETTINGS}, "settings", "settings"),
        ({"chat_template.jinja": "a\r\nb\n"}, "a\nb", "a\nb"),
    ],
)
@pytest.mark.parametrize("inner", ["", "repository"])
def test_the_first_place_that_has_a_template_is_taken(files, plain, with_tools, inner, tmp_path):
    folder_of(tmp_path / inner, files)
    template = load_chat_template(artifacts(tmp_path, inner))
    assert template.render(USER) == plain
    assert template.render(USER, tools=[{"type": "function"}]) == with_tools


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ("{{ 'the option' }}", "the option"),
        ("a\nb", "a\nb"),
        ("own.jinja", "own"),
        ("./sub/../own.jinja", "own"),
        ("beside.jinja", "beside"),
        ("both.jinja", "of the configuration"),
        ("/ABSOLUTE/elsewhere.jinja", "elsewhere"),
    ],
)
def test_the_option_is_a_template_or_the_path_of_one(option, found, tmp_path):
    model = folder_of(tmp_path / "model", {**FILE, "own.jinja": "own", "both.jinja": "of the model", "sub/x": ""})
    folder = folder_of(tmp_path / "served", {"beside.jinja": "beside", "both.jinja": "of the configuration"})
    folder_of(tmp_path / "far", {"elsewhere.jinja": "elsewhere"})
    option = option.replace("/ABSOLUTE", str(tmp_path / "far"))
    template = load_chat_template(artifacts(model), option, folder=folder)
    assert (template.render(USER), template.text) == (found, found if "{" not in option else option)


def test_the_option_serves_a_model_without_files():
    assert load_chat_template(ModelArtifacts(), "{{ messages[0].content }}").render(USER) == "x"
    assert load_chat_template(ModelArtifacts()).text == ""


class Elsewhere(ModelFiles):
    """The files of a folder, as if they were at a URL."""

    def __init__(self, folder: Path) -> None:
        self._files = LocalFiles(folder)
        self.place, self.sizes = "s3://bucket/model", self._files.sizes

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        return self._files.read(name, start, n_bytes)


@pytest.mark.parametrize(("option", "found"), [(None, "file"), ("sub/own.jinja", "own")])
def test_the_template_of_a_model_elsewhere_is_read_there(option, found, tmp_path):
    files = Elsewhere(folder_of(write_model(tmp_path / "m"), {**FILE, "sub/own.jinja": "own"}))
    source = find_chat_files(option, detect(files), files).templates["default"]
    assert source.text == found
    assert source.place == f"s3://bucket/model/{option or 'chat_template.jinja'}"


def test_a_template_in_settings_too_large_for_a_document_is_found(tmp_path):
    files = {
        "tokenizer_config.json": {"chat_template": "x", "bos_token": "<s>", "added_tokens_decoder": "y" * (2 << 20)}
    }
    found = find_chat_files(None, artifacts(folder_of(tmp_path, files)))
    assert (found.templates["default"].text, found.tokens) == ("x", {"bos_token": "<s>"})


# ----------------------------------------------------------------------------------------------------- special tokens


@pytest.mark.parametrize(
    ("settings", "older", "tokens"),
    [
        ({"bos_token": "<s>", "eos_token": None, "add_bos_token": True}, {}, {"bos_token": "<s>"}),
        ({"bos_token": {"content": "<b>", "lstrip": False}}, {}, {"bos_token": "<b>"}),
        ({"image_token": "<i>", "tokenizer_class": "X", "no_token": 5}, {}, {"image_token": "<i>"}),
        ({"extra_special_tokens": {"boi": "<boi>", "eoi_token": {"content": "<e>"}}}, {},
         {"boi": "<boi>", "eoi_token": "<e>"}),
        ({"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<b>"]}, {}, {}),
        ({"bos_token": "<s>"}, {"bos_token": {"content": "<old>"}, "unk_token": "<u>"},
         {"bos_token": "<old>", "unk_token": "<u>"}),
        ({"bos_token": "<s>", "added_tokens_decoder": {}}, {"bos_token": "<old>"}, {"bos_token": "<s>"}),
    ],
)  # fmt: skip
def test_special_tokens_have_the_names_that_transformers_gives_them(settings, older, tokens, tmp_path):
    files = {"tokenizer_config.json": settings, "special_tokens_map.json": older}
    assert find_chat_files(None, artifacts(folder_of(tmp_path, files))).tokens == tokens


# -------------------------------------------------------------------------------------------------------------- checks

DEEP = "{% if 1 %}" * 60 + "{% for x in y %}" * 60 + "{% endfor %}" * 60 + "{% endif %}" * 60


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"chat_template.jinja": "a\nb {% if x %}"}, "chat_template.jinja, line 2: Unexpected end of template"),
        ({"chat_template.jinja": "{{ a | nofilter }}"}, "chat_template.jinja, line 1: No filter named 'nofilter'"),
        ({"chat_template.jinja": DEEP}, "chat_template.jinja"),
        ({"tokenizer_config.json": {"chat_template": [*NAMED, {"name": "rag", "template": "\n\n{% nothing %}"}]}},
         "the chat template 'rag' in {folder}/tokenizer_config.json, line 3: Encountered unknown tag 'nothing'"),
        ({"tokenizer_config.json": {"chat_template": 5}}, "tokenizer_config.json is neither a text nor a list"),
        ({"tokenizer_config.json": {"chat_template": ["x"]}}, "tokenizer_config.json is neither a text nor a list"),
        ({"chat_template.jinja": b"\xff"}, "chat_template.jinja is not UTF-8: byte 0xff at 0"),
        ({"chat_template.jinja": b"x" * ((16 << 20) + 1)}, "chat_template.jinja has more than 16777216 bytes"),
    ],
)  # fmt: skip
def test_a_broken_template_of_a_model_is_a_warning_with_file_and_line(files, said, tmp_path):
    folder = folder_of(tmp_path, files)
    (problem,) = template_problems(artifacts(folder))
    assert (problem.code, problem.severity) == ("chat.template-invalid", Severity.WARNING)
    assert said.replace("{folder}", str(folder)) in problem.message
    assert problem.path == f"{folder}/{next(iter(files))}"


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    folder = folder_of(tmp_path, FILE)

    class Broken(Elsewhere):
        def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
            raise OSError(5, os.strerror(5))

    (problem,) = template_problems(artifacts(folder), Broken(folder))
    assert (
        problem.message == "the chat template s3://bucket/model/chat_template.jinja cannot be read: Input/output error"
    )


@pytest.mark.parametrize("files", [{}, FILE, SETTINGS, {"tokenizer_config.json": {}}])
def test_a_right_template_and_none_are_no_problem(files, tmp_path):
    assert template_problems(artifacts(folder_of(tmp_path, files))) == []


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        ("{% if %}", "chat.template-invalid",
         "the chat template in option.chat_template, line 1: Expected an expression"),
        ("none.jinja", "chat.template-missing",
         "'option.chat_template' is 'none.jinja', and there is no such file: {served}/none.jinja, {model}/none.jinja"),
        ("/none.jinja", "chat.template-missing", "'option.chat_template' is '/none.jinja', and there is no such file: "
         "/none.jinja"),
        ("bad.jinja", "chat.template-invalid", "the chat template in {model}/bad.jinja, line 1: unexpected '}'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_option_stops_the_start(option, code, said, tmp_path):
    model = folder_of(tmp_path / "model", {**FILE, "bad.jinja": "{{ } }}"})
    setting = Setting("option.chat_template", option, "serving.properties:3")
    (problem,) = template_problems(artifacts(model), option=option, setting=setting, folder=tmp_path / "served")
    assert (problem.code, problem.severity, problem.source) == (code, Severity.ERROR, "serving.properties:3")
    assert said.replace("{model}", str(model)).replace("{served}", str(tmp_path / "served")) in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    ("arguments", "template", "exit_code", "said"),
    [
        (
            (),
            "{% if %}",
            0,
            "warning: [chat.template-invalid] the chat template in {folder}/chat_template.jinja, line 1",
        ),
        (
            ("-o", "chat_template={{ x"),
            "x",
            1,
            "[chat.template-invalid] the chat template in option.chat_template, line 1",
        ),
        (("-o", "chat_template=x.jinja"), "x", 1, "[chat.template-missing] 'option.chat_template' is 'x.jinja'"),
        (("-o", "chat_template=chat_template.jinja"), "x", 0, ""),
        (("-o", "chat_template_content_format=OpenAI"), "x", 0, ""),
        (("-o", "chat_template_content_format=json"), "x", 1, "'option.chat_template_content_format' is 'json'"),
    ],
)
def test_lmi_check_tells_broken_templates_and_no_others(arguments, template, exit_code, said, tmp_path):
    folder = folder_of(write_model(tmp_path / "m"), {"chat_template.jinja": template})
    run = CliRunner().invoke(check, [str(folder), "-o", "rolling_batch=hf", *arguments], catch_exceptions=False)
    printed = run.stdout + run.stderr
    assert run.exit_code == exit_code, printed
    assert said.replace("{folder}", str(folder)) in printed
    assert ("chat.template" in printed) == ("chat.template" in said)


def test_a_model_that_makes_vectors_needs_no_chat_template(tmp_path):
    folder = folder_of(write_model(tmp_path / "m"), {"chat_template.jinja": "{% if %}"})
    told = {
        task: "chat.template" in CliRunner().invoke(check, [str(folder), "-o", "rolling_batch=vllm", *task]).output
        for task in ((), ("-o", "task=text-embedding"))
    }
    assert list(told.values()) == [True, False]
