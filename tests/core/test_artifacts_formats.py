# SPDX-License-Identifier: Apache-2.0
"""Each layout is recognised where it lies, here and elsewhere, from names, small files and headers alone."""

import msgspec
import pytest

from lmi.api import ArtifactFormat, ModelArtifacts
from lmi.artifacts import check, detect, wanted_files
from lmi.artifacts.places.files import LocalFiles
from tests.core.layouts import LAYOUTS, NEURON, PARAMS, Elsewhere, layout, no_disk, pickled, write
from tests.core.model_folders import CONFIG

F = ArtifactFormat
SHARDS = tuple(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))

RECOGNISED = {
    "pretrained": (F.PRETRAINED, "", ("model.safetensors",), 2048),
    "sharded": (F.PRETRAINED, "", SHARDS, 2048),
    "pickles": (F.PRETRAINED, "", ("pytorch_model.bin",), 2048),
    "sharded_pickles": (F.PRETRAINED, "", tuple(f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)), 2048),
    "multimodal": (F.PRETRAINED, "", ("model.safetensors",), 512),
    "repository_parent": (
        F.TRITON_REPOSITORY, "any_name",
        tuple(f"any_name/1/llama_float16_tp2_rank{i}.engine" for i in (0, 1)), 2048,
    ),
    "repository_inner": (
        F.TRITON_REPOSITORY, "", tuple(f"1/llama_float16_tp2_rank{i}.engine" for i in (0, 1)), 2048
    ),
    "repository_pipeline": (
        F.TRITON_REPOSITORY, "middle", tuple(f"middle/1/llama_float16_tp2_rank{i}.engine" for i in (0, 1)), 2048
    ),
    "engines": (F.ENGINES, "", ("rank0.engine", "rank1.engine"), 1024),
    "neuron_old": (
        F.NEURON, "",
        tuple(f"checkpoint/pytorch_model.bin/p{each}" for each in ("0.model.embed_tokens.weight", "1.lm_head.weight")),
        2048,
    ),
    "neuron_new": (F.NEURON, "", ("model.safetensors",), 2048),
    "neuron_split": (F.NEURON_SPLIT, "", ("pytorch_model.bin/p0.model.embed_tokens.weight",), 2048),
    "adapter": (F.ADAPTER, "", ("adapter_model.safetensors",), 0),
    "ranked": (F.RANKED_CHECKPOINT, "", ("non-tp.pt", "tp_00_00.pt", "tp_01_00.pt"), 2048),
    "ranked_safe": (F.RANKED_CHECKPOINT, "", ("non-tp.safetensors", "tp_00_00.safetensors"), 2048),
    "ranked_list": (F.RANKED_CHECKPOINT, "", ("a.bin", "b.bin"), 2048),
    "mistral": (F.MISTRAL, "", ("consolidated.safetensors",), 4096),
    "only_code": (F.NONE, "", (), 0),
}  # fmt: skip


def seen(artifacts):
    return artifacts.format, artifacts.inner, artifacts.weight_files, artifacts.max_context_tokens


def test_every_layout_there_is_is_in_the_table():
    assert set(RECOGNISED) == set(LAYOUTS)


@pytest.mark.parametrize("name", RECOGNISED)
def test_a_layout_is_recognised_whole_and_nothing_is_wrong_with_it(name, tmp_path):
    folder = layout(name, tmp_path / "m")
    artifacts = detect(folder)
    assert seen(artifacts) == RECOGNISED[name]
    assert artifacts.files == LocalFiles(folder).sizes
    assert check(folder) == check(artifacts) == []


@pytest.mark.parametrize("name", RECOGNISED)
def test_a_place_elsewhere_is_described_and_checked_as_a_folder_is_and_the_disk_is_left_alone(name, tmp_path):
    here = detect(layout(name, tmp_path / "m"))
    files = Elsewhere(tmp_path / "m")
    with no_disk():
        there = detect(files)
        problems = check(there, files)
    assert there.folder == ("" if name == "only_code" else "s3://bucket/model")
    assert msgspec.structs.replace(there, folder=here.folder) == here
    assert problems == []


