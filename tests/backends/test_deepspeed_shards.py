# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in shards, adapters and files that options name, as deepspeed sees them: one row a rule."""

from typing import Any

import pytest

import lmi_deepspeed
from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Severity, Target
from lmi_deepspeed.config import DeepSpeedConfig

CUDA = Target(accelerator=Accelerator.CUDA, n_devices=8)
CPU = Target(accelerator=Accelerator.CPU, n_devices=8)
NAME = "ds_inference_config.json"
LISTED = {
    "type": "BLOOM", "version": 1.0, "parallelization": "tp", "tp_size": 2, "dtype": "float16",
    "checkpoints": {"non_tp": ["non-tp.pt"], "tp": ["tp_00_00.pt", "tp_01_00.pt"]},
}  # fmt: skip
SHARDS = ("non-tp.pt", "tp_00_00.pt", "tp_01_00.pt")


def sharded(*, lost: str = "", name: str = NAME, model_type: str = "bloom", **changes: Any) -> ModelArtifacts:
    """A bucket with shards for two devices; a key changed to None is left out of the json."""
    content = {key: value for key, value in {**LISTED, **changes}.items() if value is not None}
    files = dict.fromkeys((name, "config.json", *SHARDS), 100)
    files.pop(lost, None)
    return ModelArtifacts(
        folder="s3://models/bloom",
        format=ArtifactFormat.RANKED_CHECKPOINT,
        config={"model_type": model_type, "n_head": 32},
        model_type=model_type,
        files=files,
        documents={name: content, "config.json": {"model_type": model_type}},
    )


def problems(artifacts: ModelArtifacts, target: Target = CUDA, **options: Any) -> list[Problem]:
    return list(lmi_deepspeed.lmi_validate_artifacts(artifacts, DeepSpeedConfig(**options), target))


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, found
    return found[0]


def test_shards_for_this_degree_that_are_all_there_have_no_problems():
    assert problems(sharded(), checkpoint=NAME, tensor_parallel_degree=2) == []
    assert problems(sharded(), checkpoint=f"./{NAME}", tensor_parallel_degree=2, dtype="fp16") == []
    assert "ranked-checkpoint" in lmi_deepspeed.lmi_describe_backend().artifact_formats


@pytest.mark.parametrize("name", [NAME, "shards.json"])
def test_shards_without_the_option_that_names_them_say_what_to_set(name):
    problem = only(problems(sharded(name=name), tensor_parallel_degree=2))
    assert (problem.code, problem.hint) == ("weights.not-asked-for", f"Set option.checkpoint={name}")
    assert problem.fields == ("checkpoint",)


def test_shards_in_a_configuration_of_the_users_own_are_left_to_it():
    own = sharded()
    own.documents["ds.json"] = {"replace_with_kernel_inject": True}
    own.files["ds.json"] = 30
    assert problems(own, deepspeed_config_path="ds.json", tensor_parallel_degree=2) == []


@pytest.mark.parametrize(
    ("artifacts", "code", "said"),
    [
        pytest.param(sharded(lost="tp_01_00.pt"), "weights.shard-missing", "tp_01_00.pt is in ds_inf", id="a lost one"),
        pytest.param(sharded(lost="non-tp.pt"), "weights.shard-missing", "non-tp.pt is in", id="what all ranks read"),
        pytest.param(sharded(type=None), "weights.bad-checkpoint", "has no type", id="no type"),
        pytest.param(sharded(version=None), "weights.bad-checkpoint", "has no version", id="no version"),
        pytest.param(sharded(checkpoints=None), "weights.bad-checkpoint", "has no checkpoints", id="no list"),
        pytest.param(sharded(checkpoints=[]), "weights.bad-checkpoint", "lists no files", id="an empty list"),
        pytest.param(sharded(checkpoints={"tp": [5, None]}), "weights.bad-checkpoint", "lists no files", id="no names"),
        pytest.param(sharded(type="GPT"), "weights.bad-checkpoint", "has the type GPT", id="a strange type"),
        pytest.param(sharded(checkpoints=["../../x.pt"]), "weights.bad-checkpoint", "leads out of", id="a way out"),
        pytest.param(sharded(dtype="int8"), "weights.bad-checkpoint", "has dtype int8", id="8-bit shards"),
    ],
)
def test_a_json_that_cannot_be_used_says_why(artifacts, code, said):
    problem = only(problems(artifacts, checkpoint=NAME, tensor_parallel_degree=2))
    assert (problem.code, said in problem.message, problem.severity) == (code, True, Severity.ERROR), problem
    assert problem.hint


def test_a_file_that_is_no_json_is_told_and_one_that_is_not_there_names_the_one_that_is():
    broken = sharded()
    del broken.documents[NAME]
    assert "is not a json file" in only(problems(broken, checkpoint=NAME, tensor_parallel_degree=2)).message
    problem = only(problems(sharded(), checkpoint="other.json", tensor_parallel_degree=2))
    assert (problem.code, problem.hint) == ("artifacts.file-missing", f"Set option.checkpoint={NAME}")


