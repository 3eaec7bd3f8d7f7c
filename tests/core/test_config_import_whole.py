# SPDX-License-Identifier: Apache-2.0
"""`lmi config import` as a whole: every form of input, whole environments, what is written, the command line."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings as hypothesis_settings, strategies as st

from lmi.api import ConfigError
from lmi.cli.config import config
from lmi.config import read_settings
from lmi.effective import effective
from lmi.imports import (
    Fate,
    as_properties,
    as_variables,
    read_environment,
    recognise,
    server_names,
    table_of,
    translate,
)
from lmi.imports.write import unwritable
from lmi.plugins import Plugins
from tests.core.model_folders import write_model


@pytest.fixture(scope="module")
def plugins():
    return Plugins.discover({})


def written(found):
    return {setting.key: setting.value for setting in found.settings}


# ------------------------------------------------------------------------------------------ whole environments resolve


ENDPOINTS = {
    # SageMaker's sample for the Hugging Face LLM container
    "tgi-llama": {
        "HF_MODEL_ID": "meta-llama/Llama-2-13b-chat-hf", "SM_NUM_GPUS": "4", "MAX_INPUT_LENGTH": "2048",
        "MAX_TOTAL_TOKENS": "4096", "MAX_BATCH_TOTAL_TOKENS": "8192", "HUGGING_FACE_HUB_TOKEN": "hush",
    },
    "tgi-falcon-quantized": {
        "HF_MODEL_ID": "tiiuae/falcon-40b-instruct", "SM_NUM_GPUS": "4", "HF_MODEL_QUANTIZE": "bitsandbytes",
        "MAX_INPUT_LENGTH": "1024", "MAX_TOTAL_TOKENS": "2048",
    },
    "tgi-docker": {
        "MODEL_ID": "mistralai/Mistral-7B-Instruct-v0.2", "NUM_SHARD": "2", "DTYPE": "bfloat16", "PORT": "8081",
        "MAX_CONCURRENT_REQUESTS": "256", "MAX_INPUT_TOKENS": "4096", "MAX_TOTAL_TOKENS": "8192",
        "MAX_BATCH_PREFILL_TOKENS": "8192", "CUDA_MEMORY_FRACTION": "0.9", "HOSTNAME": "a1b2c3", "MAX_BEST_OF": "2",
    },
    "tgi-fp8": {"MODEL_ID": "a/b", "NUM_SHARD": "4", "QUANTIZE": "fp8", "KV_CACHE_DTYPE": "fp8_e5m2"},
    "lmi-9-dist": {
        "HF_MODEL_ID": "meta-llama/Meta-Llama-3-8B", "OPTION_ROLLING_BATCH": "lmi-dist",
        "TENSOR_PARALLEL_DEGREE": "max", "OPTION_MAX_ROLLING_BATCH_SIZE": "64", "OPTION_DTYPE": "fp16",
        "HF_TOKEN": "hush", "OPTION_MODEL_LOADING_TIMEOUT": "1600",
    },
    "lmi-9-trtllm": {
        "SERVING_LOAD_MODELS": "test::MPI=/opt/ml/model", "OPTION_MODEL_ID": "TheBloke/Llama-2-7B-fp16",
        "OPTION_TENSOR_PARALLEL_DEGREE": "4", "OPTION_ROLLING_BATCH": "trtllm", "OPTION_MAX_INPUT_LEN": "1024",
        "OPTION_MAX_OUTPUT_LEN": "512", "OPTION_MAX_ROLLING_BATCH_SIZE": "16",
    },
    "lmi-9-vllm": {
        "OPTION_ENGINE": "Python", "OPTION_MODEL_ID": "TheBloke/Llama-2-13B-AWQ", "OPTION_ROLLING_BATCH": "vllm",
        "OPTION_QUANTIZE": "awq", "OPTION_MAX_MODEL_LEN": "4096", "OPTION_GPU_MEMORY_UTILIZATION": "0.8",
        "OPTION_TENSOR_PARALLEL_DEGREE": "2", "SERVING_FAIL_FAST": "true", "SERVING_JOB_QUEUE_SIZE": "500",
    },
    "vllm-text": {
        "SM_VLLM_MODEL": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "SM_VLLM_HF_TOKEN": "hush",
        "SM_VLLM_MAX_MODEL_LEN": "16384", "SM_VLLM_GPU_MEMORY_UTILIZATION": "0.85", "SM_VLLM_ENFORCE_EAGER": "true",
    },
    "vllm-lora": {
        "SM_VLLM_MODEL": "/opt/ml/model", "SM_VLLM_TENSOR_PARALLEL_SIZE": "4", "SM_VLLM_ENABLE_LORA": "true",
        "SM_VLLM_MAX_LORAS": "8", "SM_VLLM_MAX_LORA_RANK": "64", "SM_VLLM_DTYPE": "bfloat16", "VLLM_USE_V1": "1",
    },
    "vllm-tools": {
        "SM_VLLM_MODEL": "Qwen/Qwen2.5-VL-7B", "SM_VLLM_LIMIT_MM_PER_PROMPT": '{"image":6, "video":0}',
        "SM_VLLM_ENABLE_AUTO_TOOL_CHOICE": "true", "SM_VLLM_TOOL_CALL_PARSER": "hermes",
        "SM_VLLM_ENABLE_PREFIX_CACHING": "true", "SM_VLLM_MAX_NUM_SEQS": "64", "SM_VLLM_QUANTIZATION": "fp8",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("form", ["file", "variables"])
def test_what_is_written_resolves_without_a_problem(tmp_path, plugins, name, form):
    found = translate(ENDPOINTS[name], recognise(ENDPOINTS[name]), plugins)
    assert not found.changes_answers
    assert found.problems == []
    assert recognise(ENDPOINTS[name]) is table_of(name.partition("-")[0])
    folder = write_model(tmp_path)
    # The model itself lies in the folder here, so that nothing is fetched.
    lines = as_properties(found) if form == "file" else as_variables(found)
    text = "\n".join(line for line in lines if "model_id=" not in line.lower() or line.startswith("#"))
    assert "hush" not in text
    (folder / "serving.properties").write_text(text if form == "file" else "")
    environ = read_environment(text, "test", {}) if form == "variables" else {}
    resolved = effective(str(folder), flags={}, environ=environ, plugins=plugins, devices="cuda:4")
    assert [str(each) for each in resolved.problems if each.code != "engine.not-implemented"] == []
    for setting in found.settings:
        if setting.key not in ("option.model_id", "option.tensor_parallel_degree"):
            assert resolved.settings[setting.key].value == setting.value


# --------------------------------------------------------------------------------------------------- forms of input


VARIABLES = {"NUM_SHARD": "4", "MODEL_ID": "a/b"}
FORMS = {
    "lines": "# comment\n\nNUM_SHARD=4\nMODEL_ID=a/b\n",
    "windows": "\ufeffNUM_SHARD=4\r\nMODEL_ID=a/b\r\n",
    "shell": "export NUM_SHARD='4'\nexport MODEL_ID=\"a/b\"\n",
    "dockerfile": "ENV NUM_SHARD=4\nENV MODEL_ID=a/b",
    "docker run": "  -e NUM_SHARD=4 \\\n  --env MODEL_ID=a/b \\\n",
    "json": json.dumps(VARIABLES),
    "numbers": '{"NUM_SHARD": 4, "MODEL_ID": "a/b"}',
    "describe-model": json.dumps({"ModelName": "m", "PrimaryContainer": {"Image": "i", "Environment": VARIABLES}}),
    "containers": json.dumps({"Containers": [{"Environment": VARIABLES, "Image": "i"}]}),
    "notebook": "env = {'NUM_SHARD': 4, 'MODEL_ID': 'a/b'}",
    "boto3": "Environment={'NUM_SHARD': '4', 'MODEL_ID': 'a/b',}",
    "list": '["NUM_SHARD=4", "MODEL_ID=a/b"]',
    "docker inspect": json.dumps([{"Id": "x", "Config": {"Env": ["NUM_SHARD=4", "MODEL_ID=a/b"], "Cmd": ["x=y"]}}]),
    "orchestrator": json.dumps({"env": [{"name": key, "value": value} for key, value in VARIABLES.items()]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_variables_are_read_from_every_form(form):
    assert read_environment(FORMS[form], "test", {}) == VARIABLES


def test_a_line_that_is_only_a_name_takes_the_value_of_this_process():
    assert read_environment("NUM_SHARD\nA=1", "test", {"NUM_SHARD": "4"}) == {"NUM_SHARD": "4", "A": "1"}


@pytest.mark.parametrize(("line", "value"), [("A=x=y#z", "x=y#z"), ("A='x", "'x"), ('A="a\\"b"', 'a"b')])
def test_a_value_is_kept_as_it_is_but_for_its_quotes(line, value):
    assert read_environment(line, "test", {}) == {"A": value}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NUM_SHARD 4", "1 is not KEY=VALUE"),
        ("A=1\nb c=hush", "line 2"),
        ("{'a': 'hush", "neither JSON nor a Python dict"),
        ("{'a': get('hush')}", "'a' is computed: get('...')"),
        ("{" * 5000, "neither JSON nor a Python dict"),
        ('{"a": {"b": "hush"}}', "no environments"),
        ('[{"Env": ["A=hush"]}, {"Env": ["A=2"]}]', "2 environments"),
    ],
)
def test_a_text_without_variables_is_an_error_that_shows_no_value(text, said):
    with pytest.raises(ConfigError, match=r"config\.not-an-environment") as caught:
        read_environment(text, "test", {})
    assert said in str(caught.value)
    assert "hush" not in str(caught.value)


@given(st.text(max_size=200))
@example("[" * 3000)
def test_no_text_makes_reading_fail_otherwise(text):
    try:
        read = read_environment(text, "test", {})
    except ConfigError:
        return
    assert all(isinstance(each, str) for pair in read.items() for each in pair)


# ---------------------------------------------------------------------------------------------------------- properties


KNOWN = sorted(
    {variable for server in server_names() for variable in table_of(server).variables}
    | {"OPTION_DTYPE", "OPTION_ENV", "OPTION_TASK", "HF_MODEL_ID", "SERVING_LOAD_MODELS", "SERVING_X", "SM_VLLM_SEED"}
    | {"SM_VLLM_CHAT_TEMPLATE", "SM_VLLM_COMPILATION_CONFIG", "OPTION_CHAT_TEMPLATE", "OPTION_ROLLING_BATCH"}
)
VALUES = st.text(max_size=20) | st.sampled_from(
    ["true", "false", "4", "max", "@/x\0", "{{x}}", "a=b", "MPI=/x", "hf", "vllm", '{"a": 1}', "fp16", "x # y", "a\nb"]
)
PREFIXES = st.sampled_from(["", "OPTION_", "SERVING_", "SM_VLLM_", "SM_VLLM_NO_", "option."])
NAMES = st.sampled_from(KNOWN) | st.builds("{}{}".format, PREFIXES, st.text(max_size=10))
ENVIRONMENTS = st.dictionaries(NAMES, VALUES, max_size=5)


@hypothesis_settings(deadline=None)
@given(ENVIRONMENTS, st.sampled_from(["auto", *server_names()]))
@example({"OPTION_DTYPE": "@/a\0b", "OPTION_": "x", "": ""}, "lmi")
@example({"SM_VLLM_CHAT_TEMPLATE": "\ud800"}, "vllm")
def test_no_environment_fails_and_every_variable_is_accounted_for(plugins, variables, server):
    try:
        table = recognise(variables) if server == "auto" else table_of(server)
        found = translate(variables, table, plugins)
    except ConfigError:
        return
    assert [each.variable for each in found.outcomes] == list(variables)
    sources = {setting.source for setting in found.settings}
    for outcome in found.outcomes:
        is_written = outcome.variable in sources
        by_flag = outcome.why.startswith("start with")
        assert (outcome.fate is Fate.TRANSLATED) == (is_written or by_flag)


@hypothesis_settings(deadline=None)
@given(st.text(min_size=1, max_size=30) | st.sampled_from(["a # b", "{{ x }} # y", "a\\b\n c", "=:#!", "\x85a\u2028b"]))
def test_what_is_written_is_read_back_as_it_was(tmp_path_factory, plugins, value):
    found = translate({"SM_VLLM_CHAT_TEMPLATE": value}, table_of("vllm"), plugins)
    folder = tmp_path_factory.mktemp("written")
    expected = written(found)
    for is_file in (True, False):
        left_out = {each.setting.key for each in unwritable(found, as_file=is_file)}
        lines = as_properties(found) if is_file else as_variables(found)
        content = "\n".join(lines).encode()
        (folder / "serving.properties").write_bytes(content if is_file else b"")
        environ = {} if is_file else read_environment(content.decode(), "test", {})
        read = read_settings(model_folder=folder, environ=environ, flags={})
        assert {key: read[key].value for key in read} == {
            key: text for key, text in expected.items() if key not in left_out
        }


# --------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def run(monkeypatch):
    def _run(*arguments, text=None, **environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(config, ["import", *arguments], input=text, catch_exceptions=False)

    return _run


def test_a_file_gives_a_file_and_says_on_standard_error_what_is_lost(run, tmp_path):
    (tmp_path / "endpoint.env").write_text("MODEL_ID=a/b\nNUM_SHARD=4\nLORA_ADAPTERS=c/d\nHF_TOKEN=hush\nLANG=C\n")
    found = run(str(tmp_path / "endpoint.env"))
    assert found.exit_code == 1
    assert found.stdout.splitlines() == [
        "# Imported from variables of Text Generation Inference",
        "# MODEL_ID=a/b",
        "option.model_id=a/b",
        "# NUM_SHARD=4",
        "option.tensor_parallel_degree=4",
        "# These stay variables: HF_TOKEN",
    ]
    assert "changes answers: LORA_ADAPTERS=c/d: adapters of a list are not served yet." in found.stderr
    assert "keep as a variable: HF_TOKEN=***: it holds a secret" in found.stderr
    assert "keep as variables, which are no one's in particular: LANG" in found.stderr
    assert "hush" not in found.output


def test_standard_input_gives_variables(run):
    found = run("-", "--env", text='{"SM_VLLM_MODEL": "a/b", "SM_VLLM_SEED": "1"}')
    assert found.exit_code == 0
    lines = [line for line in found.stdout.splitlines() if not line.startswith("#")]
    assert lines == ["OPTION_MODEL_ID=a/b", "OPTION_ROLLING_BATCH=vllm", "OPTION_SEED=1"]


def test_without_a_file_the_process_s_own_variables_are_read(run):
    found = run("--from", "tgi", NUM_SHARD="3", LANG="C")
    assert "option.tensor_parallel_degree=3" in found.stdout
    assert "no one's in particular" not in found.stderr


def test_a_value_that_a_form_cannot_hold_is_told(run):
    found = run("-", "--env", text=json.dumps({"SM_VLLM_CHAT_TEMPLATE": "a\nb"}))
    assert "OPTION_CHAT_TEMPLATE=" not in found.stdout
    assert "not written: option.chat_template (SM_VLLM_CHAT_TEMPLATE): a variable holds one line" in found.stderr
    assert "set OPTION_CHAT_TEMPLATE=@/absolute/path/of/it" in found.stderr
    assert found.exit_code == 1
    assert "option.chat_template=a\\nb" in run("-", text=json.dumps({"SM_VLLM_CHAT_TEMPLATE": "a\nb"})).stdout


def test_conflicts_of_the_result_are_told(run):
    found = run("-", text="SM_VLLM_MAX_LORAS=4\nSM_VLLM_MAX_CPU_LORAS=2\nSM_VLLM_ENABLE_LORA=true\n")
    assert "error: [config.conflict] max_cpu_loras=2 is less than max_loras=4" in found.stderr
    assert found.exit_code == 1


@pytest.mark.parametrize("name", ["/no/such/file", "a\0b"])
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(run, name):
    with pytest.raises(ConfigError, match=r"config\.unreadable"):
        run(name)


def test_only_one_form_is_written(run):
    assert run("-", "--env", "--properties", text="NUM_SHARD=1").exit_code == 2


def test_any_other_first_argument_is_a_model_as_ever(monkeypatch, tmp_path):
    (tmp_path / "serving.properties").write_text("option.rolling_batch=echo\n")
    found = CliRunner().invoke(config, [str(tmp_path)], catch_exceptions=False)
    assert "backend  echo" in found.stdout
