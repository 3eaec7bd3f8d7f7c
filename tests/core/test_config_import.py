# SPDX-License-Identifier: Apache-2.0
"""`lmi config import`: which variable becomes which key, and what is said of the others."""

import pytest

from lmi.api import ConfigError
from lmi.imports import Fate, as_properties, as_variables, recognise, table_of, translate
from lmi.plugins import Plugins


@pytest.fixture(scope="module")
def plugins():
    return Plugins.discover({})


@pytest.fixture
def imported(plugins):
    def _imported(server="auto", backend=None, **variables):
        table = recognise(variables) if server == "auto" else table_of(server)
        return translate(variables, table, plugins, backend)

    return _imported


def written(found):
    return {setting.key: setting.value for setting in found.settings}


def fate(found, variable):
    [outcome] = [each for each in found.outcomes if each.variable == variable]
    return outcome.fate


# ------------------------------------------------------------------------------------------------- whose variables


@pytest.mark.parametrize(
    ("variables", "server"),
    [
        ({"OPTION_MODEL_ID": "a/b"}, "lmi"),
        ({"SERVING_LOAD_MODELS": "test::MPI=/opt/ml/model", "TENSOR_PARALLEL_DEGREE": "4"}, "lmi"),
        ({"HF_MODEL_ID": "a/b", "HF_TOKEN": "x"}, "lmi"),
        ({"HF_MODEL_ID": "a/b", "SM_NUM_GPUS": "4", "MAX_INPUT_LENGTH": "7"}, "tgi"),
        ({"MODEL_ID": "a/b", "NUM_SHARD": "2", "PORT": "80"}, "tgi"),
        ({"HF_MODEL_ID": "a/b", "OPTION_DTYPE": "fp16", "OPTION_TASK": "x", "NUM_SHARD": "2"}, "lmi"),
        ({"SM_VLLM_MODEL": "a/b", "HF_TOKEN": "x"}, "vllm"),
        ({"HF_MODEL_ID": "a/b", "SM_VLLM_MAX_MODEL_LEN": "9"}, "vllm"),
    ],
)
def test_the_server_is_recognised_by_variables_that_only_it_reads(variables, server):
    assert recognise(variables).name == server


@pytest.mark.parametrize("variables", [{}, {"PATH": "/bin", "HOSTNAME": "a", "PORT": "1", "SM_VLLM_": "", "A": ""}])
def test_variables_that_tell_nothing_are_an_error_that_says_what_to_do(variables):
    with pytest.raises(ConfigError, match=r"config\.unknown-environment.*--from"):
        recognise(variables)


def test_a_server_that_there_is_not_is_an_error_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'tgi'"):
        table_of("tgii")


# --------------------------------------------------------------------------------------- what becomes of a variable


