# SPDX-License-Identifier: Apache-2.0
"""Configurations that others have published as tested are planned as fitting; hints name a backend's own options."""

import re

import pytest

from lmi.planning import estimate, instance_of, memory_problems
from lmi.plugins import Plugins
from tests.core import planned_models as models
from tests.core.planned_models import N_PARAMETERS, artifacts_of

PLUGINS = Plugins.discover({})
LLAMA_7B = artifacts_of(models.LLAMA_2_7B, N_PARAMETERS["7B"], "F16")
LLAMA_13B = artifacts_of(models.LLAMA_2_13B, N_PARAMETERS["13B"], "F16")

# model, machine, degree, sequences, tokens of each, compression. Source: LMI's tuning guide for Transformers-NeuronX.
TESTED = [
    (LLAMA_7B, "ml.inf2.xlarge", 2, 4, 2048, None),
    (LLAMA_7B, "ml.inf2.24xlarge", 8, 4, 2048, None),
    (LLAMA_13B, "ml.inf2.xlarge", 2, 4, 512, "static_int8"),
    (LLAMA_13B, "ml.inf2.24xlarge", 8, 4, 2048, None),
]


@pytest.mark.parametrize(("artifacts", "instance", "degree", "n_sequences", "n_tokens", "quantize"), TESTED)
def test_what_lmi_tested_on_neuron_fits(artifacts, instance, degree, n_sequences, n_tokens, quantize):
    config = PLUGINS.config_type("neuronx")(
        n_positions=n_tokens, max_rolling_batch_size=n_sequences, tensor_parallel_degree=degree, quantize=quantize
    )
    found = estimate(artifacts, config, PLUGINS.backends["neuronx"], instance_of(instance).target())
    assert found.fit.n_sequences == n_sequences


def test_llama_13b_leaves_on_one_gpu_of_forty_gigabytes_what_the_paper_on_paged_attention_says():
    """It counts 26 GB of weights, some 12 GB for the cache, and 0.8 MB a token."""
    info = PLUGINS.backends["vllm"]
    target = instance_of("ml.p4d.24xlarge").target()
    found = estimate(LLAMA_13B, PLUGINS.config_type("vllm")(enforce_eager=True), info, target)
    assert found.fit.weight_bytes / 1e9 == pytest.approx(26, rel=0.01)
    assert found.fit.cache_bytes / 1e9 == pytest.approx(12, rel=0.1)


# backend, machine, options that leave room for few sequences
TIGHT = [
    ("vllm", "ml.g5.2xlarge", {}),
    ("hf", "ml.g5.2xlarge", {}),
    ("lmi-dist", "ml.g5.2xlarge", {}),
    ("deepspeed", "ml.g5.2xlarge", {"max_tokens": 4096}),
    ("neuronx", "ml.inf2.xlarge", {"n_positions": 4096}),
    ("trtllm", "ml.g5.2xlarge", {"max_input_len": 3500, "max_output_len": 590, "kv_cache_free_gpu_mem_fraction": 0.5}),
]


@pytest.mark.parametrize(("name", "instance", "options"), TIGHT)
def test_a_hint_about_length_names_options_that_the_backend_has_and_helps(name, instance, options):
    target, info, config_type = instance_of(instance).target(), PLUGINS.backends[name], PLUGINS.config_type(name)
    (problem,) = memory_problems(LLAMA_7B, config_type(**options), info, target)
    named = re.findall(r"option\.(\w+)", problem.hint)
    assert problem.code == "memory.few-sequences"
    assert set(problem.fields) == set(named) <= set(config_type.model_fields)
    n_tokens = int(re.search(r"(?:=| of )(\d+)", problem.hint)[1]) // len(named)
    shorter = {**options, **dict.fromkeys(named, n_tokens)}
    assert memory_problems(LLAMA_7B, config_type(**shorter), info, target) == []
