# SPDX-License-Identifier: Apache-2.0
"""Where settings come from, which layer wins, and Java's grammar."""

import pytest
from hypothesis import given, strategies as st

from lmi.api import ConfigError, Severity
from lmi.config import Setting, read_settings
from lmi.config.properties import read_properties
from lmi.config.sources import parse_flags


@pytest.fixture
def read(tmp_path):
    def _read(text="", environ=(), flags=(), **more):
        (tmp_path / "serving.properties").write_text(text)
        return read_settings(model_folder=tmp_path, environ=dict(environ), flags=dict(flags), **more)

    return _read


def test_the_highest_layer_wins_and_remembers_what_it_beat(read):
    settings = read(
        "engine=Python\noption.model_id=file",
        {"HF_MODEL_ID": "foreign", "OPTION_MODEL_ID": "variable"},
        {"model_id": "flag"},
        model=Setting("option.model_id", "argument", "command line"),
    )
    winner = settings["option.model_id"]
    assert (winner.value, winner.source) == ("argument", "command line")
    assert [(each.value, each.source) for each in winner.overrode] == [
        ("flag", "command line -o model_id"),
        ("file", "serving.properties:2"),
        ("variable", "OPTION_MODEL_ID"),
        ("foreign", "HF_MODEL_ID"),
    ]


def test_the_prefix_may_be_left_out_and_plain_keys_have_none(read):
    settings = read("rolling_batch=auto\noption.job_queue_size=7", flags={"option.dtype": "fp16", "minWorkers": "2"})
    assert sorted(settings) == ["job_queue_size", "minWorkers", "option.dtype", "option.rolling_batch"]
    assert settings.text("dtype") == settings.text("option.dtype") == "fp16"
    assert settings.text("option.absent") is None


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("OPTION_DTYPE", "option.dtype"),
        ("OPTION_ENTRYPOINT", "option.entryPoint"),
        ("OPTION_PYTHONEXECUTABLE", "option.pythonExecutable"),
        ("OPTION_entryPoint", "option.entryPoint"),
        ("OPTION_ENGINE", "engine"),
        ("SERVING_JOB_QUEUE_SIZE", "job_queue_size"),
        ("SERVING_MIN_WORKERS", "minWorkers"),
        ("SERVING_MAXWORKERS", "maxWorkers"),
        ("HF_MODEL_ID", "option.model_id"),
    ],
)
def test_a_variable_finds_its_key_whatever_the_case(variable, key):
    settings = read_settings(model_folder=None, environ={variable: "x"}, flags={})
    assert [(setting.key, setting.source) for setting in settings.values()] == [(key, variable)]


def test_empty_variables_and_foreign_serving_variables_count_for_nothing():
    environ = {
        "OPTION_DTYPE": " ",
        "SERVING_FEATURES": "a,b",
        "SERVING_LOAD_MODELS": "ALL",
        "PATH": "/bin",
        "OPTION_": "x",
    }
    assert not read_settings(model_folder=None, environ=environ, flags={})


def test_option_variables_beat_serving_variables():
    environ = {"SERVING_JOB_QUEUE_SIZE": "1", "OPTION_JOB_QUEUE_SIZE": "2"}
    assert read_settings(model_folder=None, environ=environ, flags={}).text("job_queue_size") == "2"


def test_a_folder_without_the_file_gives_no_settings(tmp_path):
    assert not read_settings(model_folder=tmp_path, environ={}, flags={})


def test_javas_grammar_is_read(read):
    settings = read("# comment \\\n! comment\n\n  a : 1\nb 2\nc=x\\\n    y\r\nd=\\u00e9\\t.\ne\\ f=g\nempty=\n")
    values = {setting.written: setting.value for setting in settings.values()}
    assert values == {"a": "1", "b": "2", "c": "xy", "d": "é\t.", "e f": "g"}


def test_each_value_knows_the_line_it_starts_on(read):
    settings = read("# one\n\na=1\\\n\\\n2\nb=3\r\nc=4")
    assert [setting.source for setting in settings.values()] == [
        "serving.properties:3", "serving.properties:6", "serving.properties:7",
    ]  # fmt: skip


def test_the_last_of_two_lines_holds_and_a_warning_names_both(read):
    settings = read("option.dtype=fp16\ndtype=bf16")
    assert settings.text("dtype") == "bf16"
    (warning,) = settings.problems
    assert (warning.code, warning.severity) == ("config.set-twice", Severity.WARNING)
    assert str(warning).startswith(
        "[config.set-twice] 'option.dtype' is set twice; 'bf16' holds, the line serving.properties:1 does not"
    )


def test_an_inline_comment_is_left_out_of_a_scalar_with_a_warning(read):
    settings = read("option.tensor_parallel_degree=16 # default is 32")
    assert settings.text("tensor_parallel_degree") == "16"
    (warning,) = settings.problems
    assert (warning.code, warning.severity, warning.source) == (
        "config.inline-comment", Severity.WARNING, "serving.properties:1",
    )  # fmt: skip


