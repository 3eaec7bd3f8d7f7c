# SPDX-License-Identifier: Apache-2.0
"""Every key of LMI's reference is an option, of no use, or refused with what to do instead."""

import pytest

from lmi.api import BackendConfig, Severity, option
from lmi.config import ModelOptions
from lmi.config.coerce import as_text
from lmi.config.fields import keys_of, main_key
from lmi.config.tables import options_table, unsupported_table
from lmi.config.unsupported import KNOWN_KEYS, NOT_SUPPORTED, NOT_SUPPORTED_VALUES, OF_NO_USE
from lmi.plugins import Plugins
from tests.core.parsing import only, parsed, said

PLUGINS = Plugins.discover({"LMI_EXTENSIONS": ""})

PLAIN_DEFAULTS = """
    engine=Python job_queue_size=1000 batch_size=1 max_dynamic_batch_size=1 max_batch_delay=100 max_idle_time=60
    minWorkers=1 maxWorkers=1 load_on_devices=* log_request_metric=false metrics_aggregation=1000
    required_memory_mb=0 gpu.required_memory_mb=0 reserved_memory_mb=0 gpu.reserved_memory_mb=500 retry_threshold=10
""".split()  # noqa: SIM905
OPTION_DEFAULTS = """
    revision=none trust_remote_code=false handler=handle rolling_batch=auto tensor_parallel_degree=1 task=none
    model_loading_timeout=1800 predict_timeout=120 parallel_loading=false output_formatter=json
    enable_streaming=false waiting_steps=none max_batch_delay=100 max_idle_time=60 mpi_mode=false
    pythonExecutable=python3 enable_venv=false max_output_size=67108864 stop_sequence=none device_id=-1
    spec_length=0 tgi_compat=false adapters=adapters async_mode=false pipeline_parallel_degree=1 cluster_size=1
    bedrock_compat=false enable_stateful_sessions=false lmcache_auto_config=false
""".split()  # noqa: SIM905


@pytest.mark.parametrize("backend", sorted(PLUGINS.backends))
@pytest.mark.parametrize("text", [*PLAIN_DEFAULTS, *(f"option.{each}" for each in OPTION_DEFAULTS)])
def test_the_documented_default_of_a_key_stops_no_start_and_says_nothing(text, backend):
    types = PLUGINS.config_types()
    found = said(text, PLUGINS.backends[backend], types.pop(backend), others=types)
    harmless = {"config.other-backend", "config.deprecated", "config.conflict"}  # of the backend's own names
    spoken = [each for each in found if each.severity is Severity.ERROR or each.code not in harmless]
    assert list(map(str, spoken)) == []


@pytest.mark.parametrize("backend", sorted(PLUGINS.backends))
def test_every_option_of_the_core_may_be_set_to_its_default(backend):
    types = PLUGINS.config_types()
    kind = types.pop(backend)
    for name, field in ModelOptions.model_fields.items():
        if name == "output_formatter":
            continue  # unset is no value of it: none was a form of answers
        text = f"{main_key(name, field)}={as_text(field.get_default(call_default_factory=True))}"
        found = said(text, PLUGINS.backends[backend], kind, others=types)
        assert [str(problem) for problem in found if problem.severity is Severity.ERROR] == [], text


OPTIONS = """
    model_id model_dir revision trust_remote_code entryPoint handler rolling_batch max_rolling_batch_size
    tensor_parallel_degree task model_loading_timeout predict_timeout parallel_loading output_formatter
    enable_streaming waiting_steps mpi_mode pythonExecutable enable_venv env max_output_size stop_sequence
    device_id draft_model_id spec_length tgi_compat adapters modelName async_mode pipeline_parallel_degree
    cluster_size default_accept bedrock_compat enable_stateful_sessions sessions_path sessions_expiration
    lmcache_auto_config lmcache_config_file
""".split()  # noqa: SIM905
ALL_KEYS = {each.partition("=")[0] for each in PLAIN_DEFAULTS} | {f"option.{name}" for name in OPTIONS}


