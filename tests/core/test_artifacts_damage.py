# SPDX-License-Identifier: Apache-2.0
"""Files that are cut, changed or made of anything at all: a description and problems come back, never a traceback."""

import json
import pickle
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from lmi.artifacts import check, detect, wanted_files
from lmi.artifacts.foreign import gguf_origin
from tests.core.layouts import Elsewhere, gguf, layout, pickled, write

QUICK = settings(max_examples=15, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
ROOM: list[Path] = []
TARGETS = [
    ("pretrained", "model.safetensors"),
    ("pretrained", "config.json"),
    ("pretrained", "generation_config.json"),
    ("pretrained", "tokenizer.json"),
    ("pretrained", "tokenizer_config.json"),
    ("sharded", "model.safetensors.index.json"),
    ("sharded", "model-00002-of-00003.safetensors"),
    ("pickles", "pytorch_model.bin"),
    ("adapter", "adapter_config.json"),
    ("mistral", "params.json"),
    ("mistral", "tekken.json"),
    ("ranked", "ds_inference_config.json"),
    ("repository_parent", "any_name/config.pbtxt"),
    ("repository_parent", "any_name/1/config.json"),
    ("engines", "config.json"),
    ("neuron_old", "checkpoint/pytorch_model.bin/p1.lm_head.weight"),
    ("neuron_new", "neuron_config.json"),
]
IDS = [f"{name}-{file.rpartition('/')[2]}" for name, file in TARGETS]


@pytest.fixture(scope="module", autouse=True)
def room(tmp_path_factory):
    """Where the layouts are written, once for all examples."""
    ROOM.append(tmp_path_factory.mktemp("damage"))
    yield
    ROOM.clear()
    whole.cache_clear()


@cache
def whole(name: str, file: str) -> tuple[Path, bytes]:
    """A folder of that layout, and what the file held before it was spoilt."""
    folder = ROOM[0] / f"{name}-{file.replace('/', '-')}"
    return layout(name, folder), (folder / file).read_bytes()


def judged(name: str, file: str, data: bytes) -> None:
    """Everything that is asked of a place gives an answer, here and elsewhere the same one."""
    folder, before = whole(name, file)
    (folder / file).write_bytes(data)
    try:
        files = Elsewhere(folder)
        artifacts = detect(files)
        problems = check(artifacts, files)
        assert all(each.code and each.message and each.path for each in problems)
        assert all(each.message == each.message.encode("utf-8", "replace").decode() for each in problems)
        assert [each.code for each in check(folder)] == [each.code for each in problems]
        assert set(wanted_files(artifacts)) <= set(files.sizes)
    finally:
        (folder / file).write_bytes(before)


@pytest.mark.parametrize(("name", "file"), TARGETS, ids=IDS)
@QUICK
@given(part=st.floats(0, 1))
@example(part=0.0)
@example(part=1.0)
def test_a_file_may_be_cut_anywhere(name, file, part):
    data = whole(name, file)[1]
    judged(name, file, data[: int(len(data) * part)])


@pytest.mark.parametrize(("name", "file"), TARGETS, ids=IDS)
@QUICK
@given(st.data())
def test_any_bits_may_be_flipped(name, file, data):
    changed = bytearray(whole(name, file)[1])
    for _ in range(data.draw(st.integers(1, 8))):
        # Most of a tokenizer is vocabulary; what decides is at the beginning and at the end.
        place = data.draw(st.one_of(st.integers(0, len(changed) - 1), st.integers(0, min(200, len(changed) - 1))))
        changed[place] ^= 1 << data.draw(st.integers(0, 7))
    judged(name, file, bytes(changed))


@pytest.mark.parametrize(("name", "file"), TARGETS, ids=IDS)
@QUICK
@given(start=st.integers(0, 32), data=st.binary(max_size=2048))
def test_a_file_may_hold_anything_behind_its_first_bytes(name, file, start, data):
    judged(name, file, whole(name, file)[1][:start] + data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = [
    "architectures", "model_type", "text_config", "eos_token_id", "max_position_embeddings", "vocab_size", "auto_map",
    "quantization_config", "neuron", "build_config", "pretrained_config", "type", "checkpoints", "base_dir",
    "weight_map", "tokenizer_class", "base_model_name_or_path", "vocab", "config", "_class_name", "quant_method",
]  # fmt: skip
JSON_TARGETS = [(name, file) for name, file in TARGETS if file.endswith(".json") and file != "tokenizer.json"]


@pytest.mark.parametrize(("name", "file"), JSON_TARGETS)
@QUICK
@given(content=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6))
def test_known_keys_may_hold_any_kind_of_value(name, file, content):
    judged(name, file, json.dumps(content).encode())


HEADER = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]),
    JSON | st.fixed_dictionaries({"dtype": JSON | st.just("F32"), "shape": JSON, "data_offsets": JSON}),
    max_size=3,
)