@pytest.mark.parametrize("value", ['{"a": " # b"}', "https://host/page#part", "{{ x }} # {% y %}", '["a", " #"]'])
def test_json_urls_and_templates_keep_their_hash(read, value):
    settings = read(f"option.x={value}")
    assert settings.text("x") == value
    assert not settings.problems


def test_every_bad_line_is_reported_and_the_good_ones_are_read(read):
    settings = read("a=\\u12zz\n=value\nb=1\nc=\\u12")
    assert [(each.code, each.source) for each in settings.problems] == [
        ("config.bad-line", "serving.properties:1"),
        ("config.bad-line", "serving.properties:2"),
        ("config.bad-line", "serving.properties:4"),
    ]
    assert list(settings) == ["option.b"]


def test_what_is_wrong_with_a_line_is_said_without_its_value(read):
    problems = read("hf_token=hush \\u12zz\nkeystore_password=hush # mine").problems
    assert [problem.code for problem in problems] == ["config.bad-line", "config.inline-comment"]
    assert "hush" not in " ".join(map(str, problems))
    assert "the line of 'hf_token' has a bad escape" in str(problems[0])


def test_a_file_that_is_not_utf8_is_a_problem_not_a_crash(tmp_path):
    (tmp_path / "serving.properties").write_bytes(b"option.x=\xff\xfe")
    (problem,) = read_settings(model_folder=tmp_path, environ={}, flags={}).problems
    assert problem.code == "config.unreadable"


@given(st.text(alphabet="ab=:# !\\\n\r\tu0é{[", max_size=60))
def test_no_text_makes_the_reader_fail(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.properties"
    path.write_text(text, encoding="utf-8", newline="")
    content = read_properties(path)
    assert all(line.key and 1 <= line.number <= len(text) + 1 for line in content.lines)


def test_secrets_are_masked_wherever_a_setting_is_shown():
    shown = repr(
        read_settings(
            model_folder=None,
            environ={"OPTION_HF_TOKEN": "hush1", "OPTION_ENV": "A=1,AWS_SECRET_ACCESS_KEY=hush2"},
            flags={"keystore_password": "hush3", "max_new_tokens": "64"},
        )
    )
    assert "hush" not in shown
    assert "A=1,AWS_SECRET_ACCESS_KEY=***" in shown
    assert "option.max_new_tokens=64" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://b/m?X-Amz-Signature=hush&x=1", "s3://b/m?X-Amz-Signature=***&x=1"),
        ("https://h/x.zip?sig=hush&token=hush&v=2", "https://h/x.zip?sig=***&token=***&v=2"),
        ("https://hush@host/x", "https://***@host/x"),
        ("http://u:hush@host/x", "http://***@host/x"),
        ("abfss://container@account.dfs.core.windows.net/x", "abfss://container@account.dfs.core.windows.net/x"),
    ],
)
def test_what_opens_a_place_is_masked_in_its_url(url, shown):
    assert Setting("option.model_id", url, "command line").shown == shown


def test_what_a_secret_overrode_is_masked_too():
    beaten = Setting("option.hf_token", "hush", "serving.properties:1")
    assert "hush" not in repr(Setting("option.hf_token", "x", "OPTION_HF_TOKEN", overrode=(beaten,)))


def test_flags_are_split_at_the_first_sign_and_the_last_one_holds():
    assert parse_flags(["a=1", "b=x=y", "a = 2 ", "c="]) == {"a": "2", "b": "x=y", "c": ""}


def test_every_flag_that_is_no_pair_is_reported():
    with pytest.raises(ConfigError) as caught:
        parse_flags(["dtype", "=x", "a=1"])
    assert str(caught.value).splitlines() == [
        "config.invalid: 2 problems on the command line; nothing was loaded.",
        "  [config.bad-flag] -o 'dtype' is not KEY=VALUE (command line). Write it like -o dtype=VALUE.",
        "  [config.bad-flag] -o '=x' is not KEY=VALUE (command line). Write it like -o dtype=VALUE.",
    ]


# ------------------------------------------------------------------------------------------- variables of other servers


FOREIGN = [
    ("HF_MODEL_ID", "org/name", "option.model_id"),
    ("HF_REVISION", "main", "option.revision"),
    ("HF_TASK", "text-generation", "option.task"),
    ("HF_MODEL_TRUST_REMOTE_CODE", "true", "option.trust_remote_code"),
    ("HF_TRUST_REMOTE_CODE", "true", "option.trust_remote_code"),
    ("HF_MODEL_QUANTIZE", "awq", "option.quantize"),
    ("TENSOR_PARALLEL_DEGREE", "4", "option.tensor_parallel_degree"),
    ("SM_NUM_GPUS", "4", "option.tensor_parallel_degree"),
    ("PIPELINE_PARALLEL_DEGREE", "2", "option.pipeline_parallel_degree"),
    ("MAX_BATCH_SIZE", "64", "option.max_rolling_batch_size"),
    ("MAX_BATCH_PREFILL_TOKENS", "4096", "option.max_rolling_batch_prefill_tokens"),
    ("MAX_CONCURRENT_REQUESTS", "200", "job_queue_size"),
    ("MODEL_LOADING_TIMEOUT", "1200", "option.model_loading_timeout"),
    ("PREDICT_TIMEOUT", "240", "option.predict_timeout"),
    ("PYTHON_EXECUTABLE", "python3", "option.pythonExecutable"),
]


