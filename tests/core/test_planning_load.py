# SPDX-License-Identifier: Apache-2.0
"""A load of requests against a configuration: what limits it, and the option that helps."""

import json

import pytest
from click.testing import CliRunner

from lmi.cli.plan import plan
from lmi.planning import CacheShape, Sizing
from lmi.planning.demand import Demand
from lmi.planning.fit import Fit
from lmi.planning.load import load_of
from tests.core import planned_models as models
from tests.core.planned_models import write_sparse


@pytest.fixture(scope="module")
def llama_7b(tmp_path_factory):
    return write_sparse(tmp_path_factory.mktemp("models") / "llama-7b", models.LLAMA_2_7B, "F16")


@pytest.fixture
def run(monkeypatch):
    for name in ("SM_NUM_GPUS", "TENSOR_PARALLEL_DEGREE", "CUDA_VISIBLE_DEVICES", "SERVING_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(plan, [*map(str, arguments)], catch_exceptions=False)


def planned(run, *arguments):
    found = run(*arguments, "--json")
    return found.exit_code, json.loads(found.stdout)


# options, the machine, requests of input and output tokens; exit code, what is advised
ADVICE = [
    ("", "24GiBx4", (64, 1536, 512), 0, ""),
    (
        "max_model_len=1024",
        "24GiBx4",
        (1, 1536, 512),
        1,
        "longer than the 1024 that the configuration allows: set option.max_model_len=2048",
    ),
    (
        "rolling_batch=trtllm",
        "24GiBx4",
        (1, 1536, 512),
        1,
        "set option.max_input_len=1536 and option.max_output_len=512",
    ),
    (
        "tensor_parallel_degree=1",
        "12GiBx4",
        (4, 512, 512),
        1,
        "set option.tensor_parallel_degree=2; it is 1, and not one sequence",
    ),
    (
        "max_rolling_batch_size=4",
        "80GiB",
        (16, 512, 512),
        0,
        "4 sequences a copy by option.max_rolling_batch_size; 16 would fit: set option.max_rolling_batch_size=16",
    ),
    ("max_rolling_batch_size=4", "80GiB", (4, 512, 512), 0, ""),
    ("max_rolling_batch_size=500", "24GiB", (64, 1536, 512), 0, ""),
]


@pytest.mark.parametrize(("option", "memory", "load", "exit_code", "advice"), ADVICE)
def test_what_limits_a_load_is_named_with_the_option_that_helps(run, llama_7b, option, memory, load, exit_code, advice):
    flags = [flag for each in ("rolling_batch=vllm", option) if each for flag in ("-o", each)]
    n, n_input, n_output = load
    demand = ("--concurrency", n, "--input-tokens", n_input, "--output-tokens", n_output)
    code, content = planned(run, llama_7b, "--device-memory", memory, *flags, *demand)
    assert (code, content["load"]["is_met"]) == (exit_code, exit_code == 0)
    told = "; ".join(content["load"]["advice"])
    assert advice in told if advice else told == ""


def test_the_batch_size_that_is_advised_runs_so_many_sequences(run, llama_7b):
    load = ("--concurrency", 900, "--input-tokens", 100, "--output-tokens", 100)
    flags = (llama_7b, "--device-memory", "40GiB", "-o", "rolling_batch=vllm", *load, "-o")
    _, content = planned(run, *flags, "max_rolling_batch_size=8")
    n = int(content["load"]["advice"][0].rpartition("=")[2])
    _, content = planned(run, *flags, f"max_rolling_batch_size={n}")
    assert 8 < n == content["load"]["n_sequences"] < 900
    assert content["load"]["advice"] == []


def test_a_load_on_devices_of_unknown_memory_gets_no_verdict(run, llama_7b):
    found = run(llama_7b, "--devices", "cuda:4", "-o", "rolling_batch=vllm", "--concurrency", 4)
    assert (found.exit_code, "how it is met depends on the memory" in found.stdout) == (0, True)


def test_a_default_degree_that_no_request_fits_does_not_meet_a_load_that_another_one_does():
    sizing = Sizing(dtype="fp16", degree=1, max_sequences=8)
    cache = CacheShape(full_bytes=10)
    one, two = (
        Fit(
            degree=degree, memory_bytes=9000, weight_bytes=0, activation_bytes=0, overhead_bytes=0, reserve_bytes=0,
            cache_bytes=n_bytes, cache=cache, max_model_len=2048, max_sequences=8,
        )
        for degree, n_bytes in ((1, 500), (2, 5000))
    )  # fmt: skip
    found = load_of(
        Demand(concurrency=2, input_tokens=50, output_tokens=50), fits=[one, two], configured=one, n_devices=2,
        wanted_degree=0, sizing=sizing, config=None, refit=lambda sizing, degree: two,
    )  # fmt: skip
    assert (found.is_met, found.answer.fit.degree) == (False, 2)
    assert found.advice == ("set option.tensor_parallel_degree=2; it is 1, and not one sequence of the load fits",)
