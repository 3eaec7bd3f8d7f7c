# SPDX-License-Identifier: Apache-2.0
"""What deepspeed makes of weights: shards that are written once and read by later starts, and layers in 8 bits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi.api import ArtifactFormat, EngineLoadError, LmiError, ModelArtifacts, Ranks
from lmi.testing import write_tiny
from lmi_deepspeed.config import DeepSpeedConfig
from tests.backends.llama_answers import greedy_ids
from tests.limits import limit_s
from tests.servers import ServerProcess, eventually, serve

PROMPTS = ("What is deep learning?", "Water boils at")
N_TOKENS = 12
NAME = "ds_inference_config.json"
LOAD_S = 240
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # DeepSpeed's and torchao's own
    pytest.mark.usefixtures("mpirun"),
]


@pytest.fixture(scope="module", autouse=True)
def deepspeed() -> Any:
    return pytest.importorskip(
        "deepspeed", reason="deepspeed is not installed: pip install 'lmi-deepspeed[engine]'", exc_type=ImportError
    )


@pytest.fixture(scope="module")
def torchao() -> Any:
    return pytest.importorskip(
        "torchao", reason="torchao is not installed: pip install 'lmi-deepspeed[quantize]'", exc_type=ImportError
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama-wide", tmp_path_factory.mktemp("models") / "llama")


def artifacts_of(folder: Path) -> ModelArtifacts:
    config = json.loads((folder / "config.json").read_text())
    return ModelArtifacts(
        folder=str(folder), format=ArtifactFormat.PRETRAINED, config=config, model_type=config["model_type"]
    )


def loaded(folder: Path, stages: list[str] | None = None, **options: Any) -> Any:
    """The model that one rank has."""
    from lmi_deepspeed.engine import load_model

    def progress(stage: str, fraction: float | None = None) -> None:
        if stages is not None:
            stages.append(stage)

    config = DeepSpeedConfig(**{"dtype": "fp32", **options})
    return load_model(artifacts_of(folder), config, Ranks(), progress)


def logits(model: Any, ids: list[int] | None = None) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([ids or [3, 9, 4, 27, 8, 40]])).logits.float()


# ---------------------------------------------------------------------------------------------------------- shards


@pytest.fixture(scope="module")
def shards(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of one rank, written as shards."""
    folder = tmp_path_factory.mktemp("shards") / "made"
    stages: list[str] = []
    loaded(llama, stages, save_mp_checkpoint_path=str(folder))
    assert "write shards" in stages
    return folder


def test_shards_are_written_with_all_that_makes_a_folder_a_model_and_give_the_same_logits(
    llama: Path, shards: Path
) -> None:
    import torch

    names = {path.name for path in shards.iterdir()}
    assert {NAME, "config.json", "tokenizer.json", "non-tp.safetensors", "tp_00_00.safetensors"} <= names
    assert not any(name.endswith(".part") or name.startswith("model") for name in names)
    listed = json.loads((shards / NAME).read_text())
    assert (listed["type"], listed["parallelization"], listed["tp_size"], listed["dtype"]) == (
        "ds_model", "tp", 1, "float32",
    )  # fmt: skip
    assert torch.equal(logits(loaded(shards, checkpoint=NAME)), logits(loaded(llama)))


def test_the_type_of_the_shards_holds_unless_another_is_asked_for(shards: Path) -> None:
    import torch

    assert loaded(shards, checkpoint=NAME, dtype="auto").dtype is torch.float32
    assert loaded(shards, checkpoint=NAME, dtype="bf16").dtype is torch.bfloat16