@QUICK
@given(header=HEADER, n_bytes=st.integers(0, 1 << 64), is_true=st.booleans(), behind=st.binary(max_size=64))
def test_a_header_may_hold_any_kind_of_value(header, n_bytes, is_true, behind):
    data = json.dumps(header).encode()
    length = len(data) if is_true else min(n_bytes, (1 << 64) - 1)
    judged("pretrained", "model.safetensors", length.to_bytes(8, "little") + data + behind)


@settings(QUICK, max_examples=60)
@given(opcodes=st.binary(max_size=400), is_archive=st.booleans())
def test_a_pickle_may_have_any_opcodes(opcodes, is_archive):
    data = b"\x80\x02" + opcodes
    content = pickled().replace(pickle.dumps({}, 2), data) if is_archive else data
    judged("pickles", "pytorch_model.bin", content)


NAMES = st.sampled_from([
    "config.json", "adapter_config.json", "params.json", "model_index.json", "neuron_config.json", "config.pbtxt",
    "a/config.pbtxt", "a/tokenizer_config.json", "a/1/x.engine", "rank0.engine", "tokenizer.json", "tokenizer.model",
    "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "adapter_model.bin", "consolidated.safetensors", "consolidated.00.pth", "x.gguf", "x.onnx", "model.py",
        "x.tiktoken",
    "checkpoint/pytorch_model.bin/p0", "compiled/a.neff", "adapters/a/adapter_config.json", "vocab.json", "vocab.txt",
])  # fmt: skip


@settings(QUICK, max_examples=60)
@given(files=st.dictionaries(NAMES, st.binary(max_size=40) | st.just(b"{}"), max_size=8))
def test_any_files_may_be_together(files):
    with TemporaryDirectory() as name:
        folder = write(Path(name), files)
        here, there = detect(folder), Elsewhere(folder)
        assert detect(there).format is here.format
        assert [each.code for each in check(here)] == [each.code for each in check(detect(there), there)]
        assert wanted_files(here) == wanted_files(detect(there))
        assert all(each.message for each in check(detect(there)))


@QUICK
@given(data=st.binary(max_size=400), n_kept=st.integers(0, 400))
def test_a_gguf_file_may_hold_anything(data, n_kept):
    folder = write(whole("only_code", "model.py")[0], {"x.gguf": gguf(general__name="x")[:n_kept] + data})
    assert gguf_origin(Elsewhere(folder), "x.gguf") == ""
    (folder / "x.gguf").unlink()


def test_a_file_that_vanishes_and_one_that_may_not_be_read_are_problems(tmp_path):
    folder = layout("sharded", tmp_path / "m")
    artifacts = detect(folder)
    (folder / "model-00001-of-00003.safetensors").unlink()
    assert [each.code for each in check(artifacts)] == ["weights.shard-missing"]
    for path in folder.iterdir():
        path.unlink()
    assert [(each.code, each.message) for each in check(artifacts)] == [("weights.missing", f"{folder} is empty")]


def test_lists_of_names_that_lead_in_a_circle_end(tmp_path):
    folder = layout("pretrained", tmp_path / "m")
    (folder / "again").symlink_to(folder)
    assert len(detect(folder).files) < 60
    assert check(folder) == []
