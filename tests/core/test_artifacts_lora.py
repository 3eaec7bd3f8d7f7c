# SPDX-License-Identifier: Apache-2.0
"""The matrices of adapters beside those of their model: one row a mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lmi.api import Problem, Severity
from lmi.artifacts import detect
from lmi.artifacts.lora import lora_problems
from lmi.artifacts.places.files import LocalFiles
from lmi.testing import write_tiny, write_tiny_adapter

Tensors = dict[str, NDArray[np.float32]]
LAYER = "base_model.model.model.layers"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny Llama of two layers with an adapter of rank 4."""
    path = write_tiny("llama", tmp_path / "llama")
    write_tiny_adapter(path / "adapters" / "fr", path)
    return path


def change(model: Path, edit: Callable[[Tensors], object], **config: object) -> None:
    """Change the adapter's tensors, and its configuration."""
    folder = model / "adapters" / "fr"
    tensors = load_file(folder / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    text = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(json.dumps({**json.loads(text), **config}))


def found(model: Path) -> list[Problem]:
    files = LocalFiles(model)
    return lora_problems(detect(files), files)


def only(model: Path) -> Problem:
    problems = found(model)
    assert len(problems) == 1, problems
    return problems[0]


def wider(tensors: Tensors) -> None:
    name = f"{LAYER}.0.self_attn.q_proj.lora_A.weight"
    tensors[name] = np.zeros((4, 2 * tensors[name].shape[1]), np.float32)


def of_layer_9(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".layers.1." in name]:
        tensors[name.replace(".layers.1.", ".layers.9.")] = tensors.pop(name)


def renamed(new: str, *old: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        for name in [name for name in tensors if any(each in name for each in old)]:
            tensors[name.replace("_proj", new)] = tensors.pop(name)

    return edit


def halved(tensors: Tensors) -> None:
    for name in [name for name in tensors if "lora_B" in name]:
        del tensors[name]


def of_rank_5(tensors: Tensors) -> None:
    name = f"{LAYER}.0.self_attn.q_proj.lora_A.weight"
    tensors[name] = np.zeros((5, tensors[name].shape[1]), np.float32)


def without_lora(tensors: Tensors) -> None:
    tensors.clear()
    tensors["prompt_embeddings"] = np.zeros((4, 4), np.float32)


def test_an_adapter_that_fits_has_no_problems(model: Path) -> None:
    assert found(model) == []


@pytest.mark.parametrize(
    ("edit", "code", "said"),
    [
        pytest.param(wider, "adapter.shape", "model.layers.0.self_attn.q_proj is 64 x 64, and 64 x 128 for the adapter",
                     id="of a wider model"),
        pytest.param(of_layer_9, "adapter.unknown-modules",
                     "changes model.layers.9.self_attn.q_proj, and 1 more; this model has no such layer, it has 2",
                     id="of a deeper model"),
        pytest.param(renamed("_qkv", "q_proj", "v_proj"), "adapter.unknown-modules", "which this model's weights do",
                     id="of another family"),
        pytest.param(halved, "adapter.incomplete", "lacks model.layers.0.self_attn.q_proj.lora_B, and 3 more",
                     id="half of it"),
        pytest.param(of_rank_5, "adapter.rank", "than the 4 of its configuration: model.layers.0.self_attn.q_proj has",
                     id="of two ranks"),
        pytest.param(without_lora, "adapter.incomplete", "has no LoRA matrix among its 1 tensor", id="of another kind"),
    ],
)  # fmt: skip
def test_matrices_that_do_not_fit_the_model_say_why(
    model: Path, edit: Callable[[Tensors], object], code: str, said: str
) -> None:
    change(model, edit)
    problem = only(model)
    assert (problem.code, problem.severity, said in problem.message) == (code, Severity.ERROR, True), problem
    assert problem.message.startswith("adapter 'fr' ")
    assert problem.path == f"{model}/adapters/fr/adapter_config.json"


def test_all_that_is_wrong_is_told_at_once(model: Path) -> None:
    def edit(tensors: Tensors) -> None:
        wider(tensors)
        of_layer_9(tensors)

    change(model, edit, r=8)
    assert [each.code for each in found(model)] == ["adapter.rank", "adapter.shape", "adapter.unknown-modules"]


def test_one_strange_matrix_among_others_is_a_warning(model: Path) -> None:
    change(model, renamed("_qkv", "layers.0.self_attn.q_proj"))
    problem = only(model)
    assert (problem.code, problem.severity) == ("adapter.unknown-modules", Severity.WARNING)


def test_ranks_of_single_matrices_are_those_of_the_configuration(model: Path) -> None:
    change(model, lambda tensors: None, r=2, rank_pattern={"q_proj": 4, "v_proj": 4})
    assert found(model) == []


@pytest.mark.parametrize("start", ["model.", "language_model.model.", ""])
def test_what_stands_before_the_layers_may_differ(model: Path, start: str) -> None:
    def edit(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.replace("base_model.model.model.", f"base_model.model.{start}")] = tensors.pop(name)

    change(model, edit)
    assert found(model) == []


def test_names_with_the_adapters_own_name_in_them_are_understood(model: Path) -> None:
    def edit(tensors: Tensors) -> None:
        wider(tensors)
        for name in list(tensors):
            tensors[name.replace(".weight", ".default.weight")] = tensors.pop(name)

    change(model, edit)
    assert only(model).code == "adapter.shape"


def test_a_head_that_shares_the_embeddings_weights_is_no_strange_matrix(model: Path) -> None:
    def edit(tensors: Tensors) -> None:
        tensors.clear()
        tensors["base_model.model.lm_head.lora_A.weight"] = np.zeros((4, 64), np.float32)
        tensors["base_model.model.lm_head.lora_B.weight"] = np.zeros((300, 4), np.float32)

    weights = load_file(model / "model.safetensors")
    weights.pop("lm_head.weight", None)
    save_file(weights, model / "model.safetensors")
    change(model, edit)
    assert found(model) == []


def test_packed_weights_tell_where_matrices_are_and_not_how_large(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    packed = {name: np.zeros((8, 8), np.uint8) if "_proj" in name else value for name, value in weights.items()}
    save_file(packed, model / "model.safetensors")
    assert found(model) == []
    change(model, of_layer_9)
    assert only(model).code == "adapter.unknown-modules"


def test_where_weights_have_no_headers_the_configuration_tells_their_sizes(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert found(model) == []
    change(model, wider)
    assert only(model).code == "adapter.shape"


@pytest.mark.parametrize("architecture", ["gpt2", "gptj", "falcon", "bloom", "opt", "phi", "gpt_neox", "mixtral"])
def test_matrices_of_every_family_are_found(architecture: str, tmp_path: Path) -> None:
    """Each matrix of the model's layers gets an adapter of its own size, and then of another one."""
    path = write_tiny(architecture, tmp_path / "model")
    weights = load_file(path / "model.safetensors")
    modules = {name.removesuffix(".weight"): value.shape for name, value in weights.items()
               if value.ndim == 2 and any(part.isdigit() for part in name.split("."))}  # fmt: skip
    folder = path / "adapters" / "fr"
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for more, codes in ((0, []), (1, ["adapter.shape"])):
        tensors = {}
        for name, (n_out, n_in) in modules.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = np.zeros((2, n_in), np.float32)
            tensors[f"base_model.model.{name}.lora_B.weight"] = np.zeros((n_out + more, 2), np.float32)
        save_file(tensors, folder / "adapter_model.safetensors")
        assert [each.code for each in found(path)] == codes
