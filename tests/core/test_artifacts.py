# SPDX-License-Identifier: Apache-2.0
"""What a model folder is said to be, and what is said to be wrong with it."""

import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi.api.artifacts import WeightSummary
from lmi.artifacts import check, detect
from lmi.testing.tiny_tokenizer import write_tokenizer
from tests.core.model_folders import CONFIG, write_json, write_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "model")


def codes(folder):
    return [problem.code for problem in check(folder)]


def test_a_good_folder_is_described_and_has_no_problems(folder):
    artifacts = detect(folder)
    names = ("config.json", "generation_config.json", "tokenizer_config.json")
    assert artifacts == ModelArtifacts(
        folder=str(folder.resolve()),
        format=ArtifactFormat.PRETRAINED,
        config=CONFIG,
        architectures=("LlamaForCausalLM",),
        model_type="llama",
        weight_files=("model.safetensors",),
        files={path.name: path.stat().st_size for path in folder.iterdir()},
        documents={name: json.loads((folder / name).read_text()) for name in names},
        weights=WeightSummary(n_bytes=64, n_parameters=16, bytes_by_dtype={"F32": 64}, n_tensors=1),
        eos_token_ids=(2, 7),
        max_context_tokens=2048,
    )
    assert check(folder) == check(artifacts) == []


def test_no_files_at_all_are_no_problem_of_the_files():
    assert check(ModelArtifacts()) == []


def test_three_faults_are_three_problems_in_one_call(folder):
    for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
        (folder / name).unlink()
    problems = check(folder)
    assert [problem.code for problem in problems] == ["config.missing", "weights.missing", "tokenizer.missing"]
    assert all(problem.hint and problem.path for problem in problems)
    assert [problem.message for problem in problems] == [
        "no config.json", "no model weights, neither .safetensors nor .bin", "no tokenizer_config.json",
    ]  # fmt: skip


def test_safetensors_alone_count_where_both_kinds_are_there(folder):
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert detect(folder).weight_files == ("model.safetensors",)
    assert codes(folder) == []


def test_an_index_says_which_files_count(tmp_path):
    folder = write_model(tmp_path, n_shards=3)
    save_file({"w": np.zeros(1, np.float32)}, folder / "consolidated.safetensors")
    assert detect(folder).weight_files == tuple(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
    assert codes(folder) == []


def test_every_shard_that_the_index_names_must_be_there(tmp_path):
    folder = write_model(tmp_path, n_shards=4)
    for i in (2, 3):
        (folder / f"model-0000{i}-of-00004.safetensors").unlink()
    assert [str(problem) for problem in check(folder)] == [
        f"[weights.shard-missing] model-0000{i}-of-00004.safetensors is in the index but not in the folder. "
        "Copy it again."
        for i in (2, 3)
    ]


def test_many_shards_that_are_not_there_are_one_problem(tmp_path):
    folder = write_model(tmp_path, n_shards=8)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (problem,) = check(folder)
    assert problem.message.startswith("8 files are in the index but not in the folder: model-00001-of-00008.safetens")
    assert problem.message.endswith("model-00005-of-00008.safetensors and 3 more")


def test_an_index_without_any_shard_is_not_reported_as_missing_weights_too(tmp_path):
    folder = write_model(tmp_path, n_shards=2)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert codes(folder) == ["weights.shard-missing"] * 2


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": []}'])
def test_an_index_that_says_nothing_is_reported(tmp_path, index):
    folder = write_model(tmp_path, n_shards=2)
    (folder / "model.safetensors.index.json").write_text(index)
    assert codes(folder) == ["weights.unreadable"]


@pytest.mark.parametrize("n_kept_bytes", [0, 5, 8, 20, -1])
def test_a_truncated_safetensors_file_is_found_wherever_it_was_cut(folder, n_kept_bytes):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:n_kept_bytes])
    assert codes(folder) == ["weights.truncated"]