def test_a_list_of_whole_weights_is_read_in_any_form(llama: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(llama / "model.safetensors")
    names = sorted(weights)
    shutil.copytree(llama, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({name: weights[name] for name in names[::2]}, tmp_path / "model" / "a.bin")
    torch.save({name: weights[name] for name in names[1::2]}, tmp_path / "model" / "b.bin")
    content = {"type": "ds_model", "checkpoints": ["a.bin", "b.bin"], "version": 1.0}
    (tmp_path / "model" / "all.json").write_text(json.dumps(content))
    assert torch.equal(logits(loaded(tmp_path / "model", checkpoint="all.json")), logits(loaded(llama)))


def _other_names(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "non-tp.safetensors")
    renamed = {name.replace("self_attn", "attention.attn_qkvw"): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "non-tp.safetensors")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "non-tp.safetensors").write_bytes(b"no"), "non-tp.safetensors cannot be read"),
        (lambda folder: (folder / "non-tp.safetensors").unlink(), "non-tp.safetensors cannot be read"),
        (lambda folder: (folder / NAME).write_text("{}"), "cannot be used: KeyError: 'checkpoints'"),
        (lambda folder: (folder / NAME).write_text('{"checkpoints": {"tp": ["a", "b"]}}'), "for 2 ranks"),
        (_other_names, "has not this model's tensors, split by AutoTP (no model.layers.0.self_attn"),
    ],
)
def test_shards_that_cannot_be_used_say_why(shards: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "spoilt"))
    spoil(folder)
    with pytest.raises(EngineLoadError) as raised:
        loaded(folder, checkpoint=NAME)
    assert raised.value.code == "weights.bad-checkpoint"
    assert said in str(raised.value)
    assert "save_mp_checkpoint_path" in str(raised.value)


def test_a_configuration_of_the_users_own_says_where_shards_are(llama: Path, shards: Path, tmp_path: Path) -> None:
    import torch

    folder = Path(shutil.copytree(shards, tmp_path / "own"))
    (folder / "ds.json").write_text(json.dumps({"checkpoint": NAME, "max_out_tokens": 64}))
    assert torch.equal(logits(loaded(folder, deepspeed_config_path="ds.json")), logits(loaded(llama)))


def running(folder: Path, n_ranks: int, *options: str) -> Any:
    flags = ("rolling_batch=deepspeed", f"tensor_parallel_degree={n_ranks}", "dtype=fp32")
    return serve(str(folder), *(word for flag in (*flags, *options) for word in ("-o", flag)), is_ready=False)


def tokens(server: ServerProcess) -> list[list[int]]:
    asked = {"details": True, "max_new_tokens": N_TOKENS, "ignore_eos_token": True}
    return [[each["id"] for each in server.generate(p, **asked)["details"]["tokens"]] for p in PROMPTS]


