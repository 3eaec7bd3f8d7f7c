# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits, how many sequences beside it, and what is said where it does not."""

from dataclasses import replace

import msgspec
import pytest

from lmi.api import (
    Accelerator,
    ArtifactFormat,
    BackendConfig,
    BackendInfo,
    MemoryOverhead,
    ModelArtifacts,
    Target,
    option,
)
from lmi.planning import Sizing, estimate, instance_of, memory_problems, parse_memory, summary_line, why_unknown
from lmi.planning.demand import Demand, answer
from lmi.planning.fit import refused_degree
from lmi.planning.machines import recommended
from tests.core import planned_models as models
from tests.core.planned_models import N_PARAMETERS, artifacts_of, shape

GB, GIB = 10**9, 1 << 30

INFO = BackendInfo(
    name="acme",
    summary="",
    accelerators=(Accelerator.CUDA, Accelerator.CPU),
    artifact_formats=("pretrained",),
    instances=("g5", "p4d", "p4de", "p5"),
    memory=MemoryOverhead(context_bytes=GB // 2, parallel_bytes=GB // 4, memory_share=0.9, prefill_tokens=2048),
)
LLAMA_7B = artifacts_of(models.LLAMA_2_7B, N_PARAMETERS["7B"], "F16")
LLAMA_70B = artifacts_of(models.LLAMA_3_70B, N_PARAMETERS["70B"])
A10G = instance_of("ml.g5.12xlarge").target()


class AcmeConfig(BackendConfig):
    dtype: str = option("auto", description="")
    quantize: str | None = option(None, description="")
    max_model_len: int = option(0, description="")
    kv_cache_dtype: str = option("auto", description="")
    gpu_memory_utilization: float = option(0.9, description="")
    kv_cache_memory_bytes: int = option(0, description="")
    pipeline_parallel_degree: int = option(1, description="")


def fit_of(artifacts, target=A10G, **options):
    return estimate(artifacts, AcmeConfig(**options), INFO, target).fit


def test_the_parts_of_a_device_add_up():
    fit = fit_of(LLAMA_7B)
    assert fit.weight_bytes == 2 * N_PARAMETERS["7B"]
    assert fit.overhead_bytes == GB // 2
    assert fit.needed_bytes + fit.cache_bytes == fit.memory_bytes
    assert fit.n_sequences == fit.cache_bytes // (4096 * 524_288) == 3


# options, weights of a device in GB, sequences of 4096 tokens
OPTIONS = [
    ({}, 13.477, 3),
    ({"quantize": "bitsandbytes4"}, 4.167, 7),
    ({"kv_cache_dtype": "fp8"}, 13.477, 7),
    ({"gpu_memory_utilization": 0.7}, 13.477, 1),
    ({"kv_cache_memory_bytes": 2 * 4096 * 524_288}, 13.477, 2),
    ({"max_rolling_batch_size": 2}, 13.477, 2),
    ({"tensor_parallel_degree": 2}, 6.738, 13),
    ({"tensor_parallel_degree": 4}, 3.369, 32),
    ({"pipeline_parallel_degree": 2}, 6.738, 13),
]


@pytest.mark.parametrize(("options", "weights_gb", "n_sequences"), OPTIONS)
def test_options_decide_what_fits(options, weights_gb, n_sequences):
    fit = fit_of(LLAMA_7B, **options)
    assert fit.weight_bytes / GB == pytest.approx(weights_gb, abs=0.002)
    assert fit.n_sequences == n_sequences


def test_shorter_sequences_are_more_and_longer_ones_than_the_model_takes_are_cut():
    assert fit_of(LLAMA_7B, max_model_len=1024).n_sequences > 3 * fit_of(LLAMA_7B).n_sequences
    assert fit_of(LLAMA_7B, max_model_len=100_000).max_model_len == 4096


# heads, key-value heads of the model; degree; whether layers are split; part of the reason, or ""
DEGREES = [
    (models.LLAMA_3_8B, 4, False, ""),
    (models.LLAMA_3_8B, 16, False, ""),
    (models.LLAMA_3_8B, 3, False, "32 attention heads cannot be split over 3 devices"),
    (models.LLAMA_3_8B, 64, False, "32 attention heads cannot be split over 64 devices"),
    (models.FALCON_7B, 2, False, "71 attention heads cannot be split over 2 devices"),
    (models.FALCON_7B, 2, True, ""),
    (models.LLAMA_3_8B, 40, True, ""),
    (models.DEEPSEEK_V2, 8, False, ""),
    ({**models.LLAMA_3_8B, "num_attention_heads": 24, "num_key_value_heads": 6}, 4, False, "6 key-value heads"),
]


# degree of Llama-3-70B's 64 heads where they may be split unevenly, the reason or ""
UNEVEN = [(24, ""), (64, ""), (65, "64 attention heads are fewer than 65 devices")]


@pytest.mark.parametrize(("degree", "reason"), UNEVEN)
def test_a_backend_that_pads_heads_takes_any_degree_up_to_their_number(degree, reason):
    assert refused_degree(shape(models.LLAMA_3_70B), degree, takes_uneven=True) == reason


@pytest.mark.parametrize(("config", "degree", "splits_layers", "reason"), DEGREES)
def test_a_model_is_split_where_its_heads_or_layers_can_be(config, degree, splits_layers, reason):
    found = refused_degree(shape(config), degree, splits_layers=splits_layers)
    assert found.startswith(reason) if reason else found == ""


# devices, layers of the fullest of 32, tables in it
LAYERS = [(1, 32, 2), (2, 16, 1), (3, 11, 1), (8, 4, 1), (32, 1, 1), (40, 1, 1)]


@pytest.mark.parametrize(("degree", "n_layers", "n_tables"), LAYERS)
def test_where_devices_get_whole_layers_the_fullest_counts_with_the_embedding_or_the_head(degree, n_layers, n_tables):
    info = replace(INFO, memory=replace(INFO.memory, splits_layers=True))
    fit = estimate(LLAMA_7B, AcmeConfig(tensor_parallel_degree=degree), info, A10G).fit
    table = 2 * 32_000 * 4096
    layer = (2 * N_PARAMETERS["7B"] - 2 * table) / 32
    assert fit.weight_bytes == round(n_layers * layer) + n_tables * table
    assert fit.cache.token_bytes == n_layers * 524_288 // 32
    assert fit.refusal == ""


def test_a_head_that_is_the_embedding_is_one_table():
    info = replace(INFO, memory=replace(INFO.memory, splits_layers=True))
    n_table, n_layers = 32_000 * 4096, 32
    tied = artifacts_of({**models.LLAMA_2_7B, "tie_word_embeddings": True}, N_PARAMETERS["7B"] - n_table, "F16")
    headers = msgspec.structs.replace(tied.weights, n_linear_parameters=tied.weights.n_parameters - n_table)
    tied = msgspec.structs.replace(tied, weights=headers)
    fit = estimate(tied, AcmeConfig(tensor_parallel_degree=4), info, A10G).fit
    assert fit.weight_bytes == 2 * round(headers.n_linear_parameters * 8 / n_layers + n_table)


def test_the_summary_says_why_a_degree_is_none():
    assert summary_line(estimate(LLAMA_7B, AcmeConfig(tensor_parallel_degree=3), INFO, A10G)).endswith(
        "32 attention heads cannot be split over 3 devices"
    )


def test_a_model_that_is_too_large_says_what_it_needs_and_what_would_do():
    (problem,) = memory_problems(LLAMA_7B, AcmeConfig(dtype="fp32"), INFO, A10G)
    assert (problem.code, problem.severity.value) == ("memory.model-too-large", "error")
    assert "weights 27 GB" in problem.message
    assert "each device has 24.1 GB, of which acme uses 21.7 GB" in problem.message
    assert problem.hint == "Set option.tensor_parallel_degree=2"


def test_a_model_too_large_for_all_devices_together_is_sent_to_a_larger_machine():
    (problem,) = memory_problems(LLAMA_70B, AcmeConfig(tensor_parallel_degree=4), INFO, A10G)
    assert problem.hint.startswith("It fits ml.g5.48xlarge with option.tensor_parallel_degree=8, or")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({}, "3 sequences of 4096 tokens at a time", "With option.max_model_len=3"),
        ({"gpu_memory_utilization": 0.65}, "one sequence may have 4096", "Set option.max_model_len="),
    ],
)
def test_few_sequences_are_a_warning_with_the_length_that_helps(options, message, hint):
    (problem,) = memory_problems(LLAMA_7B, AcmeConfig(**options), INFO, A10G)
    assert (problem.code, problem.severity.value) == ("memory.few-sequences", "warning")
    assert message in problem.message
    assert problem.hint.startswith(hint)


