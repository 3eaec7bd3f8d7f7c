# SPDX-License-Identifier: Apache-2.0
"""How much there is of a model's weights is read from headers alone, however large the model is."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmi.api.artifacts import WeightSummary
from lmi.artifacts import check, detect
from lmi.artifacts.headers import BITS
from tests.core.layouts import Elsewhere, layout, no_disk, pickled, write
from tests.core.model_folders import CONFIG, write_json, write_model

WHOLE = "model.safetensors"
MIB = 1 << 20


def raw(header, n_data_bytes=0, n_header_bytes=None):
    """A safetensors file with any header."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(data) if n_header_bytes is None else n_header_bytes).to_bytes(8, "little") + data + bytes(n_data_bytes)


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HEADERS = [
    (raw({"a": entry(), "b": entry(offsets=(2, 6))}, 6), "'b' begins at byte 2 and overlaps the tensor before it"),
    (raw({"a": entry(), "b": entry(offsets=(8, 12))}, 12), "'b' begins at byte 8 and leaves a hole before it"),
    (raw({"a": entry(offsets=(4, 8))}, 8), "'a' begins at byte 4 and leaves a hole before it"),
    (raw({"a": entry("F33")}, 4), "'a' has dtype 'F33', which the format does not know"),
    (raw({"a": entry(["F32"])}, 4), "'a' has dtype \"['F32']\""),
    (raw({"a": entry(shape=(2,))}, 4), "'a' of shape [2] in F32 has 4 bytes, 8 are needed"),
    (raw({"a": entry(shape=(-1,))}, 4), "'a' has no shape"),
    (raw({"a": entry(shape=(True,))}, 4), "'a' has no shape"),
    (raw({"a": entry(shape=(1e9,))}, 4), "'a' has no shape"),
    (raw({"a": entry(offsets=(0,))}, 4), "'a' has no data_offsets"),
    (raw({"a": entry(offsets=(4, 0))}, 4), "'a' of shape [1] in F32 has -4 bytes, 4 are needed"),
    (raw({"a": {**entry(), "shape": [1 << 62, 1 << 62, 4]}}, 4), "'a' of shape"),
    (raw({"a": 3}), "'a' is no JSON object"),
    (raw({"__metadata__": {"format": 3}}), "its __metadata__ is no table of texts"),
    (raw([]), "it is no JSON object"),
    (raw(b"[" * 100_000), "maximum recursion depth exceeded"),
    (raw(b'{"\xff": 1}'), "'utf-8' codec can't decode byte 0xff"),
    (raw(b"", n_header_bytes=1 << 60), "a header of 1152921504606846976 bytes, at most 100000000 are allowed"),
]


@pytest.mark.parametrize(("content", "reason"), HEADERS)
def test_a_header_that_lies_is_told(content, reason, tmp_path):
    folder = write(write_model(tmp_path / "m"), {WHOLE: content})
    (problem,) = check(folder)
    assert problem.code == "weights.unreadable"
    assert problem.message.startswith(f"{WHOLE} has no safetensors header: {reason}"), problem.message
    assert detect(folder).weights == WeightSummary()


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_dtype_of_the_format_is_measured(dtype, tmp_path):
    n_bytes = BITS[dtype]  # of 8 numbers
    content = raw({"model.layers.0.q.weight": entry(dtype, (2, 4), (0, n_bytes))}, n_bytes)
    folder = write(write_model(tmp_path / "m"), {WHOLE: content})
    assert check(folder) == []
    assert detect(folder).weights.bytes_by_dtype == {dtype: n_bytes}


F16, F32, I32 = np.float16, np.float32, np.int32
TENSORS = [
    ("model.layers.0.self_attn.q_proj.weight", (4, 8), F16, True),
    ("transformer.h.11.attn.c_attn.weight", (4, 8), F16, True),
    ("model.layers.3.mlp.experts.gate_up_proj", (2, 4, 8), F16, True),
    ("model.layers.0.self_attn.q_proj.bias", (8,), F16, False),
    ("model.layers.0.input_layernorm.weight", (8,), F16, False),
    ("transformer.h.0.ln_1.weight", (8,), F16, False),
    ("model.embed_tokens.weight", (4, 8), F16, False),
    ("transformer.wte.weight", (4, 8), F16, False),
    ("lm_head.weight", (4, 8), F16, False),
    ("model.layers.0.self_attn.q_proj.qweight", (4, 8), I32, True),
    ("model.layers.0.self_attn.q_proj.qzeros", (1, 8), I32, True),
    ("model.layers.0.self_attn.q_proj.scales", (1, 8), F16, True),
    ("model.layers.0.self_attn.q_proj.g_idx", (8,), I32, True),
    ("model.layers.0.self_attn.q_proj.weight.absmax", (8,), F32, True),
    ("model.layers.0.self_attn.q_proj.weight_scale", (8,), F32, True),
]


@pytest.mark.parametrize(("name", "shape", "dtype", "is_linear"), TENSORS)
def test_matrices_of_layers_are_told_from_embeddings_heads_and_norms(name, shape, dtype, is_linear, tmp_path):
    folder = write_model(tmp_path / "m")
    values = np.zeros(shape, dtype)
    save_file({name: values}, folder / WHOLE)
    summary = detect(folder).weights
    assert (summary.n_bytes, summary.n_parameters, summary.n_tensors) == (values.nbytes, values.size, 1)
    assert (summary.n_linear_bytes, summary.n_linear_parameters) == (
        (values.nbytes, values.size) if is_linear else (0, 0)
    )


