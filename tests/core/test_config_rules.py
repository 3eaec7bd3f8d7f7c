# SPDX-License-Identifier: Apache-2.0
"""Rules over several of the core's options: one row a rule of LMI's reference, and every row names its sources."""

import pytest

from lmi.api import BackendConfig, BackendInfo, OldValue, Severity, option
from lmi.config import read_settings
from lmi.config.batching import turned_off_by
from tests.core.parsing import ACME, only, parsed, said

ONE_PROCESS = BackendInfo(name="solo", summary="", modes=("Python",), engine_names=("Python",))
RANKS = BackendInfo(
    name="ranks", summary="", modes=("MPI",), engine_names=("Old", "MPI"), async_entry_points=("pack.async",),
    old_values=(OldValue(key="engine", value="Old", write="engine=MPI"),),
)  # fmt: skip
STREAMS = BackendInfo(name="streams", summary="", streams_batches=True)

# --------------------------------------------------------------------------------------------------------- old names


@pytest.mark.parametrize(
    ("flags", "environ", "old"),
    [
        ("s3url=s3://bucket/m", {}, "command line -o s3url"),
        ("option.s3url=s3://bucket/m", {}, "command line -o option.s3url"),
        ("", {"OPTION_S3URL": "s3://bucket/m"}, "OPTION_S3URL"),
    ],
)
def test_s3url_is_an_old_name_of_model_id(flags, environ, old):
    found = parsed(flags, environ=environ)
    assert found.options.model_id == "s3://bucket/m"
    (warning,) = found.warnings
    assert str(warning) == (
        f"[config.deprecated] 's3url' is an old name of 'option.model_id' ({old}). Write option.model_id=s3://bucket/m."
    )


def test_an_old_way_to_select_the_backend_is_a_warning_with_the_new_one():
    problem = only("engine=OLD", RANKS)
    assert (problem.code, problem.severity) == ("config.deprecated", Severity.WARNING)
    assert problem.hint == "Write engine=MPI"


# ------------------------------------------------------------------------------------------------------ whole batches


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 32),
        ("rolling_batch=auto", 32),
        ("rolling_batch=disable", 1),
        ("rolling_batch=DISABLE batch_size=4", 4),
        ("batch_size=4", 4),
        ("rolling_batch=auto batch_size=4", 4),
        ("max_dynamic_batch_size=4", 4),
        ("max_dynamic_batch_size=8 batch_size=2", 2),
        ("option.batch_size=3", 3),
        ("rolling_batch=disable async_mode=true", 32),
        ("rolling_batch=disable entryPoint=pack.async", 32),
        ("rolling_batch=acme batch_size=4", 32),
    ],
)
def test_without_continuous_batching_so_many_requests_run_together(text, size):
    found = parsed(text)
    assert found.config.max_rolling_batch_size == size
    shown = found.settings.text("option.max_rolling_batch_size")
    assert shown == (None if size == 32 else str(size))


def test_the_derived_size_names_where_it_comes_from():
    found = parsed("rolling_batch=disable batch_size=4")
    source = found.settings["option.max_rolling_batch_size"].source
    assert source == "batch_size, command line -o batch_size"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("rolling_batch=acme batch_size=4", "config.of-no-use", "continuous batching is on (rolling_batch=acme)"),
        (
            "rolling_batch=disable max_rolling_batch_size=8",
            "config.of-no-use",
            "continuous batching is off (option.rolling_batch=disable, command line -o rolling_batch)",
        ),
        ("max_dynamic_batch_size=8 batch_size=2", "config.overruled", "batch_size=2 (command line -o batch_size)"),
        ("enable_streaming=true", "config.of-no-use", "each request says whether it streams"),
        ("rolling_batch=disable enable_streaming=true", "config.deprecated", 'lines of the form {"outputs": [TEXT]}'),
        ("max_batch_delay=5", "config.of-no-use", "requests start at once, none waits for a batch to fill"),
        ("option.max_batch_delay=5", "config.of-no-use", "requests start at once"),
        ("rolling_batch=disable max_batch_delay=5", "config.of-no-use", "with batch_size=1 no request waits"),
        ("stop_sequence=['a']", "config.of-no-use", "never applied to continuous batching"),
    ],
)
def test_what_has_no_effect_beside_another_option_is_a_warning(text, code, words):
    problem = only(text)
    assert (problem.code, problem.severity) == (code, Severity.WARNING)
    assert words in problem.message