@pytest.mark.parametrize(
    ("changes", "degree", "severity"),
    [
        pytest.param({}, 2, None, id="as made"),
        pytest.param({}, 4, Severity.ERROR, id="they are not cut"),
        pytest.param({}, 1, Severity.ERROR, id="nor joined"),
        pytest.param({"tp_size": 4}, 6, Severity.ERROR, id="neither divides the other"),
        pytest.param({"tp_size": None}, 2, None, id="counted"),
        pytest.param({"tp_size": None, "mp_size": 3}, 2, Severity.ERROR, id="the other name"),
        pytest.param({"parallelization": "pp", "checkpoints": list(SHARDS)}, 5, None, id="whole layers"),
    ],
)
def test_shards_fit_the_degree_they_were_made_for(changes, degree, severity):
    found = problems(sharded(**changes), checkpoint=NAME, tensor_parallel_degree=degree)
    assert [(each.code, each.severity) for each in found] == [("config.tensor-parallel", severity)] * bool(severity)


def test_another_number_type_than_the_shards_have_is_a_warning():
    problem = only(problems(sharded(), checkpoint=NAME, tensor_parallel_degree=2, dtype="fp32"))
    assert (problem.code, problem.severity) == ("config.dtype", Severity.WARNING)
    assert "dtype is fp32, and ds_inference_config.json says that the shards are fp16" in problem.message


def test_a_folder_written_into_the_json_is_where_the_shards_are_looked_for():
    problem = only(problems(sharded(base_dir="/data/out", lost=SHARDS[0]), checkpoint=NAME, tensor_parallel_degree=2))
    assert (problem.code, problem.severity) == ("weights.shard-missing", Severity.WARNING)
    assert "base_dir=/data/out" in problem.message
    inner = sharded(base_dir="parts")
    found = problems(inner, checkpoint=NAME, tensor_parallel_degree=2)
    assert [each.path for each in found] == [f"s3://models/bloom/parts/{shard}" for shard in SHARDS]


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({"deepspeed_config_path": "there.json"}, []),
        ({"deepspeed_config_path": "/elsewhere/ds.json"}, []),
        ({"deepspeed_config_path": "b.json"}, ["artifacts.file-missing"]),
        ({"deepspeed_config_path": "list.json"}, ["config.unreadable"]),
        ({"checkpoint": "a.json"}, ["artifacts.file-missing"]),
        ({"checkpoint": "/elsewhere/a.json"}, []),
    ],
)
def test_files_that_options_name_are_looked_for(options, codes):
    artifacts = ModelArtifacts(
        folder="s3://models/tiny",
        format=ArtifactFormat.PRETRAINED,
        model_type="llama",
        files={"there.json": 2, "list.json": 2},
        documents={"there.json": {"a": 1}, "list.json": []},
    )
    assert [each.code for each in problems(artifacts, **options)] == codes


@pytest.mark.parametrize(
    ("model_type", "target", "degree", "n_problems"),
    [
        pytest.param("gpt2", CPU, 2, 1, id="its layers are transposed"),
        pytest.param("gpt2", CUDA, 2, 1, id="its kernels are not used"),
        pytest.param("xlnet", CUDA, 2, 1, id="never"),
        pytest.param("xlnet", CUDA, 1, 0, id="nothing to split"),
        pytest.param("falcon", CPU, 2, 0, id="split by its layers"),
    ],
)
def test_families_that_deepspeed_does_not_split_take_one_device(model_type, target, degree, n_problems):
    artifacts = ModelArtifacts(format=ArtifactFormat.PRETRAINED, model_type=model_type, config={"n_head": 8})
    found = problems(artifacts, target, tensor_parallel_degree=degree)
    assert [each.code for each in found] == ["config.tensor-parallel"] * n_problems


@pytest.mark.parametrize(
    ("config", "code"), [({}, None), ({"r": 0}, "adapter.rank"), ({"peft_type": "P_TUNING"}, "adapter.not-supported")]
)
def test_an_adapter_is_merged_into_its_base(config, code):
    documents = {"adapter_config.json": {"r": 8, "base_model_name_or_path": "org/base", **config}}
    adapter = ModelArtifacts(folder="/m", format=ArtifactFormat.ADAPTER, documents=documents)
    assert [each.code for each in problems(adapter)] == [*([code] if code else []), "adapter.base-not-checked"]


def test_adapters_beside_a_model_are_said_to_be_left_alone():
    files = {"adapters/fr/adapter_config.json": 600}
    problem = only(problems(ModelArtifacts(folder="/m", format=ArtifactFormat.PRETRAINED, files=files)))
    assert (problem.code, problem.severity) == ("adapter.not-served", Severity.WARNING)
