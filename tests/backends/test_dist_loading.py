# SPDX-License-Identifier: Apache-2.0
"""lmi-dist loads a model on one rank: the form of its weights, compressed ones, and the size of the cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

import lmi_hf
from lmi.api import (
    ArtifactFormat,
    BackendConfig,
    Decode,
    EngineLoadError,
    ModelArtifacts,
    Prefill,
    StepBatch,
    Stepper,
    Target,
)
from lmi.artifacts import detect
from lmi.testing import write_tiny
from lmi_hf import lmi_dist, stepping
from lmi_hf.config import HFConfig
from lmi_hf.lmi_dist.config import DistConfig
from lmi_hf.stepping import build
from lmi_hf.stepping.build import room_bytes
from tests.backends.vllm_checkpoints import write_compressed

IDS = [5, 80, 33, 7, 9, 100]
GIB = 1 << 30


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama-wide", tmp_path_factory.mktemp("models") / "llama")


def load(artifacts: ModelArtifacts, config: BackendConfig | None = None, **options: Any) -> Stepper:
    config = config or DistConfig(max_rolling_batch_size=2, **{"dtype": "fp32", **options})
    backend: Any = lmi_hf if isinstance(config, HFConfig) else lmi_dist
    return backend.lmi_load_engine(artifacts, config, lambda stage, fraction=None: None)


def greedy(stepper: Stepper, n_tokens: int = 12) -> list[int]:
    found: list[int] = []
    batch = StepBatch(prefills=[Prefill(slot=0, ids=IDS, start=0, n_logits=1)])
    while len(found) < n_tokens:
        logits = stepper.step(batch).logits
        assert logits is not None
        found.append(int(logits[0].argmax()))
        start = len(IDS) + len(found) - 1
        batch = StepBatch(decodes=[Decode(slot=0, ids=found[-1:], start=start, n_logits=1)])
    return found


def test_random_weights_are_made_without_those_of_the_folder_and_are_always_the_same(
    folder: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    artifacts = ModelArtifacts(folder=str(broken), format=ArtifactFormat.PRETRAINED)
    with pytest.raises(EngineLoadError, match=r"engine\.load-failed"):
        load(artifacts)
    found = [greedy(load(artifacts, load_format="dummy")) for _ in range(2)]
    assert found[0] == found[1] != greedy(load(detect(folder)))


def test_the_form_of_the_weights_that_is_asked_for_is_the_one_that_is_read(folder: Path, tmp_path: Path) -> None:
    both = shutil.copytree(folder, tmp_path / "both")
    other = write_tiny("llama-wide", tmp_path / "other", seed=3)
    torch.save(load_file(other / "model.safetensors"), both / "pytorch_model.bin")
    expected = {"safetensors": greedy(load(detect(folder))), "pt": greedy(load(detect(other)))}
    assert expected["safetensors"] != expected["pt"]
    for load_format, wanted in {**expected, "auto": expected["safetensors"]}.items():
        assert greedy(load(detect(both), load_format=load_format)) == wanted


@pytest.mark.long  # what reads them is large, and not among the packages of a usual run
@pytest.mark.parametrize("kind", ["gptq", "awq"])
@pytest.mark.parametrize("config", [HFConfig(dtype="fp32"), DistConfig()], ids=["hf", "lmi-dist"])
@pytest.mark.filterwarnings("ignore")  # of the package that reads them
def test_compressed_weights_give_the_tokens_of_the_same_numbers_written_out(
    kind: str, config: BackendConfig, tmp_path: Path
) -> None:
    pytest.importorskip("gptqmodel", reason="gptqmodel is not installed: pip install 'lmi-hf[gptq]'")
    artifacts = detect(write_compressed(kind, tmp_path / "compressed", tmp_path / "plain"))
    assert list(lmi_dist.lmi_validate_artifacts(artifacts, DistConfig(), Target())) == []
    config = config.model_copy(update={"max_rolling_batch_size": 2})
    assert greedy(load(artifacts, config)) == greedy(load(detect(tmp_path / "plain")))


@pytest.mark.parametrize("backend", ["hf", "lmi-dist"])
def test_a_missing_library_is_told_under_the_name_of_the_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmi_hf import engine

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(engine.importlib, "import_module", missing)
    config = HFConfig() if backend == "hf" else DistConfig()
    with pytest.raises(EngineLoadError, match=f"engine.not-installed: backend {backend} needs torch"):
        load(ModelArtifacts(), config)


@pytest.mark.parametrize(
    ("free_gib", "share", "room_gib"),
    [(40, 0.0, 20), (60, 0.9, 52), (60, 1.0, 60), (60, 0.5, 20), (10, 0.5, 0), (80, 0.9, 72)],
)
def test_the_cache_takes_what_weights_leave_of_a_share_of_80_gib_or_half_of_what_is_free(
    free_gib: int, share: float, room_gib: int
) -> None:
    assert room_bytes(free_gib * GIB, 80 * GIB, share) == room_gib * GIB


def test_the_share_of_device_memory_reaches_the_one_who_sizes_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[stepping.StepperOptions] = []
    build = stepping.build_stepper

    def recorded(model: Any, options: stepping.StepperOptions, progress: Any) -> Stepper:
        asked.append(options)
        return build(model, options, progress)

    monkeypatch.setattr(stepping, "build_stepper", recorded)
    load(detect(folder))
    load(detect(folder), gpu_memory_utilization=0.5)
    load(detect(folder), HFConfig(dtype="fp32"))
    assert [each.memory_share for each in asked] == [0.9, 0.5, 0.0]


def test_a_draft_model_has_room_for_the_tokens_of_the_model_in_the_same_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = 2 * 2 * 2 * 32 * 4  # layers, keys and values, heads, numbers, bytes
    monkeypatch.setattr(build, "memory_share_bytes", lambda: 2 * row_bytes * 1000)
    alone = load(detect(folder))
    draft = write_tiny("llama-wide", tmp_path / "draft", dtype="bfloat16")
    artifacts = msgspec.structs.replace(detect(folder), further={"speculative_draft_model": detect(draft)})
    both = load(artifacts, speculative_draft_model="s3://it/was/fetched/from")
    assert both.draft is not None
    limits = both.draft.stepper.limits
    assert (alone.limits.kv_capacity_tokens, both.limits.kv_capacity_tokens) == (1000, 500)
    assert (limits.kv_capacity_tokens, limits.max_slots) == (500, both.limits.max_slots)
    assert greedy(both) == greedy(alone)
