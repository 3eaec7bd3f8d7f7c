# SPDX-License-Identifier: Apache-2.0
"""Split weights, compiled graphs beside a model, and starts that compile, on neuronx."""

from __future__ import annotations

from typing import Any

import pytest

from lmi.api import ArtifactFormat, ModelArtifacts, Severity
from tests.backends.neuronx_models import GRAPH, LLAMA, checked, facts, made, plain, split

ERROR, WARNING = Severity.ERROR, Severity.WARNING

WITH_GRAPH = {"compiled_graph_path": "compiled"}
SPLITS = [
    (split(GRAPH), {**WITH_GRAPH, "load_split_model": True}, []),
    (split(GRAPH), WITH_GRAPH, ["weights.split"]),
    (plain(GRAPH), {**WITH_GRAPH, "load_split_model": True}, ["weights.not-split"]),
    (
        made(ArtifactFormat.NEURON_SPLIT, ["pytorch_model.bin/p0.x", GRAPH], {"config.json": LLAMA}),
        {**WITH_GRAPH, "load_split_model": True}, ["weights.shard-missing"],
    ),
    (split(), {"load_split_model": True}, ["engine.compiles-at-start"]),
    (split(), {}, ["weights.split", "engine.compiles-at-start"]),
    (plain(), {}, ["engine.compiles-at-start"]),
    (plain(GRAPH), WITH_GRAPH, []),
]  # fmt: skip


@pytest.mark.parametrize(("artifacts", "options", "codes"), SPLITS)
def test_split_weights_are_said_to_be_split_and_a_start_that_compiles_says_so(
    artifacts: ModelArtifacts, options: dict[str, Any], codes: list[str]
) -> None:
    found = checked(artifacts, **options)
    assert [each.code for each in found] == codes
    assert [each.severity is WARNING for each in found] == [each.startswith("engine.") for each in codes]


def test_split_weights_without_the_flag_say_what_to_set() -> None:
    problem = next(each for each in checked(split()) if each.code == "weights.split")
    assert (problem.hint, problem.fields) == ("Set option.load_split_model=true", ("load_split_model",))
    assert problem.path == "s3://bucket/model/pytorch_model.bin"


PATHS = [
    ("compiled", ""),
    ("./compiled/", ""),
    ("compiled/neuronxcc-2.12.54.0+f631c2365", ""),
    ("no-such-folder", "is no folder inside the model's, and no s3:// prefix"),
    ("../elsewhere", "is no folder inside the model's"),
    ("config.json", "is a file"),
    ("docs", "holds no compiled graph: neither .neff files nor a compiler's cache"),
]


@pytest.mark.parametrize("name", ["compiled_graph_path", "draft_model_compiled_path"])
@pytest.mark.parametrize(("path", "said"), PATHS)
def test_a_path_of_a_graph_leads_to_a_folder_of_graphs(name: str, path: str, said: str) -> None:
    found = checked(plain(GRAPH, "docs/readme.md"), **{name: path})
    assert facts([each for each in found if each.severity is ERROR]) == [("config.compiled-graph", ERROR)] * bool(said)
    assert all(said in each.message for each in found if each.fields == (name,) and each.severity is ERROR)


@pytest.mark.parametrize(("path", "codes"), [("/models/m/docs", ["config.compiled-graph"]), ("/models/m/compiled", [])])
def test_an_absolute_path_into_the_models_folder_is_one_of_it(path: str, codes: list[str]) -> None:
    found = checked(plain(GRAPH, "docs/readme.md", folder="/models/m"), compiled_graph_path=path)
    assert [each.code for each in found] == codes