def test_a_truncated_file_is_reported_with_both_sizes(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    (problem,) = check(folder)
    assert problem.message == f"model.safetensors has {len(whole) - 10} bytes of {len(whole)}"


@pytest.mark.parametrize("content", [b"\xff" * 64, b"\x02" + bytes(7) + b"[]", (3).to_bytes(8, "little") + b"{x}"])
def test_a_file_without_a_safetensors_header_is_unreadable(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert codes(folder) == ["weights.unreadable"]


def test_bytes_after_the_end_are_reported(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")
    assert codes(folder) == ["weights.unreadable"]


def test_git_lfs_pointers_are_told_from_weights_and_tokenizers(folder):
    (folder / "model.safetensors").write_bytes(POINTER)
    (folder / "tokenizer.json").write_bytes(POINTER)
    problems = check(folder)
    assert [problem.code for problem in problems] == ["weights.lfs-pointer", "tokenizer.lfs-pointer"]
    assert problems[0].message == "model.safetensors is a git-lfs pointer, not the file"
    assert problems[0].hint == "Run: git lfs pull"


def test_many_pointers_are_one_problem(tmp_path):
    folder = write_model(tmp_path, n_shards=8)
    for path in folder.glob("*.safetensors"):
        path.write_bytes(POINTER)
    (problem,) = check(folder)
    assert (problem.code, problem.hint) == ("weights.lfs-pointer", "Run: git lfs pull")
    assert problem.message.startswith("8 weight files are git-lfs pointers, not the files: model-00001-of-00008")


def test_a_truncated_pytorch_file_is_found_by_its_missing_directory(folder):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": "x" * 1000}, 2))
    assert codes(folder) == []
    path.write_bytes(path.read_bytes()[:500])
    assert codes(folder) == ["weights.truncated"]


def test_leftovers_of_training_are_not_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"x")
    assert codes(folder) == ["weights.missing"]


def test_formats_that_cannot_be_served_are_named(folder):
    (folder / "model.safetensors").rename(folder / "model.gguf")
    (problem,) = check(folder)
    assert problem.code == "weights.unsupported-kind"
    assert problem.message == "no model weights, neither .safetensors nor .bin; model.gguf cannot be served: GGUF"


@pytest.mark.parametrize(
    ("content", "code"), [("{", "config.unreadable"), ("[]", "config.unreadable"), ("{}", "config.incomplete")]
)
def test_a_config_that_says_nothing_is_reported(folder, content, code):
    (folder / "config.json").write_text(content)
    assert codes(folder) == [code]


def test_a_vocabulary_must_be_there_under_one_of_its_names(folder):
    (folder / "tokenizer.json").unlink()
    assert codes(folder) == ["tokenizer.missing"]
    write_json(folder / "vocab.json", {"a": 0})
    assert codes(folder) == []


def test_a_tokenizer_with_code_of_its_own_may_name_its_files_as_it_likes(folder):
    (folder / "tokenizer.json").unlink()
    write_json(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}})
    (folder / "x.py").write_text("")
    assert codes(folder) == []


@pytest.fixture
def adapter(tmp_path):
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": "org/base"})
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "adapter_model.safetensors")
    return tmp_path


def test_an_adapter_is_recognised_and_needs_a_vocabulary_of_its_own(adapter):
    artifacts = detect(adapter)
    assert (artifacts.format, artifacts.weight_files) == (ArtifactFormat.ADAPTER, ("adapter_model.safetensors",))
    assert codes(adapter) == ["tokenizer.missing"]
    write_tokenizer(adapter)
    assert check(adapter) == []


def test_an_adapter_must_name_its_base(adapter):
    write_json(adapter / "adapter_config.json", {"r": 8})
    (adapter / "adapter_model.safetensors").unlink()
    assert codes(adapter) == ["adapter.no-base", "weights.missing", "tokenizer.missing"]


def test_a_merged_model_that_keeps_its_adapter_is_a_model(folder, adapter):
    shutil.copy(adapter / "adapter_config.json", folder)
    shutil.copy(adapter / "adapter_model.safetensors", folder)
    assert detect(folder).format is ArtifactFormat.PRETRAINED
    assert detect(folder).weight_files == ("model.safetensors",)


@pytest.mark.parametrize(
    ("config", "n_tokens"),
    [
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 64}}, 64),
        ({"text_config": {"model_type": "gemma3_text"}}, 131_072),
        ({"model_type": "gemma3_text"}, 0),
        ({"n_ctx": "x"}, 0),
    ],
)
def test_the_context_is_found_under_the_names_that_architectures_use(folder, config, n_tokens):
    write_json(folder / "config.json", config)
    assert detect(folder).max_context_tokens == n_tokens


def test_end_ids_come_from_config_where_generation_config_is_silent(folder):
    write_json(folder / "generation_config.json", {"eos_token_id": None})
    assert detect(folder).eos_token_ids == (2,)