@pytest.mark.parametrize("name", RECOGNISED)
def test_what_is_detected_crosses_to_a_worker_unchanged(name, tmp_path):
    artifacts = detect(layout(name, tmp_path / "m"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(artifacts), type=ModelArtifacts) == artifacts


def test_documents_are_those_that_checks_of_backends_need(tmp_path):
    parent = detect(layout("repository_parent", tmp_path / "a"))
    assert parent.config == CONFIG
    assert parent.document("any_name/1/config.json") == {"builder_config": {"tensor_parallel": 2}}
    assert parent.documents["any_name/config.pbtxt"].startswith('name: "model"')
    neuron = detect(layout("neuron_old", tmp_path / "b"))
    assert neuron.config["neuron"] == NEURON
    assert neuron.documents["compiled/VERSION"] == "2.12.68.0\n"
    assert neuron.document("checkpoint/config.json") == CONFIG
    assert detect(layout("mistral", tmp_path / "c")).config == PARAMS
    assert "tokenizer.json" not in detect(layout("pretrained", tmp_path / "d")).documents


def test_large_deep_and_odd_json_files_are_no_documents(tmp_path):
    folder = layout("pretrained", tmp_path / "m")
    nested = "[" * 150 + "]" * 150
    write(folder, {"big.json": '"' + "x" * (1 << 20) + '"', "deep.json": nested, "deeper.json": "[" * 100_000})
    write(folder, {"half.json": '"\\ud800"', "bytes.json": b'"\xff"', "a/b/c/far.json": "{}", "x.index.json": "{}"})
    assert sorted(detect(folder).documents) == ["config.json", "generation_config.json", "tokenizer_config.json"]


def test_numbers_that_no_message_can_carry_become_floats(tmp_path):
    folder = write(layout("pretrained", tmp_path / "m"), {"tokenizer_config.json": {"model_max_length": 10**30}})
    assert detect(folder).document("tokenizer_config.json") == {"model_max_length": 1e30}


def test_architectures_and_end_ids_come_from_the_part_that_says_them(tmp_path):
    engines = detect(layout("engines", tmp_path / "a"))
    assert engines.architectures == ("LlamaForCausalLM",)
    assert detect(layout("multimodal", tmp_path / "b")).eos_token_ids == (3,)


def test_small_files_of_a_place_elsewhere_are_read_at_the_same_time_and_once(tmp_path):
    files = Elsewhere(layout("sharded", tmp_path / "m"))
    artifacts = detect(files)
    n_documents, n_shards, index = 3, 3, 1
    assert files.n_reads == n_documents + n_shards + index
    before = files.n_reads
    check(artifacts, files)
    assert files.n_reads - before <= 1 + n_shards  # the tokenizer, and whether small shards are pointers


def test_what_detect_said_is_enough_to_name_what_is_missing_elsewhere(tmp_path):
    folder = layout("pretrained", tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    artifacts = detect(Elsewhere(folder))
    assert [problem.code for problem in check(artifacts)] == ["config.missing", "weights.missing"]


WANTED = [
    (
        {"pytorch_model.bin": b"", "pytorch_model.bin.index.json": b"", "model.onnx": b"", "onnx/model.onnx": b"",
         "tf_model.h5": b"", "flax_model.msgpack": b"", "model.gguf": b"", "original/consolidated.00.pth": b"",
         "original/params.json": b"", "consolidated.safetensors": b"", "optimizer.pt": b"", "scheduler.pt": b"",
         "rng_state_0.pth": b"", "trainer_state.json": b"", "training_args.bin": b"", "runs/x/events.out.tfevents.1":
         b"", "checkpoint-500/model.safetensors": b"", "README.md": b"", "logo.png": b"", "rust_model.ot": b""},
        {},
    ),
    (
        {},
        {"modeling_x.py": b"", "chat_template.jinja": b"", "LICENSE": b"", "tokenizer.model": b"", "merges.txt": b"",
         "adapters/a/adapter_config.json": b"{}", "adapters/a/adapter_model.safetensors": b"", "model.py": b"",
         "requirements.txt": b"", "serving.properties": b"", "preprocessor_config.json": b"{}"},
    ),
    ({"adapters/a/adapter_model.bin": b""}, {"adapters/a/adapter_model.safetensors": b""}),
]  # fmt: skip


@pytest.mark.parametrize(("left", "taken"), WANTED)
def test_what_serving_does_not_need_is_not_fetched(left, taken, tmp_path):
    folder = write(layout("pretrained", tmp_path / "m"), {**left, **taken})
    own = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(wanted_files(detect(folder))) == own | set(taken)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_of_a_layout_without_copies_everything_is_wanted(name, tmp_path):
    files = Elsewhere(layout(name, tmp_path / "m"))
    assert set(wanted_files(detect(files))) == set(files.sizes)


def test_pickles_are_fetched_where_there_is_nothing_better(tmp_path):
    folder = write(layout("pickles", tmp_path / "m"), {"consolidated.00.pth": pickled()})
    assert "pytorch_model.bin" in wanted_files(detect(folder))
    assert "consolidated.00.pth" not in wanted_files(detect(folder))
