# SPDX-License-Identifier: Apache-2.0
"""Which layer wins, and what the variables of other servers mean."""

import pytest

from lmi.config import Setting, read_settings


@pytest.fixture
def read(tmp_path):
    def _read(text="", environ=(), flags=(), **more):
        (tmp_path / "serving.properties").write_text(text)
        return read_settings(model_folder=tmp_path, environ=dict(environ), flags=dict(flags), **more)

    return _read


LAYERS = [
    ("command line", {"flags": {"job_queue_size": "1"}}),
    ("serving.properties", {"text": "job_queue_size=2"}),
    ("OPTION_ variable", {"environ": {"OPTION_JOB_QUEUE_SIZE": "3"}}),
    ("entry of load_models", {"entry": [Setting("job_queue_size", "4", "SERVING_LOAD_MODELS")]}),
    ("SERVING_ variable", {"environ": {"SERVING_JOB_QUEUE_SIZE": "5"}}),
    ("variable of another server", {"environ": {"MAX_CONCURRENT_REQUESTS": "6"}}),
    ("config.properties", {"defaults": [Setting("job_queue_size", "7", "config.properties:1")]}),
]
"""Highest first."""


@pytest.mark.parametrize("upper", range(len(LAYERS) - 1))
@pytest.mark.parametrize("below", range(1, len(LAYERS)))
def test_each_layer_beats_every_layer_below_it(read, upper, below):
    if below <= upper:
        return
    given = {"environ": {}}
    for _, layer in (LAYERS[upper], LAYERS[below]):
        given = {**given, **layer, "environ": {**given["environ"], **layer.get("environ", {})}}
    winner = read(**given)["job_queue_size"]
    assert (winner.value, [each.value for each in winner.overrode]) == (str(upper + 1), [str(below + 1)])


@pytest.mark.parametrize(
    ("variable", "key", "value", "meant"),
    [
        ("HF_MODEL_ID", "option.model_id", "org/model", "org/model"),
        ("HF_REVISION", "option.revision", "v1", "v1"),
        ("HF_TASK", "option.task", "text-generation", "text-generation"),
        ("HF_MODEL_TRUST_REMOTE_CODE", "option.trust_remote_code", "true", "true"),
        ("HF_TRUST_REMOTE_CODE", "option.trust_remote_code", "true", "true"),
        ("HF_MODEL_QUANTIZE", "option.quantize", "awq", "awq"),
        ("TENSOR_PARALLEL_DEGREE", "option.tensor_parallel_degree", "max", "max"),
        ("SM_NUM_GPUS", "option.tensor_parallel_degree", "4", "4"),
        ("MAX_BATCH_SIZE", "option.max_rolling_batch_size", "16", "16"),
        ("MAX_CONCURRENT_REQUESTS", "job_queue_size", "100", "100"),
        ("MAX_BATCH_PREFILL_TOKENS", "option.max_rolling_batch_prefill_tokens", "4096", "4096"),
        ("ENABLE_CUDA_GRAPHS", "option.enforce_eager", "true", "false"),
        ("ENABLE_CUDA_GRAPHS", "option.enforce_eager", "False", "true"),
        ("ENABLE_CUDA_GRAPHS", "option.enforce_eager", "maybe", "maybe"),
        ("CUDA_MEMORY_FRACTION", "option.gpu_memory_utilization", "0.8", "0.8"),
        ("CUDA_MEMORY_FRACTION", "option.kv_cache_free_gpu_mem_fraction", "0.8", "0.8"),
        ("PIPELINE_PARALLEL_DEGREE", "option.pipeline_parallel_degree", "1", "1"),
        ("MODEL_LOADING_TIMEOUT", "option.model_loading_timeout", "1200", "1200"),
        ("PREDICT_TIMEOUT", "option.predict_timeout", "240", "240"),
        ("PYTHON_EXECUTABLE", "option.pythonExecutable", "/usr/bin/python3", "/usr/bin/python3"),
        ("DJL_ENTRY_POINT", "option.entryPoint", "djl_python.huggingface", "djl_python.huggingface"),
        ("SERVING_RETRY_THRESHOLD", "retry_threshold", "3", "3"),
        ("SAGEMAKER_NUM_MODEL_WORKERS", "minWorkers", "2", "2"),
        ("SAGEMAKER_NUM_MODEL_WORKERS", "maxWorkers", "2", "2"),
        ("SAGEMAKER_STARTUP_TIMEOUT", "option.model_loading_timeout", "900", "900"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "option.predict_timeout", "90", "90"),
        ("SAGEMAKER_MAX_REQUEST_SIZE", "max_request_size", "1000", "1000"),
    ],
)
def test_a_variable_of_another_server_means_a_key_of_lmi(read, variable, key, value, meant):
    setting = read(environ={variable: value})[key]
    assert (setting.value, setting.source) == (meant, variable)


def test_the_number_of_gpus_counts_only_where_no_degree_is_given(read):
    settings = read(environ={"SM_NUM_GPUS": "4", "TENSOR_PARALLEL_DEGREE": "2"})
    assert settings.text("option.tensor_parallel_degree") == "2"


def test_variables_of_sagemakers_servers_beat_the_models_own_file(read):
    settings = read("minWorkers=1", {"SAGEMAKER_NUM_MODEL_WORKERS": "3"})
    assert settings.text("minWorkers") == "3"


def test_a_foreign_model_id_that_another_one_beats_is_told(read):
    settings = read(environ={"HF_MODEL_ID": "org/a", "OPTION_MODEL_ID": "org/b"})
    assert settings.text("option.model_id") == "org/b"
    assert [str(problem) for problem in settings.problems] == [
        "[config.overruled] HF_MODEL_ID=org/a is not served: OPTION_MODEL_ID names org/b (HF_MODEL_ID). "
        "Remove HF_MODEL_ID."
    ]
    assert read(environ={"HF_MODEL_ID": "org/a", "OPTION_MODEL_ID": "org/a"}).problems == ()
