# SPDX-License-Identifier: Apache-2.0
"""``lmi check`` and ``lmi plan`` of a model in an object store: headers and small files alone are read."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lmi.testing.checkpoints import write_tiny
from tests.proxies import proxy_before

N_SHARDS, N_LAYERS, HIDDEN, MIDDLE, N_KV, VOCABULARY = 15, 80, 8192, 28672, 1024, 32000
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": MIDDLE,
    "num_hidden_layers": N_LAYERS, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "eos_token_id": 2,
}  # fmt: skip


def shapes():
    """The tensors of Llama-2-70B."""
    found = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN], "model.norm.weight": [HIDDEN]}
    for i in range(N_LAYERS):
        layer = {
            "self_attn.q_proj": [HIDDEN, HIDDEN],
            "self_attn.k_proj": [N_KV, HIDDEN],
            "self_attn.v_proj": [N_KV, HIDDEN],
            "self_attn.o_proj": [HIDDEN, HIDDEN],
            "mlp.gate_proj": [MIDDLE, HIDDEN],
            "mlp.up_proj": [MIDDLE, HIDDEN],
            "mlp.down_proj": [HIDDEN, MIDDLE],
            "input_layernorm": [HIDDEN],
            "post_attention_layernorm": [HIDDEN],
        }
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return {**found, "lm_head.weight": [VOCABULARY, HIDDEN]}


def write_70b(folder: Path) -> None:
    """138 GB as a listing and headers tell it; on the disk it takes a few hundred KB."""
    write_tiny("llama", folder)
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names = list(shapes().items())
    weight_map = {}
    n_each = math.ceil(len(names) / N_SHARDS)
    for number in range(N_SHARDS):
        name = f"model-{number + 1:05}-of-{N_SHARDS:05}.safetensors"
        header, end = {}, 0
        for tensor, shape in names[number * n_each : (number + 1) * n_each]:
            start, end = end, end + 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
            weight_map[tensor] = name
        data = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(data)) + data)
            file.truncate(8 + len(data) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def model(sparse_store, monkeypatch, tmp_path):
    write_70b(sparse_store / "llama-70b")
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
    with proxy_before(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield sparse_store / "llama-70b", proxy
    assert not (tmp_path / "cache").exists()


def lmi(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lmi", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return done


def test_a_good_model_of_70b_is_checked_by_headers(model):
    _, proxy = model
    flags = ("-o", "rolling_batch=hf", "--instance", "ml.p4d.24xlarge", "--json")
    found = lmi("check", "s3://bucket/llama-70b", *flags)
    content = json.loads(found.stdout)
    assert (found.returncode, content["is_valid"], content["problems"]) == (0, True, [])
    assert content["memory"].startswith("weights 17.6 GB (bf16) on each of 8 devices, cache 41 kB a token")
    assert proxy.n_body_bytes < 5_000_000


def test_three_mistakes_of_a_70b_are_told_at_once_without_fetching_it(model):
    folder, proxy = model
    (folder / "model-00003-of-00015.safetensors").unlink()
    with (folder / "model-00007-of-00015.safetensors").open("r+b") as file:
        file.truncate(1_000_000_000)
    (folder / "tokenizer_config.json").unlink()
    found = lmi("check", "s3://bucket/llama-70b/", "-o", "rolling_batch=hf", "--instance", "ml.p4d.24xlarge", "--json")
    problems = {each["code"]: each for each in json.loads(found.stdout)["problems"]}
    assert (found.returncode, set(problems)) == (
        1, {"weights.shard-missing", "weights.truncated", "tokenizer.missing"}
    )  # fmt: skip
    assert problems["weights.truncated"]["path"] == "s3://bucket/llama-70b/model-00007-of-00015.safetensors"
    assert "has 1000000000 bytes of " in problems["weights.truncated"]["message"]
    assert all(each["hint"] and each["severity"] == "error" for each in problems.values())
    assert proxy.n_body_bytes < 5_000_000


def test_a_70b_that_does_not_fit_says_where_it_would(model):
    found = lmi("check", "s3://bucket/llama-70b", "-o", "rolling_batch=hf", "--instance", "ml.g5.12xlarge", "--json")
    [problem] = json.loads(found.stdout)["problems"]
    assert problem["code"] == "memory.model-too-large"
    assert "ml." in problem["hint"]


def test_a_plan_of_a_70b_elsewhere_has_the_published_figures(model):
    found = lmi("plan", "s3://bucket/llama-70b", "-o", "rolling_batch=hf", "--instance", "ml.p4d.24xlarge", "--json")
    content = json.loads(found.stdout)
    assert content["weights"]["stored_bytes"] == 2 * sum(map(math.prod, shapes().values())) == 137_953_296_384
    assert content["cache"]["token_bytes"] == 327_680