@pytest.mark.parametrize(("variable", "value", "key"), FOREIGN)
def test_a_variable_of_another_server_fills_what_nothing_else_sets(variable, value, key):
    setting = read_settings(model_folder=None, environ={variable: value}, flags={})[key]
    assert (setting.value, setting.source, setting.is_foreign) == (value, variable, True)
    own = f"OPTION_{key.removeprefix('option.').upper()}"
    both = read_settings(model_folder=None, environ={variable: value, own: "own"}, flags={})[key]
    assert (both.value, both.source, both.overrode[0].source) == ("own", own, variable)


def test_lmis_own_name_of_a_foreign_variable_beats_sagemakers():
    environ = {"SM_NUM_GPUS": "8", "TENSOR_PARALLEL_DEGREE": "4"}
    setting = read_settings(model_folder=None, environ=environ, flags={})["option.tensor_parallel_degree"]
    assert (setting.value, [each.value for each in setting.overrode]) == ("4", ["8"])


# ------------------------------------------------------------------------------------------ long values, blank values


def test_a_value_may_lie_in_a_file_of_its_own(tmp_path):
    (tmp_path / "template.jinja").write_text("{{ messages }}\n{% if x %}# kept{% endif %}\n")
    environ = {"OPTION_CHAT_TEMPLATE": f"@{tmp_path}/template.jinja"}
    setting = read_settings(model_folder=None, environ=environ, flags={})["option.chat_template"]
    assert setting.value == "{{ messages }}\n{% if x %}# kept{% endif %}"
    assert setting.source == f"OPTION_CHAT_TEMPLATE ({tmp_path}/template.jinja)"


def test_a_file_that_is_not_there_is_a_problem_that_names_it(tmp_path):
    settings = read_settings(model_folder=None, environ={"OPTION_CHAT_TEMPLATE": f"@{tmp_path}/none"}, flags={})
    [problem] = settings.problems
    assert problem.code == "config.unreadable"
    assert f"'option.chat_template' is to be read from {tmp_path}/none" in problem.message
    assert problem.source == "OPTION_CHAT_TEMPLATE"


@pytest.mark.parametrize("value", ["{{s3url}}", "{{ model_id }}", "<your model>", "<MODEL_ID>"])
def test_a_placeholder_that_nobody_filled_in_is_a_problem(value):
    [problem] = read_settings(model_folder=None, environ={"OPTION_MODEL_ID": value}, flags={}).problems
    assert (problem.code, problem.source) == ("config.placeholder", "OPTION_MODEL_ID")
    assert repr(value) in problem.message


@pytest.mark.parametrize("value", ["{{ x }} # {% y %}", "a<b>", "{}", "</s>", "{% if x %}"])
def test_what_only_looks_like_a_placeholder_is_none(value):
    assert read_settings(model_folder=None, environ={"OPTION_STOP": value}, flags={}).problems == ()


def test_a_placeholder_that_a_higher_layer_overrode_is_no_problem():
    settings = read_settings(
        model_folder=None, environ={"OPTION_MODEL_ID": "{{s3url}}"}, flags={"model_id": "org/name"}
    )
    assert settings.problems == ()
    assert settings.text("option.model_id") == "org/name"


def test_an_empty_value_counts_as_unset_and_a_name_alone_is_told(read):
    settings = read("option.dtype=\noption.revision", {"OPTION_DTYPE": "fp16"})
    assert (settings.text("dtype"), "option.revision" in settings) == ("fp16", False)
    assert [(problem.code, problem.source) for problem in settings.problems] == [
        ("config.no-value", "serving.properties:2")
    ]


@pytest.mark.parametrize(
    "value",
    ["{{s3url}}", "<your model>", "${MODEL_ID}", "$MODEL_ID", "s3://{{bucket}}/model/", "s3://<my-bucket>/model"],
)
def test_what_nobody_has_filled_in_is_an_error(read, value):
    [problem] = read(f"option.model_id={value}").problems
    assert (problem.code, problem.source) == ("config.placeholder", "serving.properties:1")


@pytest.mark.parametrize("value", ["{{ bos_token }} hello", "{% if x %}{{ x }}{% endif %}", "a<b>c", "cost: $5"])
def test_a_template_is_no_placeholder(read, value):
    assert read(f"option.chat_template={value}").problems == ()


@pytest.mark.parametrize(
    ("key", "is_masked"),
    [
        ("hf_token", True), ("use_auth_token", True), ("api_key", True), ("AWS_SECRET_ACCESS_KEY", True),
        ("keystore_pass", True), ("smoothquant_per_token", False), ("long_prefill_token_threshold", False),
        ("max_num_batched_tokens", False), ("hfToken", True), ("apikey", True), ("monkey", False), ("keyboard", False),
    ],
)  # fmt: skip
def test_secrets_are_masked_and_tokens_of_text_are_not(read, key, is_masked):
    assert ("hush" not in repr(read(f"option.{key}=hush"))) is is_masked