def test_more_devices_are_named_where_the_machine_has_them():
    alone = instance_of("ml.g5.2xlarge").target()
    hints = [memory_problems(LLAMA_7B, AcmeConfig(), INFO, target)[0].hint for target in (A10G, alone)]
    assert [hint.rpartition(", or ")[2] for hint in hints] == [
        "split the model over more devices", "take a machine with more memory",
    ]  # fmt: skip


def test_the_length_that_the_hint_names_removes_the_warning():
    (problem,) = memory_problems(LLAMA_7B, AcmeConfig(), INFO, A10G)
    n_tokens = int(problem.hint.partition("max_model_len=")[2].split()[0])
    assert memory_problems(LLAMA_7B, AcmeConfig(max_model_len=n_tokens), INFO, A10G) == []


def test_nothing_is_said_of_a_model_that_fits_or_of_memory_that_is_unknown():
    config = AcmeConfig(tensor_parallel_degree=4)
    assert memory_problems(LLAMA_7B, config, INFO, A10G) == []
    unknown = Target(accelerator=Accelerator.CUDA, n_devices=4)
    assert memory_problems(LLAMA_70B, config, INFO, unknown) == []


def test_on_a_cpu_the_memory_counts_that_the_host_has_free(monkeypatch):
    class Free:
        available = 10 * GB

    monkeypatch.setattr("psutil.virtual_memory", lambda: Free)
    (problem,) = memory_problems(LLAMA_7B, AcmeConfig(), INFO, Target())
    assert (problem.code, "the host has free 10 GB" in problem.message) == ("memory.model-too-large", True)
    assert memory_problems(LLAMA_7B, AcmeConfig(), INFO, Target(), is_here=False) == []


