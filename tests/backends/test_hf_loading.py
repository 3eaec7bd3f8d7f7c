# SPDX-License-Identifier: Apache-2.0
"""lmi_hf loads a model folder: number type, adapters, limits, failures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import lmi_hf
from lmi.api import ArtifactFormat, EngineLoadError, ModelArtifacts, Prefill, StepBatch, Stepper
from lmi_hf import engine, machine
from lmi_hf.config import HFConfig
from lmi_hf.stepping import build
from tests.tiny import write_tiny_llama


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("llama"))


def artifacts_of(folder: Path, format: ArtifactFormat = ArtifactFormat.PRETRAINED) -> ModelArtifacts:
    return ModelArtifacts(folder=str(folder), format=format, model_type="llama")


def load(folder: Path, format: ArtifactFormat = ArtifactFormat.PRETRAINED, **options: Any) -> Stepper:
    stages: list[str] = []
    config = HFConfig(**{"kv_cache_memory_bytes": 1 << 24, "dtype": "fp32", **options})
    stepper = lmi_hf.lmi_load_engine(
        artifacts_of(folder, format), config, lambda stage, fraction=None: stages.append(stage)
    )
    assert "load weights" in stages
    return stepper


def last_logits(stepper: Stepper, ids: list[int]) -> torch.Tensor:
    logits = stepper.step(StepBatch(prefills=[Prefill(slot=0, ids=ids, start=0, n_logits=1)])).logits
    assert logits is not None
    return logits


def test_limits_come_from_the_model_and_the_options(folder: Path) -> None:
    limits = load(folder, max_rolling_batch_size=5).limits
    assert (limits.max_slots, limits.max_context_tokens, limits.vocab_size) == (5, 512, 300)
    assert (limits.prefill_chunk_tokens, limits.prefill_tokens_beside_decodes) == (512, 16)
    limits = load(folder, max_model_len=100, max_rolling_batch_prefill_tokens=8).limits
    assert (limits.max_context_tokens, limits.prefill_chunk_tokens) == (100, 8)
    assert limits.prefill_tokens_beside_decodes == 8


def test_dtype_decides_the_type_of_the_logits(folder: Path) -> None:
    assert last_logits(load(folder, dtype="bf16"), [1, 2]).dtype == torch.bfloat16
    assert last_logits(load(folder, dtype="auto"), [1, 2]).dtype == torch.float32  # the checkpoint's


@pytest.mark.parametrize(("stored", "computes", "chosen"), [
    ("bfloat16", True, "bfloat16"), ("bfloat16", False, "float32"), ("float16", True, "bfloat16"),
    ("float32", True, "float32"),
])  # fmt: skip
def test_auto_takes_16_bits_only_where_the_processor_computes_them(
    stored: str, computes: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig

    monkeypatch.setattr(engine, "computes_bf16", lambda: computes)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.choose_dtype("auto", LlamaConfig(dtype=stored)) == getattr(torch, chosen)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_an_adapter_folder_serves_its_base_with_the_adapter_merged(folder: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        adapted = peft.get_peft_model(base, lora).eval()
    adapted.save_pretrained(tmp_path)
    ids = [5, 80, 33, 7]
    with torch.inference_mode():
        wanted = adapted(torch.tensor([ids])).logits[0, -1]
    found = last_logits(load(tmp_path, ArtifactFormat.ADAPTER), ids)[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, last_logits(load(folder), ids)[0], atol=1e-2)


def test_weights_that_transformers_refuses_are_a_load_error_with_the_cause(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(EngineLoadError, match=r"engine\.load-failed: transformers could not load") as caught:
        load(tmp_path)
    assert caught.value.__cause__ is not None


def test_the_automatic_cache_takes_half_of_the_memory_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "memory_share_bytes", lambda: 2 * 512 * 1000)  # 512 bytes a token
    limits = load(folder, kv_cache_memory_bytes=0).limits
    assert limits.kv_capacity_tokens == 1000


def test_threads_are_one_a_core_unless_said_and_a_set_wait_policy_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "n_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert machine.prepare_threads(0, "passive") == 6
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("6", "PASSIVE")
    assert machine.prepare_threads(3, "active") == 3
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("3", "PASSIVE")
    assert machine.prepare_threads(0, "auto") == 3