def test_a_delay_of_batches_is_taken_where_there_are_batches():
    assert said("batch_size=4 max_batch_delay=5") == []
    assert parsed("batch_size=4 max_batch_delay=5").options.max_batch_delay == 5
    assert parsed("max_batch_delay=0 batch_size=4").options.max_batch_delay == 0


@pytest.mark.parametrize("value", ["true", "huggingface", "TRUE"])
def test_enable_streaming_means_lines_while_continuous_batching_is_off(value):
    assert parsed(f"rolling_batch=disable enable_streaming={value}").options.output_formatter == "jsonlines"
    text = f"rolling_batch=disable enable_streaming={value} output_formatter=json"
    assert parsed(text).options.output_formatter == "json"
    assert parsed(f"enable_streaming={value}").options.output_formatter is None


@pytest.mark.parametrize("batches", ["batch_size=4", "batch_size=4 rolling_batch=disable"])
def test_whole_batches_do_not_stream_unless_the_backend_says_so(batches):
    problem = only(f"{batches} enable_streaming=true")
    assert problem.code == "config.conflict"
    assert "command line -o enable_streaming, command line -o batch_size" in problem.source
    assert [each.code for each in said(f"{batches} enable_streaming=true", STREAMS)] == ["config.deprecated"]


def test_a_backend_with_a_batch_size_of_its_own_judges_it_itself():
    class Compiled(BackendConfig):
        batch_size: int = option(1, description="Compiled batch.", unit="requests", ge=1)

    assert said("rolling_batch=acme batch_size=4", config_type=Compiled) == []
    assert parsed("max_dynamic_batch_size=4", config_type=Compiled).config.batch_size == 4
    assert len(said("batch_size=0", config_type=Compiled)) == 1


def test_what_turned_continuous_batching_off_is_known_before_anything_is_typed():
    settings = read_settings(model_folder=None, environ={"SERVING_BATCH_SIZE": "many"}, flags={})
    assert turned_off_by(settings, ACME) is None


# --------------------------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize(
    ("info", "text", "sources"),
    [
        (ONE_PROCESS, "rolling_batch=solo engine=MPI", ("engine", "rolling_batch")),
        (ONE_PROCESS, "rolling_batch=solo mpi_mode=true", ("mpi_mode", "rolling_batch")),
        (ONE_PROCESS, "entryPoint=pack.solo engine=mpi", ("engine", "entryPoint")),
        (ONE_PROCESS, "rolling_batch=solo engine=Python mpi_mode=TRUE", ("mpi_mode", "rolling_batch")),
        (
            RANKS,
            "rolling_batch=ranks engine=Python tensor_parallel_degree=2",
            ("engine", "rolling_batch", "tensor_parallel_degree"),
        ),
    ],
)
def test_a_mode_that_the_backend_does_not_have_is_an_error_that_names_all_lines(info, text, sources):
    problem = only(text, info)
    assert (problem.code, problem.severity) == ("config.conflict", Severity.ERROR)
    assert problem.source == ", ".join(f"command line -o {each}" for each in sources)
    assert "take the line" in problem.hint


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (ONE_PROCESS, "rolling_batch=solo engine=Python"),
        (ONE_PROCESS, "rolling_batch=solo mpi_mode=false"),
        (ONE_PROCESS, "rolling_batch=solo"),
        (RANKS, "rolling_batch=ranks engine=MPI tensor_parallel_degree=2"),
        (RANKS, "rolling_batch=ranks engine=Python mpi_mode=true tensor_parallel_degree=2"),
        (RANKS, "rolling_batch=ranks engine=Python tensor_parallel_degree=1"),
        (RANKS, "rolling_batch=ranks tensor_parallel_degree=2"),
        (RANKS, "entryPoint=pack.async engine=Python tensor_parallel_degree=2"),
        (RANKS, "async_mode=true engine=Python tensor_parallel_degree=2"),
        (ACME, "rolling_batch=acme engine=MPI tensor_parallel_degree=2"),
        (ACME, "rolling_batch=acme engine=Python tensor_parallel_degree=2"),
    ],
)
def test_a_mode_that_the_backend_has_is_fine(info, text):
    assert said(text, info) == []