TRANSLATED = [
    # LMI
    ("lmi", {"OPTION_MODEL_ID": "a/b"}, {"option.model_id": "a/b"}),
    ("lmi", {"HF_MODEL_ID": "a/b"}, {"option.model_id": "a/b"}),
    ("lmi", {"HF_MODEL_ID": "a/b", "OPTION_MODEL_ID": "c/d"}, {"option.model_id": "c/d"}),
    ("lmi", {"HF_REVISION": "main"}, {"option.revision": "main"}),
    ("lmi", {"HF_MODEL_TRUST_REMOTE_CODE": "true"}, {"option.trust_remote_code": "true"}),
    ("lmi", {"TENSOR_PARALLEL_DEGREE": "4", "SM_NUM_GPUS": "8"}, {"option.tensor_parallel_degree": "4"}),
    ("lmi", {"TENSOR_PARALLEL_DEGREE": "max"}, {"option.tensor_parallel_degree": "max"}),
    ("lmi", {"MAX_CONCURRENT_REQUESTS": "9"}, {"job_queue_size": "9"}),
    ("lmi", {"SERVING_JOB_QUEUE_SIZE": "9"}, {"job_queue_size": "9"}),
    ("lmi", {"OPTION_ENTRYPOINT": "djl_python.deepspeed"}, {"option.entryPoint": "djl_python.deepspeed"}),
    ("lmi", {"OPTION_DATA_TYPE": "fp16"}, {"option.dtype": "fp16"}),
    ("lmi", {"OPTION_S3URL": "s3://b/p"}, {"option.model_id": "s3://b/p"}),
    ("lmi", {"SERVING_LOAD_MODELS": "test::MPI=/opt/ml/model"}, {"engine": "MPI"}),
    ("lmi", {"SERVING_LOAD_MODELS": "test::MPI=/opt/ml/model", "OPTION_ENGINE": "Python"}, {"engine": "Python"}),
    ("lmi", {"SERVING_LOAD_MODELS": "llm::Python=s3://b/p/"}, {"engine": "Python", "option.model_id": "s3://b/p"}),
    ("lmi", {"SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "60"}, {"option.predict_timeout": "60"}),
    ("lmi", {"OPTION_ROLLING_BATCH": "vllm", "ENABLE_CUDA_GRAPHS": "false"},
     {"option.rolling_batch": "vllm", "option.enforce_eager": "true"}),
    ("lmi", {"OPTION_ROLLING_BATCH": "vllm", "CUDA_MEMORY_FRACTION": "0.8"},
     {"option.rolling_batch": "vllm", "option.gpu_memory_utilization": "0.8"}),
    ("lmi", {"OPTION_ROLLING_BATCH": "vllm", "OPTION_CHAT_TEMPLATE": "@/not/here"},
     {"option.rolling_batch": "vllm", "option.chat_template": "@/not/here"}),
    # Text Generation Inference
    ("tgi", {"NUM_SHARD": "4"}, {"option.tensor_parallel_degree": "4"}),
    ("tgi", {"SHARDED": "false"}, {"option.tensor_parallel_degree": "1"}),
    ("tgi", {"SHARDED": "true"}, {"option.tensor_parallel_degree": "max"}),
    ("tgi", {"SHARDED": "true", "NUM_SHARD": "2"}, {"option.tensor_parallel_degree": "2"}),
    ("tgi", {"NUM_SHARD": "2", "SM_NUM_GPUS": "4"}, {"option.tensor_parallel_degree": "4"}),
    ("tgi", {"NUM_SHARD": "1", "MODEL_ID": "a/b", "HF_MODEL_ID": "c/d"},
     {"option.tensor_parallel_degree": "1", "option.model_id": "c/d"}),
    ("tgi", {"REVISION": "main"}, {"option.tensor_parallel_degree": "max", "option.revision": "main"}),
    ("tgi", {"NUM_SHARD": "1", "DTYPE": "float16"}, {"option.tensor_parallel_degree": "1", "option.dtype": "fp16"}),
    ("tgi", {"NUM_SHARD": "1", "DTYPE": "bfloat16"}, {"option.tensor_parallel_degree": "1", "option.dtype": "bf16"}),
    ("tgi", {"NUM_SHARD": "1", "QUANTIZE": "bitsandbytes-nf4"},
     {"option.tensor_parallel_degree": "1", "option.quantize": "bitsandbytes4"}),
    ("tgi", {"NUM_SHARD": "1", "HF_MODEL_QUANTIZE": "gptq"},
     {"option.tensor_parallel_degree": "1", "option.quantize": "gptq"}),
    ("tgi", {"NUM_SHARD": "1", "MAX_TOTAL_TOKENS": "4096"},
     {"option.tensor_parallel_degree": "1", "option.max_model_len": "4096"}),
    ("tgi", {"NUM_SHARD": "1", "MAX_BATCH_PREFILL_TOKENS": "4096"},
     {"option.tensor_parallel_degree": "1", "option.max_rolling_batch_prefill_tokens": "4096"}),
    ("tgi", {"NUM_SHARD": "1", "MAX_BATCH_SIZE": "8", "MAX_CONCURRENT_REQUESTS": "9", "PAYLOAD_LIMIT": "5000000"},
     {"option.tensor_parallel_degree": "1", "option.max_rolling_batch_size": "8", "job_queue_size": "9",
      "max_request_size": "5000000"}),
    # vLLM's image
    ("vllm", {"SM_VLLM_MODEL": "a/b", "HF_MODEL_ID": "c/d"}, {"option.model_id": "a/b"}),
    ("vllm", {"HF_MODEL_ID": "c/d"}, {"option.model_id": "c/d"}),
    ("vllm", {"SM_VLLM_TENSOR_PARALLEL_SIZE": "4"}, {"option.tensor_parallel_degree": "4"}),
    ("vllm", {"SM_VLLM_MAX_NUM_SEQS": "8"}, {"option.max_rolling_batch_size": "8"}),
    ("vllm", {"SM_VLLM_QUANTIZATION": "awq"}, {"option.quantize": "awq"}),
    ("vllm", {"SM_VLLM_ENABLE_LORA": "true"}, {"option.enable_lora": "true"}),
    ("vllm", {"SM_VLLM_ENABLE_LORA": ""}, {"option.enable_lora": "true"}),
    ("vllm", {"SM_VLLM_NO_ENABLE_PREFIX_CACHING": ""}, {"option.enable_prefix_caching": "false"}),
    ("vllm", {"SM_VLLM_ENFORCE_EAGER": "false"}, {}),
    ("vllm", {"SM_VLLM_LIMIT_MM_PER_PROMPT": '{"image": 6}'}, {"option.limit_mm_per_prompt": '{"image": 6}'}),
    ("vllm", {"SM_VLLM_TASK": "generate"}, {"option.task": "text-generation"}),
    ("vllm", {"PROCESS_MAX_START_RETRIES": "3"}, {"retry_threshold": "3"}),
]  # fmt: skip


@pytest.mark.parametrize(("server", "variables", "expected"), TRANSLATED)
def test_a_variable_becomes_a_key(imported, server, variables, expected):
    if server == "vllm":
        expected = {"option.rolling_batch": "vllm"} | expected
    assert written(imported(server, **variables)) == expected


KEPT = [
    ("lmi", "HF_TOKEN", "hush"),
    ("lmi", "OPTION_ENV", "A=1,AWS_SECRET_ACCESS_KEY=hush"),
    ("lmi", "OPTION_MODEL_ID", "https://me:hush@host/model"),
    ("lmi", "SERVING_LOAD_MODELS", "ALL"),
    ("lmi", "SERVING_LOAD_MODELS", "a=s3://b/c,d=s3://b/e"),
    ("lmi", "SERVING_INFERENCE_ADDRESS", "http://0.0.0.0:8080"),
    ("lmi", "SERVING_DOWNLOAD_DIR", "/tmp/models"),
    ("lmi", "DJL_CACHE_DIR", "/tmp/models"),
    ("lmi", "DJL_OFFLINE", "true"),
    ("tgi", "HF_TOKEN", "hush"),
    ("tgi", "NGROK_AUTHTOKEN", "hush"),
    ("tgi", "CUDA_VISIBLE_DEVICES", "0,1"),
    ("vllm", "SM_VLLM_HF_TOKEN", "hush"),
    ("vllm", "VLLM_USE_V1", "1"),
]


@pytest.mark.parametrize(("server", "variable", "value"), KEPT)
def test_secrets_and_variables_of_other_programs_stay_variables(imported, server, variable, value):
    found = imported(server, **{variable: value})
    assert fate(found, variable) is Fate.KEPT
    assert not found.changes_answers
    assert "hush" not in "\n".join([*as_properties(found), *as_variables(found), *map(repr, found.outcomes)])


WITHOUT_COUNTERPART = [
    ("lmi", "OPTION_WAITING_STEPS", "5", False, "as soon as there is room"),
    ("lmi", "OPTION_BEDROCK_COMPAT", "true", True, "Bedrock"),
    ("lmi", "OPTION_BEDROCK_COMPAT", "false", False, "Bedrock"),
    ("lmi", "OPTION_ENABLE_VENV", "true", True, "no environment"),
    ("lmi", "OPTION_TENSOR_PARALEL_DEGREE", "4", True, "has an option 'tensor_paralel_degree'"),
    ("lmi", "OPTION_DTYPE", "", False, "empty"),
    ("lmi", "OPTION_MODEL_ID", "{{s3url}}", True, "nobody has filled in"),
    ("lmi", "OPTION_MODEL_ID", "/opt/ml/model/", False, "finds its model"),
    ("lmi", "SERVING_LOAD_MODELS", "a:b:c:d:e=/x", True, "is no [NAME"),
    ("lmi", "SERVING_ERROR_RATE_ANY", "3", True, "does not support"),
    ("lmi", "SERVING_NUMBER_OF_NETTY_THREADS", "3", False, "event loop"),
    ("lmi", "option.dtype", "fp16", True, "a line of serving.properties"),
    ("tgi", "WAITING_SERVED_RATIO", "1.2", False, "as soon as there is room"),
    ("tgi", "MAX_BEST_OF", "4", False, "no bound"),
    ("tgi", "MAX_BATCH_TOTAL_TOKENS", "8192", False, "memory"),
    ("tgi", "QUANTIZE", "eetq", True, "EETQ"),
    ("tgi", "QUANTIZE", "marlin", True, "Marlin"),
    ("tgi", "QUANTIZE", "nonsense", True, "'nonsense'"),
    ("tgi", "NUM_SHARD", "abc", True, "a whole number"),
    ("tgi", "CUDA_GRAPHS", "1,2,4", False, "chooses the sizes"),
    ("tgi", "ROPE_FACTOR", "2.0", True, "config.json"),
    ("tgi", "LORA_ADAPTERS", "a/b", True, "adapters"),
    ("tgi", "MESSAGES_API_ENABLED", "true", True, "/v1/chat/completions"),
    ("tgi", "MESSAGES_API_ENABLED", "false", False, "how LMI works"),
    ("tgi", "API_KEY", "hush", True, "asks for no key"),
    ("tgi", "USAGE_STATS", "off", False, "sends none"),
    ("tgi", "PORT", "$(rm)", False, "--port"),
    ("vllm", "SM_VLLM_API_KEY", "hush", True, "asks for no key"),
    ("vllm", "SM_VLLM_LORA_MODULES", "a=b", True, "adapters"),
    ("vllm", "SM_VLLM_NO_SUCH_THING", "1", True, "no_such_thing"),
    ("vllm", "SM_VLLM_DTYPE", "float17", True, "float17"),
    ("vllm", "SM_VLLM_ENABLE_PREFIX_CACHING", "false", False, "no flag for a false value"),
    ("vllm", "SM_VLLM_SWAP_SPACE", "4", False, "swap"),
]


@pytest.mark.parametrize(("server", "variable", "value", "changes", "why"), WITHOUT_COUNTERPART)
def test_what_has_no_counterpart_is_told_with_the_reason(imported, server, variable, value, changes, why):
    found = imported(server, **{variable: value})
    [outcome] = found.outcomes
    assert outcome.fate is (Fate.CHANGES if changes else Fate.NO_EFFECT)
    assert found.changes_answers is changes
    assert why in outcome.why
    assert "hush" not in repr(found.outcomes)


def test_a_misspelt_option_comes_with_the_nearest(imported):
    [outcome] = imported(OPTION_TENSOR_PARALEL_DEGREE="4").outcomes
    assert outcome.instead == "Did you mean 'option.tensor_parallel_degree'?"


def test_a_misspelt_variable_comes_with_the_nearest(imported):
    found = imported(MAX_TOTAL_TOKENS="9", MAX_INPUT_LENGHT="7")
    [outcome] = [each for each in found.outcomes if each.variable == "MAX_INPUT_LENGHT"]
    assert (outcome.fate, outcome.instead) == (Fate.KEPT, "Did you mean MAX_INPUT_LENGTH?")


def test_a_variable_that_another_one_beats_is_told_by_whom(imported):
    found = imported(OPTION_MODEL_ID="a/b", HF_MODEL_ID="c/d")
    [outcome] = [each for each in found.outcomes if each.variable == "HF_MODEL_ID"]
    assert (outcome.fate, outcome.why) == (Fate.NO_EFFECT, "OPTION_MODEL_ID says otherwise and wins")


def test_a_variable_of_another_server_is_told_from_those_of_no_one(imported):
    found = imported(OPTION_MODEL_ID="a/b", OPTION_DTYPE="fp16", NUM_SHARD="2", PATH="/bin")
    why = {each.variable: each.why for each in found.outcomes if each.fate is Fate.KEPT}
    assert why == {
        "NUM_SHARD": "it is a variable of Text Generation Inference, which LMI (DJL Serving) does not read",
        "PATH": "",
    }


@pytest.mark.parametrize(
    ("server", "variables", "flags"),
    [
        ("tgi", {"PORT": "8081", "LOG_LEVEL": "warn"}, ["--port 8081", "--log-level warning"]),
        ("vllm", {"SM_VLLM_SERVED_MODEL_NAME": "llm"}, ["--name llm"]),
        ("lmi", {"SERVING_LOAD_MODELS": "llm::Python=/opt/ml/model"}, ["--name llm"]),
    ],
)
def test_what_is_said_on_the_command_line_becomes_a_flag(imported, server, variables, flags):
    assert imported(server, **variables).flags == flags


# ------------------------------------------------------------------------------------------------ for which backend


def test_a_backend_is_named_where_auto_would_take_one_that_lacks_an_option(imported):
    found = imported("tgi", NUM_SHARD="1", QUANTIZE="fp8", KV_CACHE_DTYPE="fp8_e4m3fn")
    assert written(found)["option.rolling_batch"] == "vllm"
    assert written(found)["option.kv_cache_dtype"] == "fp8_e4m3"
    assert "# needed for QUANTIZE, KV_CACHE_DTYPE" in as_properties(found)


def test_options_of_another_backend_are_left_out(imported):
    found = imported(OPTION_ROLLING_BATCH="lmi-dist", OPTION_N_POSITIONS="512")
    [outcome] = [each for each in found.outcomes if each.variable == "OPTION_N_POSITIONS"]
    assert outcome.why == "'option.n_positions' is an option of neuronx, not of lmi-dist"
    assert not found.changes_answers


def test_another_backend_may_be_asked_for_and_its_options_are_known_by_the_librarys_names(imported):
    found = imported(
        "vllm", "hf", SM_VLLM_TENSOR_PARALLEL_SIZE="2", SM_VLLM_ENFORCE_EAGER="true", SM_VLLM_DTYPE="float16"
    )
    assert written(found) == {
        "option.rolling_batch": "hf", "option.tensor_parallel_degree": "2", "option.dtype": "float16",
    }  # fmt: skip
    assert fate(found, "SM_VLLM_ENFORCE_EAGER") is Fate.CHANGES
    assert found.problems == []


def test_what_chose_another_backend_is_left_out_when_one_is_asked_for(imported):
    found = imported(
        "lmi", "hf", OPTION_ROLLING_BATCH="lmi-dist", SERVING_LOAD_MODELS="m::MPI=/opt/ml/model", OPTION_DTYPE="fp16"
    )
    assert written(found) == {"option.rolling_batch": "hf", "option.dtype": "fp16"}


def test_a_backend_that_is_not_installed_is_an_error_with_the_nearest(imported):
    with pytest.raises(ConfigError, match=r"plugin\.not-installed.*Did you mean 'vllm'"):
        imported("tgi", "vlm", NUM_SHARD="1")


def test_a_configuration_for_a_backend_that_is_not_installed_is_written_with_a_warning():
    found = translate({"SM_VLLM_MAX_MODEL_LEN": "9", "SM_VLLM_MODEL": "a/b"}, table_of("vllm"), _without("vllm"))
    assert written(found) == {
        "option.model_id": "a/b", "option.rolling_batch": "vllm", "option.max_model_len": "9",
    }  # fmt: skip
    assert [problem.code for problem in found.problems] == ["plugin.not-installed"]


def _without(name):
    plugins = Plugins.discover({})
    plugins.records = [record for record in plugins.records if record.name != name]
    plugins.backends = {each: info for each, info in plugins.backends.items() if each != name}
    return plugins
