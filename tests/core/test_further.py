# SPDX-License-Identifier: Apache-2.0
"""Models that options of another one name: looked at with it, and fetched with it from where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmi.api import ArtifactError, ConfigError, Problem, ProblemsError
from lmi.config.model_entries import ModelEntry
from lmi.further import folder_fields, model_fields
from lmi.loading import LoadPlan, plan
from lmi.plugins import Plugins
from lmi.starting import bring_here
from lmi.testing import write_tiny
from lmi_hf.lmi_dist.config import DistConfig
from lmi_neuronx.config import NeuronxConfig
from tests.buckets import Bucket

FIELD = "speculative_draft_model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama", tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """A model without a tokenizer, which its caller has."""
    folder = write_tiny("llama", tmp_path / "draft", seed=1)
    for path in folder.glob("*token*"):
        path.unlink()
    return folder


def planned(model: Path, location: str, tmp_path: Path) -> LoadPlan:
    return plan(
        ModelEntry(url=str(model)),
        flags={"option.rolling_batch": "lmi-dist", f"option.{FIELD}": location},
        environ={"LMI_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        plugins=Plugins.discover({"LMI_EXTENSIONS": ""}),
    )


def brought(made: LoadPlan, tmp_path: Path) -> LoadPlan:
    return bring_here(made, {"LMI_CACHE_DIR": str(tmp_path / "cache")}, lambda stage, fraction=None: None)


def put(bucket: Bucket, folder: Path) -> None:
    for path in folder.iterdir():
        bucket.put(f"drafts/{path.name}", path.read_bytes())


def refusal(model: Path, location: str, tmp_path: Path) -> Problem:
    with pytest.raises((ArtifactError, ConfigError)) as caught:
        planned(model, location, tmp_path)
    error: ProblemsError = caught.value
    [problem] = error.problems
    return problem


def test_an_option_says_that_it_names_a_model() -> None:
    assert model_fields(DistConfig) == [FIELD]


def test_an_option_says_that_it_names_a_folder_that_is_no_model() -> None:
    assert folder_fields(NeuronxConfig) == ["compiled_graph_path"]
    assert model_fields(NeuronxConfig) == []


def test_a_folder_is_described_where_it_is(model: Path, draft: Path, tmp_path: Path) -> None:
    made = planned(model, str(draft), tmp_path)
    assert made.artifacts.further[FIELD].folder == str(draft)
    assert brought(made, tmp_path).artifacts == made.artifacts


def test_a_prefix_of_a_store_is_looked_at_where_it_is_and_fetched_before_the_model_is_loaded(
    model: Path, draft: Path, bucket: Bucket, tmp_path: Path
) -> None:
    put(bucket, draft)
    made = planned(model, "s3://bucket/drafts/", tmp_path)
    seen = made.artifacts.further[FIELD]
    assert (seen.folder, seen.config["vocab_size"]) == ("s3://bucket/drafts", 300)
    assert not (tmp_path / "cache").exists()
    here = brought(made, tmp_path).artifacts.further[FIELD]
    assert here.path.is_relative_to(tmp_path / "cache")
    for path in draft.iterdir():
        assert (here.path / path.name).read_bytes() == path.read_bytes()


def test_a_name_on_the_hub_is_left_to_the_backend(model: Path, tmp_path: Path) -> None:
    made = planned(model, "org/draft", tmp_path)
    assert (dict(made.artifacts.further), dict(made.further_files)) == ({}, {})


@pytest.mark.parametrize("location", ["/no/such/folder", "./draft-of-nobody", "https://host/draft"])
def test_what_is_not_there_is_refused_with_the_option_that_names_it(model: Path, location: str, tmp_path: Path) -> None:
    problem = refusal(model, location, tmp_path)
    assert problem.code in ("model.not-found", "model.unsupported-location")
    assert problem.message.startswith(f"{FIELD}={location}: ")
    assert problem.source == f"command line -o option.{FIELD}"


def test_an_empty_prefix_of_a_store_is_refused(model: Path, bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("elsewhere/config.json", "{}")
    assert refusal(model, "s3://bucket/drafts", tmp_path).code == "model.not-found"


@pytest.mark.parametrize(
    ("spoilt", "code"), [("config.json", "config.missing"), ("model.safetensors", "weights.missing")]
)
def test_a_folder_that_is_no_whole_model_is_refused(
    spoilt: str, code: str, model: Path, draft: Path, tmp_path: Path
) -> None:
    (draft / spoilt).unlink()
    problem = refusal(model, str(draft), tmp_path)
    assert (problem.code, problem.message.startswith(f"{FIELD}={draft}: ")) == (code, True)


def test_a_model_with_other_token_ids_is_refused_before_it_is_fetched(
    model: Path, draft: Path, bucket: Bucket, tmp_path: Path
) -> None:
    config: dict[str, Any] = json.loads((draft / "config.json").read_text("utf-8"))
    (draft / "config.json").write_text(json.dumps({**config, "vocab_size": 256}), "utf-8")
    put(bucket, draft)
    problem = refusal(model, "s3://bucket/drafts", tmp_path)
    assert (problem.code, "256 token ids, the model 300" in problem.message) == ("engine.draft-misfit", True)
    assert problem.source == f"command line -o option.{FIELD}"
