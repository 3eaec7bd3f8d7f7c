# SPDX-License-Identifier: Apache-2.0
"""How neuronx spreads a model over NeuronCores: degrees, attention heads, strategies for grouped queries."""

from __future__ import annotations

from typing import Any

import pytest

import lmi_neuronx
from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Severity, Target
from lmi_neuronx.config import NeuronxConfig
from lmi_neuronx.cores import generation_of
from tests.backends.placing import placed

ERROR, WARNING = Severity.ERROR, Severity.WARNING


def machine(n_devices: int = 64, **said: str) -> Target:
    return Target(accelerator=Accelerator.NEURON, n_devices=n_devices, **said)  # type: ignore[arg-type]


def checked(heads: dict[str, Any], target: Target | None = None, **options: Any) -> list[Problem]:
    """What is wrong besides that a model without a graph is compiled at the start."""
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, **heads}
    artifacts = ModelArtifacts(
        folder="/models/m", format=ArtifactFormat.PRETRAINED, config=config, architectures=("LlamaForCausalLM",),
        model_type="llama", max_context_tokens=4096,
    )  # fmt: skip
    found = lmi_neuronx.lmi_validate_artifacts(artifacts, NeuronxConfig(**options), target or machine())
    return placed((each for each in found if each.code != "engine.compiles-at-start"), NeuronxConfig)


GENERATIONS = [
    ({"instance": "ml.inf2.48xlarge"}, "inf2"),
    ({"instance": "ml.trn1n.32xlarge"}, "trn1"),
    ({"instance": "trn2.48xlarge"}, "trn2"),
    ({"device_name": "Inferentia2"}, "inf2"),
    ({"device_name": "Trainium1"}, "trn1"),
    ({"device_name": "Trainium2"}, "trn2"),
    ({"instance": "ml.g5.xlarge"}, ""),
    ({}, ""),
]


@pytest.mark.parametrize(("said", "generation"), GENERATIONS)
def test_a_generation_is_known_by_instance_or_device(said: dict[str, str], generation: str) -> None:
    assert generation_of(machine(**said)) == generation


MHA = {"num_attention_heads": 32}
GQA = {"num_attention_heads": 32, "num_key_value_heads": 8}
DEGREES = [
    (MHA, 8, ""),
    (MHA, 3, "so the model's 32 attention heads are filled up to 33"),
    ({"num_attention_heads": 25}, 2, "25 attention heads are filled up to 26"),
    (GQA, 4, ""),
    (GQA, 8, ""),
    (GQA, 32, ""),
    ({"num_attention_heads": 48, "num_key_value_heads": 8}, 12, "8 key-value heads do not go evenly: each is kept 6"),
    ({"vocab_size": 32001, **MHA}, 4, ""),
    ({}, 3, ""),
]


@pytest.mark.parametrize(("heads", "degree", "said"), DEGREES)
def test_heads_that_do_not_go_evenly_are_a_warning(heads: dict[str, Any], degree: int, said: str) -> None:
    found = checked(heads, tensor_parallel_degree=degree)
    assert [(each.code, each.severity, each.fields) for each in found] == [
        ("config.tensor-parallel", WARNING, ("tensor_parallel_degree",))
    ] * bool(said)
    assert all(said in each.message and each.hint for each in found)


@pytest.mark.parametrize(
    ("heads", "hint"),
    [(MHA, "No core computes in vain with 1, 2, 4, 8"), ({"num_attention_heads": 28}, "in vain with 1, 2, 4")],
)
def test_the_degrees_that_are_named_are_those_that_the_machine_has(heads: dict[str, Any], hint: str) -> None:
    (problem,) = checked(heads, machine(12, instance="ml.inf2.24xlarge"), tensor_parallel_degree=12)
    assert problem.hint.endswith(hint)