@pytest.mark.parametrize("key", sorted(ALL_KEYS))
def test_every_key_of_the_reference_is_known_to_the_core(key):
    known = {*keys_of(ModelOptions), *keys_of(BackendConfig), *KNOWN_KEYS}
    assert key in known


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log_request_metric=true", "/metrics counts every request"),
        ("metrics_aggregation=7", "/metrics holds each number"),
        ("model_dir=/m", "the model's folder is known"),
        ("device_id=0", "each copy is given its devices"),
        ("max_output_size=5", "buffer of fixed size"),
        ("waiting_steps=3", "as soon as there is room"),
        ("modelName=m", "found by what they are"),
        ("parallel_loading=true", "at the same time in any case"),
        ("sessions_path=/s", "kept in memory"),
        ("lmcache_auto_config=true", "up to the engine"),
        ("lmcache_config_file=/c", "up to the engine"),
        ("draft_model_id=m", "does not draft tokens"),
        ("spec_length=3", "does not draft tokens"),
    ],
)
def test_a_key_with_nothing_left_to_do_is_a_warning_that_says_why(text, words):
    problem = only(text)
    assert (problem.code, problem.severity) == ("config.of-no-use", Severity.WARNING)
    assert words in problem.message
    assert problem.hint
    assert problem.source == f"command line -o {text.partition('=')[0]}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enable_venv=true", "option.pythonExecutable"),
        ("cluster_size=2", "larger machine"),
        ("pipeline_parallel_degree=2", "option.tensor_parallel_degree"),
        ("bedrock_compat=true", "inputs and parameters"),
        ("default_accept=text/plain", "option.output_formatter"),
        ("adapters=/my/adapters", "Merge the adapter"),
        ("output_formatter=none", "jsonlines"),
        ("translatorFactory=ai.djl.Factory", "model.py"),
        ("application=nlp/text_generation", "model.py"),
        ("rolling_batch=disable stop_sequence=['a']", "parameters.stop"),
        ("task=feature-extraction", "Take option.task out"),
    ],
)
def test_a_key_that_would_change_answers_is_refused_with_what_to_do_instead(text, words):
    problem = only(text)
    assert (problem.code, problem.severity) == ("config.not-supported", Severity.ERROR)
    assert words in problem.hint
    assert problem.source == f"command line -o {text.split()[-1].partition('=')[0]}"


def test_a_variable_of_a_key_that_is_not_supported_is_refused_under_its_own_name():
    problem = only("", environ={"OPTION_BEDROCK_COMPAT": "true"})
    assert (problem.code, problem.source) == ("config.not-supported", "OPTION_BEDROCK_COMPAT")
    problem = only("", environ={"PIPELINE_PARALLEL_DEGREE": "4"})
    assert (problem.code, problem.source) == ("config.not-supported", "PIPELINE_PARALLEL_DEGREE")
    assert said("", environ={"PIPELINE_PARALLEL_DEGREE": "1"}) == []


def test_a_backend_that_has_an_option_of_such_a_name_gets_it():
    class Staged(BackendConfig):
        pipeline_parallel_degree: int = option(1, description="Stages.", unit="stages")

    assert parsed("pipeline_parallel_degree=2", config_type=Staged).config.pipeline_parallel_degree == 2


@pytest.mark.parametrize("typo", ["cluster_sise=2", "metrics_agregation=1", "metrics_agregation=1", "stop_sequences=a"])
def test_a_misspelt_key_is_compared_with_the_tables_too(typo):
    problem = only(typo)
    assert problem.code == "config.unknown-key"
    assert problem.hint.startswith("Did you mean '")
    assert problem.hint.removeprefix("Did you mean '").removesuffix("'?") in {*OF_NO_USE, *NOT_SUPPORTED, *KNOWN_KEYS}


def test_the_tables_do_not_speak_to_a_models_own_function():
    found = parsed("cluster_size=2 task=whatever stop_sequence=x rolling_batch=disable", allows_unknown=True)
    assert found.warnings == []
    assert found.config.max_rolling_batch_size == 32


@pytest.mark.parametrize("task", ["text-generation", "Text2Text-Generation", "conversational", "generate", "none"])
def test_a_task_that_generates_text_is_served(task):
    assert said(f"task={task}") == []


def test_an_unknown_task_gets_the_nearest_one():
    problem = only("task=text-genration")
    assert (problem.code, problem.hint) == ("config.invalid-value", "Did you mean 'text-generation'?")


def test_the_table_of_the_cores_options_has_their_keys_as_users_write_them():
    table = options_table(ModelOptions)
    for key in (
        "`batch_size`",
        "`option.entryPoint`",
        "`gpu.required_memory_mb`",
        "`minWorkers`",
        "`option.async_mode`",
    ):
        assert f"| {key} |" in table


def test_the_table_of_keys_that_are_no_options_has_each_of_them():
    rows = unsupported_table().splitlines()[2:]
    assert len(rows) == len(OF_NO_USE) + len(NOT_SUPPORTED) + len(NOT_SUPPORTED_VALUES)
    assert "| `log_request_metric` | of no use: /metrics counts every request |" in "\n".join(rows)
    assert all(row.count("|") == 5 for row in rows)
