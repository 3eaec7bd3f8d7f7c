# SPDX-License-Identifier: Apache-2.0
"""Compiled models, split weights and compiled graphs on neuronx, against options, machine and container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lmi_neuronx
from lmi.api import ModelArtifacts, Severity, Target
from lmi.artifacts import detect
from lmi_neuronx.compiled import is_same_compiler, read_compiled
from lmi_neuronx.config import NeuronxConfig
from tests.backends.neuronx_models import (
    CACHE,
    GRAPH,
    HERE,
    OPTIMUM,
    SECTION,
    SHARDED,
    SPLIT,
    checked,
    facts,
    neuron,
    of_2_16,
    of_today,
    plain,
    split,
)

ERROR, WARNING = Severity.ERROR, Severity.WARNING
# --------------------------------------------------------------------------------------------------- compiled models

LAYOUTS = {"of 2.16": of_2_16(), "of today": of_today()}


def test_it_loads_weights_compiled_models_and_split_weights() -> None:
    assert lmi_neuronx.lmi_describe_backend().artifact_formats == ("pretrained", "neuron", "neuron-split")


@pytest.mark.parametrize("artifacts", LAYOUTS.values(), ids=LAYOUTS)
def test_what_a_model_was_compiled_for_is_understood(artifacts: ModelArtifacts) -> None:
    compiled = read_compiled(artifacts)
    assert compiled is not None
    sizes = (compiled.n_cores, compiled.sequence_length, compiled.batch_size, compiled.dtype)
    assert sizes == (2, 2048, 4, "bf16")


@pytest.mark.parametrize("artifacts", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    "options", [{}, {"n_positions": 2048, "tensor_parallel_degree": 2, "max_rolling_batch_size": 4, "dtype": "bf16"}]
)
def test_a_compiled_model_in_its_container_has_no_problems(artifacts: ModelArtifacts, options: dict[str, Any]) -> None:
    assert checked(artifacts, **options) == []


@pytest.mark.parametrize("value", [[], {}, None, "text", 10**18, -1, True, 1.5], ids=repr)
@pytest.mark.parametrize("key", OPTIMUM)
def test_whatever_stands_in_a_configuration_is_read_without_an_error(key: str, value: Any) -> None:
    section = {**SECTION, key: value}
    for artifacts in (of_today(**{key: value}), of_2_16(section=section, version="\n")):
        assert all(each.hint for each in checked(artifacts, n_positions=64, dtype="fp32", tensor_parallel_degree=3))


OTHERWISE = [
    ({"n_positions": 1024}, "sequence_length=2048, n_positions is 1024", "Set option.n_positions=2048"),
    ({"tensor_parallel_degree": 4}, "=2, tensor_parallel_degree is 4", "Set option.tensor_parallel_degree=2"),
    ({"max_rolling_batch_size": 8}, "batch_size=4, max_rolling_batch_size is 8", "option.max_rolling_batch_size=4"),
    ({"dtype": "fp32"}, "=bf16, dtype is fp32", "Set option.dtype=bf16"),
]


@pytest.mark.parametrize("artifacts", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("options", "said", "hint"), OTHERWISE)
def test_options_that_a_model_was_not_compiled_for_are_told(
    artifacts: ModelArtifacts, options: dict[str, Any], said: str, hint: str
) -> None:
    (problem,) = checked(artifacts, **options)
    assert (problem.code, problem.severity, problem.fields) == ("model.compiled-otherwise", ERROR, tuple(options))
    assert said in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize("artifacts", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"n_positions": 128}, ("n_positions",)),
        ({"max_rolling_batch_size": 32}, ("max_rolling_batch_size",)),
        ({"dtype": "fp16"}, ("dtype",)),
        ({"tensor_parallel_degree": 1}, ("tensor_parallel_degree",)),
    ],
)
def test_a_default_that_is_said_aloud_counts(
    artifacts: ModelArtifacts, options: dict[str, Any], fields: tuple[str, ...]
) -> None:
    assert [(each.code, each.fields) for each in checked(artifacts, **options)] == [
        ("model.compiled-otherwise", fields)
    ]


@pytest.mark.parametrize(
    ("target", "code"),
    [(neuron(12), "model.compiled-otherwise"), (neuron(0), "model.compiled-otherwise"), (neuron(1), "device.too-few")],
)
def test_cores_that_nobody_says_are_not_taken_from_the_model(target: Target, code: str) -> None:
    """The core hands out one core then, whatever the model was compiled for."""
    (problem,) = lmi_neuronx.lmi_validate_artifacts(of_2_16(), NeuronxConfig(), target)
    assert (problem.code, problem.severity) == (code, ERROR)


def test_whole_batches_have_a_size_of_their_own() -> None:
    (problem,) = checked(of_2_16(), batch_size=8, rolling_batch="disable")
    assert (problem.code, problem.fields) == ("model.compiled-otherwise", ("batch_size",))


BATCHING = [
    (of_today(continuous_batching=False), {"rolling_batch": "auto"}, "rolling_batch=auto asks for continuous batching"),
    (of_today(continuous_batching=False), {}, "whole batches of 4, and the options ask for continuous batching"),
    (of_today(continuous_batching=False), {"batch_size": 4}, ""),
    (of_today(continuous_batching=False, batch_size=1, max_batch_size=1), {}, ""),
    (of_today(), {"batch_size": 4, "rolling_batch": "disable"}, "compiled for continuous batching"),
]


@pytest.mark.parametrize(("artifacts", "options", "said"), BATCHING)
def test_the_kind_of_batching_is_compiled(artifacts: ModelArtifacts, options: dict[str, Any], said: str) -> None:
    found = checked(artifacts, **options)
    assert facts(found) == [("model.compiled-otherwise", ERROR)] * bool(said)
    assert all(said in each.message and each.hint for each in found)


MACHINES = [
    (of_today(tp_degree=24), neuron(12), {}, "device.too-few", "24 NeuronCores, and this machine has 12"),
    (of_2_16(section={**SECTION, "num_cores": 8}), neuron(2), {}, "device.too-few", "8 NeuronCores"),
    (of_today(), neuron(instance="ml.inf2.24xlarge"), {}, "model.compiled-otherwise", "for trn1, and this"),
    (of_today(), neuron(device_name="Inferentia2"), {}, "model.compiled-otherwise", "is of inf2"),
    (of_today(), neuron(device_name="Trainium1"), {}, "", ""),
    (of_today(), neuron(instance="ml.trn1.32xlarge"), {}, "", ""),
    (of_2_16(), neuron(instance="ml.inf1.6xlarge"), {}, "device.too-old", "ml.inf1.6xlarge has the first Inferentia"),
    (of_today(), Target(versions=HERE), {}, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("artifacts", "target", "options", "code", "said"), MACHINES)
def test_a_compiled_model_is_for_a_kind_of_machine(
    artifacts: ModelArtifacts, target: Target, options: dict[str, Any], code: str, said: str
) -> None:
    found = checked(artifacts, target, **options)
    assert facts(found) == [(code, ERROR)] * bool(code)
    assert all(said in each.message and each.hint for each in found)


LOADERS = [
    (of_today(), {"quantize": "static_int8"}, "quantize=static_int8 means the loader tnx, and optimum-neuron compiled"),
    (of_today(), {"model_loader": "tnx"}, "model_loader=tnx means the loader tnx"),
    (of_today(), {"model_loader": "optimum"}, ""),
    (of_2_16(), {"model_loader": "tnx"}, ""),
    (of_2_16(), {"model_loader": "optimum"}, "model_loader=optimum means the loader optimum, which no longer takes"),
]


@pytest.mark.parametrize(("artifacts", "options", "said"), LOADERS)
def test_a_compiled_model_has_its_loader(artifacts: ModelArtifacts, options: dict[str, Any], said: str) -> None:
    found = checked(artifacts, **options)
    assert facts(found) == [("config.model-loader", ERROR)] * bool(said)
    assert all(said in each.message and each.hint for each in found)


SPLIT_BELOW = [f"checkpoint/{each}" for each in SPLIT]
FILES = [
    (of_today(names=(SHARDED,)), "model.graph-missing", "there is no model.pt", "model.pt"),
    (of_today(names=("model.pt",)), "weights.missing", "neither safetensors nor the folder checkpoint", "checkpoint"),
    (of_today(names=("model.pt",), checkpoint_id="org/llama"), "", "", ""),
    (of_today(names=("model.pt", "model.safetensors")), "", "", ""),
    (of_2_16(names=SPLIT_BELOW), "model.graph-missing", "no compiled graph (*.neff)", "compiled"),
    (of_2_16(names=["compiled/a.neff"]), "weights.missing", "neither safetensors nor", "pytorch_model.bin"),
    (of_2_16(names=["compiled/a.neff"], weights=("model.safetensors",)), "", "", ""),
    (
        of_2_16(names=["compiled/a.neff", "checkpoint/pytorch_model.bin/p0.x"]), "weights.shard-missing",
        "no key_to_filename.json", "checkpoint/pytorch_model.bin/key_to_filename.json",
    ),
    (of_2_16(names=[*SPLIT_BELOW, f"compiled/{CACHE}/model.neff"]), "", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("artifacts", "code", "said", "end"), FILES)
def test_a_compiled_model_is_whole(artifacts: ModelArtifacts, code: str, said: str, end: str) -> None:
    found = checked(artifacts)
    assert facts(found) == [(code, ERROR)] * bool(code)
    assert all(said in each.message and each.path.startswith("s3://bucket/model/") for each in found)
    assert all(each.path.endswith(end) for each in found)


# -------------------------------------------------------------------------------------------------------- the compiler

SAME = [
    ("2.12.54.0+f631c2365", "2.12.54.0+f631c2365", True),
    ("2.12.54.0+f631c2365", "2.12.54.0", True),
    ("2.12.54.0+f631c2365", "2.12", True),
    ("2.12.54.0+f631c2365", "2.12.54.0+000000000", False),
    ("2.12.54.0", "2.13", False),
    ("2.1", "2.12", False),
]


@pytest.mark.parametrize(("graph", "there", "is_same"), SAME)
def test_versions_are_one_as_far_as_both_are_told(graph: str, there: str, is_same: bool) -> None:
    assert (is_same_compiler(graph, there), is_same_compiler(there, graph)) == (is_same, is_same)


OLD = {**SECTION, "compiler_version": "2.11.0.35"}
SILENT = {key: value for key, value in SECTION.items() if key != "compiler_version"}
OLD_CACHE = "compiled/neuronxcc-2.11.0.35+abc/MODULE_1+2/model.neff"
COMPILERS = [
    (of_2_16(section=OLD), {}, "neuronx-cc 2.11.0.35 compiled the graph (config.json), and the target has 2.12.54.0"),
    (of_2_16(section=SILENT, version="2.11.0.35\n"), {}, "2.11.0.35 compiled the graph (compiled/VERSION)"),
    (of_2_16(section=SILENT, version="NeuronX Compiler version 2.11.0.35"), {}, "2.11.0.35"),
    (of_2_16(section=SILENT, version="2.12.54.0"), {}, ""),
    (
        of_2_16(section=SILENT, names=[*SPLIT_BELOW, OLD_CACHE]), {},
        "2.11.0.35+abc compiled the graph (compiled/neuronxcc-2.11.0.35+abc)",
    ),
    (of_2_16(section=SILENT, names=[*SPLIT_BELOW, OLD_CACHE, f"compiled/{CACHE}/model.neff"]), {}, ""),
    (of_today(neuronxcc_version="2.11.0.35"), {}, "2.11.0.35 compiled the graph (neuron_config.json)"),
    (of_today(optimum_neuron_version="0.4.4"), {}, "optimum-neuron 0.4.4 compiled the model, and the target has 0.4.5"),
    (
        plain(OLD_CACHE), {"compiled_graph_path": "compiled"},
        "2.11.0.35+abc compiled the graph (compiled/neuronxcc-2.11.0.35+abc)",
    ),
    (plain(f"compiled/{CACHE}/model.neff"), {"compiled_graph_path": "compiled"}, ""),
    (
        plain(f"compiled/{CACHE}/model.neff", OLD_CACHE.replace("compiled", "old")),
        {"compiled_graph_path": "compiled"}, "",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("artifacts", "options", "said"), COMPILERS)
def test_a_graph_runs_under_the_compiler_that_made_it(
    artifacts: ModelArtifacts, options: dict[str, Any], said: str
) -> None:
    found = checked(artifacts, **options)
    assert facts(found) == [("model.compiler-version", ERROR)] * bool(said)
    assert all(said in each.message and each.fields == tuple(options) for each in found)
    assert all(each.path.startswith("s3://bucket/model/") and each.hint for each in found)


UNKNOWN = [
    (of_2_16(section=SILENT), neuron(), {}, "nothing says which neuronx-cc compiled the graph; the target has 2.12"),
    (of_2_16(section=SILENT), neuron(versions={}), {}, "nothing says which neuronx-cc compiled the graph"),
    (of_2_16(), neuron(versions={}), {}, "2.12.54.0+f631c2365 compiled the graph (config.json), and the target's is"),
    (
        plain("compiled/a.neff"), neuron(), {"compiled_graph_path": "compiled"},
        "nothing says which neuronx-cc compiled compiled_graph_path=compiled",
    ),
    (
        plain(), neuron(), {"compiled_graph_path": "s3://bucket/graphs"},
        "nothing says which neuronx-cc compiled compiled_graph_path=s3://bucket/graphs",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("artifacts", "target", "options", "said"), UNKNOWN)
def test_a_compiler_that_is_not_known_is_a_warning(
    artifacts: ModelArtifacts, target: Target, options: dict[str, Any], said: str
) -> None:
    (problem,) = checked(artifacts, target, **options)
    assert (problem.code, problem.severity) == ("model.compiled-elsewhere", WARNING)
    assert said in problem.message
    assert "--target neuronx-cc=VERSION" in problem.hint


def test_all_mistakes_are_told_at_once() -> None:
    found = checked(
        of_today(names=(SHARDED,), neuronxcc_version="2.11.0.35"), neuron(instance="ml.inf2.24xlarge"),
        n_positions=1024, tensor_parallel_degree=4, quantize="static_int8",
    )  # fmt: skip
    assert [each.code for each in found] == [
        "model.compiled-otherwise", "model.compiled-otherwise", "model.compiled-otherwise", "config.model-loader",
        "model.graph-missing", "model.compiler-version",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- real folders


def write(folder: Path, artifacts: ModelArtifacts) -> ModelArtifacts:
    for name in artifacts.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = artifacts.documents.get(name, {})
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return detect(folder)


@pytest.mark.parametrize(
    ("artifacts", "options"),
    [
        (of_2_16(section=SILENT, version="2.12.54.0+f631c2365"), {}),
        (of_today(), {}),
        (split(GRAPH), {"compiled_graph_path": "compiled", "load_split_model": True}),
    ],
)
def test_folders_on_disk_are_what_they_are(tmp_path: Path, artifacts: ModelArtifacts, options: dict[str, Any]) -> None:
    found = write(tmp_path, artifacts)
    assert found.format is artifacts.format
    assert checked(found, **options) == []
    assert facts(checked(found, neuron(versions={"neuronx-cc": "2.20"}), **options)) == [
        ("model.compiler-version", ERROR)
    ]