@pytest.mark.parametrize("n_kv_heads", [10**15 + 1, 3])
def test_a_number_of_heads_that_no_model_has_is_no_long_search(n_kv_heads: int) -> None:
    heads = {"num_attention_heads": 10**15 + 1, "num_key_value_heads": n_kv_heads}
    (problem,) = checked(heads, tensor_parallel_degree=2)
    assert problem.code == "config.tensor-parallel"


CONNECTED = [
    ({"instance": "ml.inf2.24xlarge"}, 12, 4, ""),
    ({"instance": "ml.inf2.48xlarge"}, 24, 16, "connects 1, 2, 4, 8, 12, 24 cores on inf2"),
    ({"instance": "ml.trn1.32xlarge"}, 32, 4, "connects 1, 2, 8, 32 cores on trn1"),
    ({"instance": "ml.trn1.32xlarge"}, 32, 32, ""),
    ({"instance": "ml.trn2.48xlarge"}, 64, 16, ""),
    ({}, 32, 16, ""),
    ({"instance": "ml.inf2.xlarge"}, 2, 16, ""),  # too many, which is told by itself
]


@pytest.mark.parametrize(("said_of", "n_cores", "degree", "said"), CONNECTED)
def test_the_runtime_connects_some_numbers_of_cores(
    said_of: dict[str, str], n_cores: int, degree: int, said: str
) -> None:
    found = checked({"num_attention_heads": 32}, machine(n_cores, **said_of), tensor_parallel_degree=degree)
    assert [(each.code, each.severity) for each in found] == [("config.tensor-parallel", WARNING)] * bool(said)
    assert all(said in each.message for each in found)


def test_the_first_inferentia_is_too_old() -> None:
    (problem,) = checked(MHA, machine(4, instance="ml.inf1.xlarge"))
    assert (problem.code, problem.severity) == ("device.too-old", ERROR)


STRATEGIES = [
    (MHA, {"group_query_attention": "shard-over-heads"}, "each of the model's 32 heads has keys of its own"),
    (GQA, {"group_query_attention": "shard-over-heads", "tensor_parallel_degree": 8}, ""),
    (GQA, {"group_query_attention": "shard-over-heads", "tensor_parallel_degree": 16}, "so they are copied"),
    (
        GQA, {"group_query_attention": "shard-over-batch", "tensor_parallel_degree": 8, "max_rolling_batch_size": 12},
        "max_rolling_batch_size=12 does not go evenly over 8 cores",
    ),
    (
        GQA, {"group_query_attention": "shard-over-batch", "tensor_parallel_degree": 8, "max_rolling_batch_size": 16},
        "",
    ),
    (
        GQA, {"group_query_attention": "shard-over-batch", "tensor_parallel_degree": 8, "batch_size": 4},
        "batch_size=4 does not go evenly over 8 cores",
    ),
    (GQA, {"group_query_attention": "replicated-heads", "tensor_parallel_degree": 16}, ""),
    (GQA, {"group_query_attention": "all-gather-heads", "tensor_parallel_degree": 16}, ""),
    (
        {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 5},
        {"group_query_attention": "all-gather-heads", "tensor_parallel_degree": 6}, "2 key-value heads of 5",
    ),
    (MHA, {"shard_over_sequence": True}, "shard_over_sequence=true does nothing"),
    (GQA, {"shard_over_sequence": True, "tensor_parallel_degree": 16}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("heads", "options", "said"), STRATEGIES)
def test_a_strategy_that_cannot_be_kept_is_a_warning(heads: dict[str, Any], options: dict[str, Any], said: str) -> None:
    found = checked(heads, **options)
    assert [(each.code, each.severity) for each in found] == [("config.no-effect", WARNING)] * bool(said)
    assert all(said in each.message for each in found)


def test_spreading_by_position_needs_a_multiple_of_the_key_heads() -> None:
    (problem,) = checked(GQA, shard_over_sequence=True, tensor_parallel_degree=4)
    assert (problem.code, problem.severity) == ("config.tensor-parallel", ERROR)
    assert problem.fields == ("shard_over_sequence", "tensor_parallel_degree")