def compiled(folder: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    flags = [word for flag in ("rolling_batch=deepspeed", *options) for word in ("-o", flag)]
    command = [sys.executable, "-m", "lmi", "compile", str(folder), *flags, "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s(LOAD_S), check=False)


@pytest.mark.long
def test_two_ranks_build_their_parts_ahead_of_time_and_read_them_at_each_start(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    done = compiled(llama, folder, "tensor_parallel_degree=2", "dtype=fp32")
    assert done.returncode == 0, done.stderr
    assert {"tp_00_00.safetensors", "tp_01_00.safetensors"} <= {path.name for path in folder.iterdir()}
    with serve(str(folder), is_ready=False) as server:
        server.wait_until_ready(LOAD_S)
        assert tokens(server) == greedy_ids(llama, PROMPTS, N_TOKENS)


def test_shards_are_not_built_of_layers_in_8_bits(llama: Path, tmp_path: Path) -> None:
    done = compiled(llama, tmp_path / "made", "quantize=dynamic_int8")
    assert (done.returncode, "does not go with shards" in done.stderr) == (1, True), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_two_ranks_write_their_parts_and_read_them_at_the_next_start(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with running(llama, 2, f"save_mp_checkpoint_path={folder}") as server:
        server.wait_until_ready(LOAD_S)
    with running(folder, 2, f"checkpoint={NAME}") as server:
        server.wait_until_ready(LOAD_S)
        assert tokens(server) == greedy_ids(llama, PROMPTS, N_TOKENS)


# ---------------------------------------------------------------------------------------------------------- 8 bits


def n_int8_layers(model: Any) -> int:
    from torch import nn

    return sum(isinstance(each, nn.Linear) and "Int8" in type(each.weight).__name__ for each in model.modules())


@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize("method", ["dynamic_int8", "smoothquant"])
def test_all_linear_layers_but_the_last_are_in_8_bits_and_the_logits_stay_near(llama: Path, method: str) -> None:
    whole, small = loaded(llama), loaded(llama, quantize=method)
    n_layers = whole.config.num_hidden_layers
    assert n_int8_layers(small) == 7 * n_layers
    found, expected = logits(small), logits(whole)
    distance = (found - expected).norm() / expected.norm()
    assert 0 < distance < 0.05


@pytest.mark.usefixtures("torchao")
def test_transposed_layers_are_in_8_bits_too(tmp_path: Path) -> None:
    folder = write_tiny("gpt2", tmp_path / "gpt2")
    whole, small = loaded(folder), loaded(folder, quantize="smoothquant")
    assert n_int8_layers(small) == 4 * whole.config.num_hidden_layers
    assert (logits(small) - logits(whole)).norm() < 0.1 * logits(whole).norm()


@pytest.mark.usefixtures("torchao")
def test_smoothquant_moves_less_with_a_smaller_alpha_and_computes_in_32_bits_where_16_would_be_bf16(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    import lmi_deepspeed.engine

    monkeypatch.setattr(lmi_deepspeed.engine, "has_bf16", lambda: True)
    one = loaded(llama, quantize="smoothquant", smoothquant_alpha=0.9, dtype="auto")
    other = loaded(llama, quantize="smoothquant", smoothquant_alpha=0.1, dtype="auto")
    assert one.dtype is torch.float32
    assert loaded(llama, quantize="dynamic_int8", dtype="auto").dtype is torch.bfloat16
    assert not torch.equal(logits(one), logits(other))


@pytest.mark.usefixtures("torchao")
def test_smoothquant_without_a_tokenizer_says_what_it_needs(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "mute", ignore=shutil.ignore_patterns("*token*")))
    with pytest.raises(LmiError) as raised:
        loaded(folder, quantize="smoothquant")
    assert raised.value.code == "engine.no-calibration"


@pytest.mark.long
@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize("method", ["smoothquant", "dynamic_int8"])
def test_sequences_of_layers_in_8_bits_are_stepped_together(demo_model: Path, method: str) -> None:
    from lmi_deepspeed.engine import load_stepper
    from lmi_hf.stepping import PackedStepper

    config = DeepSpeedConfig(dtype="fp32", quantize=method, max_tokens=128)
    stepper = load_stepper(artifacts_of(demo_model), config, Ranks(), 1, lambda stage, fraction=None: None)
    stepper.close()
    assert isinstance(stepper, PackedStepper)


@pytest.mark.usefixtures("torchao")
@pytest.mark.long
def test_two_ranks_answer_with_layers_in_8_bits(llama: Path) -> None:
    [[first, *_], *_] = greedy_ids(llama, PROMPTS, 1)
    with running(llama, 2, "quantize=smoothquant") as server:
        server.wait_until_ready(LOAD_S)
        assert eventually(lambda: server.generate(PROMPTS[0], max_new_tokens=1, details=True))
        answer = server.generate(PROMPTS[0], max_new_tokens=1, details=True, decoder_input_details=True)
    [token] = answer["details"]["tokens"]
    assert token["id"] == first


@pytest.fixture(scope="module")
def likelihoods(demo_model: Path) -> Iterator[Any]:
    """For each way to load the demo model: how far its distributions are from those of whole weights, in nats."""
    import torch
    from transformers import AutoTokenizer

    text = Path(__file__).parents[2].joinpath("README.md").read_text("utf-8")
    ids = AutoTokenizer.from_pretrained(demo_model)(text)["input_ids"][:512]
    expected = logits(loaded(demo_model), ids).log_softmax(-1)

    def divergence(**options: Any) -> float:
        found = logits(loaded(demo_model, **options), ids).log_softmax(-1)
        return float(torch.nn.functional.kl_div(found, expected, log_target=True, reduction="sum") / len(ids))

    yield divergence


@pytest.mark.long
@pytest.mark.usefixtures("torchao")
def test_smoothquant_stays_nearer_to_the_demo_model_than_dynamic_int8(likelihoods: Any) -> None:
    smooth, dynamic = likelihoods(quantize="smoothquant"), likelihoods(quantize="dynamic_int8")
    assert 0 < smooth < dynamic < 0.1
