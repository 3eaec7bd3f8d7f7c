# SPDX-License-Identifier: Apache-2.0
"""Secrets are masked whatever their form, and likely mistakes are named."""

import os

import pytest

from lmi.api import ConfigError, Severity
from lmi.config import read_settings
from lmi.config.sources import parse_flags


@pytest.fixture
def read(tmp_path):
    def _read(text="", environ=(), flags=(), **more):
        (tmp_path / "serving.properties").write_text(text)
        return read_settings(model_folder=tmp_path, environ=dict(environ), flags=dict(flags), **more)

    return _read


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN=hush", "A=1,HF_TOKEN=hush hush", "HF_TOKEN:hush", '{"HF_TOKEN": "hush"}',
        '{"A": {"api_key": "hush, x"}}',
        "{'HF_TOKEN': 'hush'}", '{"HF_TOKEN": "hush', "https://me:hush@host/path", '[{"secret": "hush"}]',
    ],
)  # fmt: skip
def test_a_secret_inside_a_value_is_masked_in_every_form(read, text):
    settings = read(f"option.env={text}")
    assert "hush" not in repr(settings) and "***" in settings["env"].shown


def test_a_secret_is_masked_in_what_is_said_of_it(read):
    for text in ("option.hf_token=$hush", "option.hf_token=@hush.txt"):
        [problem] = read(text).problems
        assert "hush" not in str(problem)
    with pytest.raises(ConfigError) as caught:
        parse_flags(["hf_token:hush"])
    assert "hush" not in str(caught.value)


def test_the_stars_that_stand_for_a_secret_are_no_secret(read):
    [problem] = read("option.hf_token=***").problems
    assert problem.code == "config.placeholder"


@pytest.mark.parametrize("value", ["<eos>", "<s>", "</s>", "<end_of_turn>", "<|im_end|>", "<think>"])
def test_a_token_of_text_is_no_placeholder(read, value):
    assert read(f"option.stop={value}").problems == ()


@pytest.mark.parametrize("value", ["<your_model>", "<model-id>", "<my bucket>", "<MODEL>", "<a b>"])
def test_words_for_something_to_fill_in_are_a_placeholder(read, value):
    assert [problem.code for problem in read(f"option.model_id={value}").problems] == ["config.placeholder"]


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("OPTIONS_DTYPE", "OPTION_DTYPE"), ("OPTION.DTYPE", "OPTION_DTYPE"), ("SM_NUM_GPU", "SM_NUM_GPUS"),
        ("MAX_BATCHSIZE", "MAX_BATCH_SIZE"), ("HF_MODELID", "HF_MODEL_ID"),
        ("TENSOR_PARALEL_DEGREE", "TENSOR_PARALLEL_DEGREE"),
    ],
)  # fmt: skip
def test_a_variable_that_is_hardly_anything_but_a_known_one_is_told(read, variable, near):
    [problem] = read(environ={variable: "1", "PATH": "/bin", "HF_HOME": "/x", "HF_TOKEN": "x"}).problems
    assert (problem.code, problem.severity, problem.hint) == (
        "config.unknown-variable",
        Severity.WARNING,
        f"Did you mean {near}?",
    )


def test_a_variable_with_a_successor_is_told(read):
    [problem] = read(environ={"HF_TRUST_REMOTE_CODE": "true"}).problems
    assert (problem.code, problem.hint) == ("config.deprecated", "Set HF_MODEL_TRUST_REMOTE_CODE")


def test_a_value_is_read_from_a_small_plain_file_only(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * (2 << 20))
    for name, said in (("pipe", "no such file"), ("large", "the most is 1048576"), ("none", "no such file")):
        [problem] = read(f"option.dtype=@{tmp_path}/{name}").problems
        assert problem.code == "config.unreadable" and said in problem.message
    [problem] = read("option.chat_template=@template.jinja").problems
    assert "absolute path" in problem.message


def test_a_file_that_cannot_be_read_is_no_missing_one(tmp_path):
    (tmp_path / "serving.properties").symlink_to(tmp_path / "gone")
    settings = read_settings(model_folder=tmp_path, environ={}, flags={})
    assert [problem.code for problem in settings.problems] == ["config.unreadable"]