@pytest.mark.parametrize(
    ("name", "shape", "is_weight"),
    [
        ("h.0.attn.bias", (1, 1, 8, 8), False),
        ("gpt_neox.layers.0.attention.bias", (1, 1, 8, 8), False),
        ("gpt_neox.layers.0.attention.masked_bias", (), False),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (4,), False),
        ("layers.0.attention.bias", (8,), True),
        ("h.0.attn.c_attn.bias", (8,), True),
    ],
)
def test_masks_and_positions_that_are_stored_with_the_weights_are_not_counted(name, shape, is_weight, tmp_path):
    folder = write_model(tmp_path / "m")
    save_file({name: np.zeros(shape, F32), "wte.weight": np.zeros((4, 8), F32)}, folder / WHOLE)
    n_bytes = 4 * 4 * 8 + 4 * int(np.prod(shape)) * is_weight
    summary = detect(folder).weights
    assert (summary.n_bytes, summary.bytes_by_dtype, summary.n_tensors) == (n_bytes, {"F32": n_bytes}, 1 + is_weight)


def test_of_pytorch_files_and_engines_the_size_is_all_that_is_known(tmp_path):
    one = pickled()
    assert detect(layout("sharded_pickles", tmp_path / "a")).weights == WeightSummary(n_bytes=2 * len(one))
    assert detect(layout("engines", tmp_path / "b")).weights == WeightSummary(n_bytes=3)


def test_dtypes_are_summed_over_all_shards(tmp_path):
    folder = write_model(tmp_path / "m", n_shards=3)
    save_file({"w1": np.zeros((4, 4), F16)}, folder / "model-00001-of-00003.safetensors")
    assert detect(folder).weights == WeightSummary(
        n_bytes=160, n_parameters=48, bytes_by_dtype={"F16": 32, "F32": 128}, n_tensors=3
    )


def test_a_header_longer_than_the_first_read_is_read_to_its_end(tmp_path):
    folder = write_model(tmp_path / "m")
    n = 3000
    save_file({f"model.layers.{i}.{'long' * 20}.weight": np.zeros((1, 1), F32) for i in range(n)}, folder / WHOLE)
    files = Elsewhere(folder)
    assert detect(files).weights.n_tensors == n
    assert check(detect(files), files) == []
    cut = (folder / WHOLE).read_bytes()
    for n_bytes in (200 << 10, len(cut) - 1):
        write(folder, {WHOLE: cut[:n_bytes]})
        assert [each.code for each in check(folder)] == ["weights.truncated"]


# ------------------------------------------------------------------------------------------- a model of 70 billion

HIDDEN, N_LAYERS, N_SHARDS, KV = 8192, 80, 30, 1024
LAYER = {
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN), "self_attn.k_proj.weight": (KV, HIDDEN),
    "self_attn.v_proj.weight": (KV, HIDDEN), "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "mlp.gate_proj.weight": (28672, HIDDEN), "mlp.up_proj.weight": (28672, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, 28672), "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
}  # fmt: skip


def write_sparse(path, tensors):
    """A file with this header and as many zeros as it promises; they take no room."""
    header, end = {}, 0
    for name, shape in tensors.items():
        n_bytes = int(np.prod(shape)) * 2
        header[name] = entry("BF16", shape, (end, end + n_bytes))
        end += n_bytes
    data = raw(header)
    with path.open("wb") as file:
        file.write(data)
        file.truncate(len(data) + end)


def write_large_model(folder):
    write_model(folder)
    (folder / WHOLE).unlink()
    write_json(folder / "config.json", {**CONFIG, "vocab_size": 32000, "num_hidden_layers": N_LAYERS})
    tensors = {"model.embed_tokens.weight": (32000, HIDDEN), "lm_head.weight": (32000, HIDDEN)}
    tensors["model.norm.weight"] = (HIDDEN,)
    tensors |= {f"model.layers.{i}.{name}": shape for i in range(N_LAYERS) for name, shape in LAYER.items()}
    names, places = list(tensors), {}
    for number in range(N_SHARDS):
        shard = f"model-{number + 1:05}-of-{N_SHARDS:05}.safetensors"
        part = names[number * len(names) // N_SHARDS : (number + 1) * len(names) // N_SHARDS]
        write_sparse(folder / shard, {name: tensors[name] for name in part})
        places.update(dict.fromkeys(part, shard))
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    return folder


def test_a_model_of_70_billion_is_described_and_checked_with_less_than_5_mib_read(tmp_path):
    files = Elsewhere(write_large_model(tmp_path / "m"))
    with no_disk():
        artifacts = detect(files)
        n_detected_bytes = files.n_bytes
        problems = check(artifacts, files)
    assert problems == []
    assert artifacts.weights.n_parameters == 68_976_648_192
    assert artifacts.weights.bytes_by_dtype == {"BF16": 2 * 68_976_648_192}
    assert artifacts.weights.n_linear_parameters == 80 * 855_638_016
    assert (artifacts.weights.n_tensors, len(artifacts.weight_files)) == (723, 30)
    assert n_detected_bytes < 3 * MIB
    assert files.n_bytes < 5 * MIB