@pytest.mark.parametrize(
    ("artifacts", "reason"),
    [
        (ModelArtifacts(), "there are no model files"),
        (ModelArtifacts(folder="/m", format=ArtifactFormat.ADAPTER), "it is an adapter, without the model it is for"),
        (msgspec.structs.replace(LLAMA_7B, weights=ModelArtifacts().weights, files={}), "the size of its weights"),
        (msgspec.structs.replace(LLAMA_7B, config={}), "its config.json does not tell its layers"),
        (LLAMA_7B, ""),
    ],
)
def test_what_cannot_be_reckoned_says_why(artifacts, reason):
    assert why_unknown(artifacts).startswith(reason)
    if reason:
        assert memory_problems(artifacts, AcmeConfig(), INFO, A10G) == []


def test_the_summary_has_the_figures_in_one_line():
    line = summary_line(estimate(LLAMA_7B, AcmeConfig(tensor_parallel_degree=2), INFO, A10G))
    assert line.startswith("weights 6.74 GB (fp16) on each of 2 devices, cache 0.262 MB a token, activations ")
    assert line.endswith("of 24.1 GB: 13 sequences of 4096 tokens")


def test_machines_come_by_the_memory_of_their_devices_with_the_smallest_host_of_each():
    found = recommended(LLAMA_7B, AcmeConfig(max_model_len=2048), INFO)
    assert [each.instance.name for each in found] == [
        "ml.g5.xlarge", "ml.g5.12xlarge", "ml.g5.48xlarge", "ml.p4d.24xlarge", "ml.p5.48xlarge", "ml.p4de.24xlarge",
    ]  # fmt: skip
    assert [(each.fit.degree, each.n_copies) for each in found[:3]] == [(1, 1), (1, 4), (1, 8)]


def test_a_machine_is_recommended_at_the_smallest_degree_that_fits():
    found = {each.instance.name: each for each in recommended(LLAMA_70B, AcmeConfig(), INFO)}
    assert {name: each.fit.degree for name, each in found.items()} == {
        "ml.g5.48xlarge": 8, "ml.p4d.24xlarge": 4, "ml.p4de.24xlarge": 2, "ml.p5.48xlarge": 2,
    }  # fmt: skip


def test_a_load_takes_the_copies_it_needs():
    target = parse_memory("24GiBx4")
    fits = [estimate(LLAMA_7B, AcmeConfig(), INFO, target, degree=degree).fit for degree in (1, 2, 4)]
    demand = Demand(concurrency=58, input_tokens=1536, output_tokens=512)
    met = answer(demand, fits, 4)
    assert met.cache_bytes == 58 * 2048 * 524_288
    assert met.n_copies * met.n_sequences >= 58
    assert (met.n_machines, met.fit.degree, met.n_copies) == (1, 2, 2)


def test_a_load_beyond_one_machine_takes_several():
    target = parse_memory("24GiBx4")
    fits = [estimate(LLAMA_7B, AcmeConfig(), INFO, target, degree=4).fit]
    met = answer(Demand(concurrency=500, input_tokens=1536, output_tokens=512), fits, 4)
    assert (met.n_sequences, met.n_copies, met.n_machines) == (32, 16, 16)


def test_requests_longer_than_a_sequence_may_be_are_met_nowhere():
    fits = [fit_of(LLAMA_7B, tensor_parallel_degree=4)]
    assert answer(Demand(concurrency=1, input_tokens=4000, output_tokens=1000), fits, 4) is None


# options, what the cache's type is
CACHE_TYPES = [
    ("auto", "fp16"),
    ("fp8_e5m2", "fp8"),
    ("bfloat16", "bf16"),
    ("int8_per_token_head", "int8"),
    ("nvfp4", "4 bits"),
]


@pytest.mark.parametrize(("said", "dtype"), CACHE_TYPES)
def test_the_type_of_the_cache_is_known_by_its_many_names(said, dtype):
    assert Sizing.of(LLAMA_7B, AcmeConfig(kv_cache_dtype=said), INFO, A10G).cache_dtype == dtype
