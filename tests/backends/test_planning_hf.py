# SPDX-License-Identifier: Apache-2.0
"""What is planned for the backend hf against the tensors that it makes, within two percent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.numpy import load_file, save_file

import lmi_hf
from lmi.api import Prefill, StepBatch, Target
from lmi.artifacts import detect
from lmi.planning import CacheShape, Estimate, estimate
from lmi.testing.checkpoints import ARCHITECTURES, write_tiny
from lmi_hf.config import HFConfig
from lmi_hf.engine import load_model
from lmi_hf.stepping import PackedStepper, StepperOptions, build_stepper
from lmi_hf.stepping.decoder import LlamaLoop

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # transformers, for GPT-BigCode

N_SLOTS, N_TOKENS = 2, 64
WITHIN = 0.02
INFO = lmi_hf.lmi_describe_backend()

TIED = "llama with a shared head"
ROWS = [*((name, "fp32") for name in ARCHITECTURES), (TIED, "fp32"), ("llama", "bf16"), ("gpt2", "bf16")]


class Made(msgspec.Struct):
    """A plan, and what was made of the same model."""

    planned: Estimate
    model: Any
    stepper: Any
    artifacts: Any


def write_model(name: str, folder: Path) -> Path:
    if name != TIED:
        return write_tiny(name, folder)
    path = write_tiny("llama", folder)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Plans and makes a model in a type, once."""
    kept: dict[tuple[str, str], Made] = {}

    def made_of(name: str, dtype: str) -> Made:
        if (name, dtype) in kept:
            return kept[name, dtype]
        artifacts = detect(write_model(name, tmp_path_factory.mktemp("model") / "it"))
        config = HFConfig(dtype=dtype, max_rolling_batch_size=N_SLOTS)
        model = load_model(artifacts, config, lambda stage, fraction=None: None)
        options = StepperOptions(
            max_slots=N_SLOTS, max_context_tokens=N_TOKENS, cache_bytes=1 << 30, packs_weights=dtype == "fp32"
        )
        stepper = build_stepper(model, options)
        kept[name, dtype] = Made(estimate(artifacts, config, INFO, Target()), model, stepper, artifacts)
        return kept[name, dtype]

    yield made_of
    for made in kept.values():
        made.stepper.close()


def bytes_of_weights(made: Made) -> int:
    """Memory of the parameters and of the head that the stepper may have copied, each once."""
    tensors = list(made.model.parameters())
    loop = getattr(getattr(made.stepper, "_forward", None), "__self__", None)
    if isinstance(loop, LlamaLoop):
        tensors.append(loop.head.weight)
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


def bytes_of_cache(made: Made) -> int:
    """Memory of the keys and values of full slots: those of the arena, or those that the model's own cache made."""
    stepper = made.stepper
    if isinstance(stepper, PackedStepper):
        return sum(layer.rows.numel() * layer.rows.element_size() for layer in stepper._arena.layers)
    for slot in range(N_SLOTS):
        stepper.step(StepBatch(prefills=[Prefill(slot=slot, ids=[5] * N_TOKENS, start=0, n_logits=1)]))
    tensors = [
        part for cache in stepper._caches.values() for layer in cache.layers for part in (layer.keys, layer.values)
    ]
    return sum(part.numel() * part.element_size() for part in tensors)


@pytest.mark.parametrize(("name", "dtype"), ROWS)
def test_weights_take_what_was_planned(make, name, dtype):
    made = make(name, dtype)
    assert made.planned.weights.n_bytes == pytest.approx(bytes_of_weights(made), rel=WITHIN)


@pytest.mark.parametrize(("name", "dtype"), ROWS)
def test_keys_and_values_take_what_was_planned(make, name, dtype):
    made = make(name, dtype)
    assert N_SLOTS * made.planned.fit.cache.bytes_of(N_TOKENS) == pytest.approx(bytes_of_cache(made), rel=WITHIN)


def test_weights_and_cache_together_are_what_the_plan_of_all_devices_says(make):
    made = make("mistral", "fp32")
    whole = CacheShape.of(made.planned.shape, made.planned.sizing.cache_dtype, ends_window=False)
    planned = made.planned.weights.n_bytes + N_SLOTS * whole.bytes_of(N_TOKENS)
    assert planned == pytest.approx(bytes_of_weights(made) + bytes_of_cache(made), rel=WITHIN)


@pytest.mark.parametrize(("stored", "dtype"), [("float32", "fp32"), ("bfloat16", "bf16")])
def test_the_type_that_auto_means_is_the_one_that_is_loaded(tmp_path, monkeypatch, stored, dtype):
    for module in ("lmi_hf.memory", "lmi_hf.engine"):
        monkeypatch.setattr(f"{module}.computes_bf16", lambda: True)
    artifacts = detect(write_tiny("llama", tmp_path / "it", dtype=stored))
    config = HFConfig()
    model = load_model(artifacts, config, lambda stage, fraction=None: None)
    found = estimate(artifacts, config, INFO, Target())
    assert (found.weights.dtype, str(model.dtype)) == (dtype, f"torch.{stored}")
    assert found.weights.n_bytes == sum(each.numel() * each.element_size() for each in model.parameters())
