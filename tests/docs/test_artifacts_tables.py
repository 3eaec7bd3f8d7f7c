# SPDX-License-Identifier: Apache-2.0
"""docs/artifacts.md: every row of its tables of files holds, and its trees are the layouts they are said to be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmi.api import ArtifactFormat
from lmi.artifacts import detect, wanted_files
from lmi.cli.check import check
from lmi.plugins import Plugins
from tests.core.layouts import LAYOUTS, layout, pickled, write
from tests.core.model_folders import CONFIG, write_model
from tests.docs.artifacts_page import rows, section, tree
from tests.docs.pages import code

INFOS = Plugins.discover({}).backends


# ----------------------------------------------------------------------------------------------------------- layouts

OF_ROW = {
    "pretrained": ["pretrained", "sharded", "pickles", "sharded_pickles", "multimodal"],
    "TensorRT-LLM repository": ["repository_parent", "repository_inner", "repository_pipeline"],
    "TensorRT-LLM build": ["engines"],
    "compiled for Neuron": ["neuron_old", "neuron_new"],
    "split for Neuron": ["neuron_split"],
    "LoRA adapter as a model": ["adapter"],
    "DeepSpeed checkpoint": ["ranked", "ranked_safe", "ranked_list"],
    "Mistral's own": ["mistral"],
    "code only": ["only_code"],
}


def test_every_layout_that_is_recognised_has_its_row() -> None:
    assert [row[0] for row in rows("What the files must be")] == list(OF_ROW)
    assert {name for names in OF_ROW.values() for name in names} == set(LAYOUTS)


@pytest.mark.parametrize("row", rows("What the files must be"), ids=lambda row: row[0])
def test_a_layout_is_what_its_row_says_and_is_for_these_backends(tmp_path: Path, row: list[str]) -> None:
    for name in OF_ROW[row[0]]:
        assert detect(layout(name, tmp_path / name)).format.value in code(row[2])
    if row[0] != "code only":
        ours = {name: info for name, info in INFOS.items() if info.needs_model}
        assert set(code(row[3])) == {name for name, info in ours.items() if code(row[2])[0] in info.artifact_formats}


@pytest.mark.parametrize(
    ("title", "found", "config"),
    [
        ("Pretrained", ArtifactFormat.PRETRAINED, CONFIG),
        ("Compiled for TensorRT-LLM", ArtifactFormat.TRITON_REPOSITORY, CONFIG),
        ("Compiled for Neuron", ArtifactFormat.NEURON, {**CONFIG, "neuron": {}}),
    ],
)
def test_a_tree_of_the_page_is_that_layout(tmp_path: Path, title: str, found: ArtifactFormat, config: object) -> None:
    files = tree(title)
    assert any(name.endswith("tokenizer_config.json") for name in files)
    assert detect(write(tmp_path, {name: config if name.endswith("/config.json") or name == "config.json" else b""
                                   for name in files})).format is found  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- refused


def codes(folder: Path, *arguments: str) -> list[str]:
    done = CliRunner().invoke(check, [str(folder), "--json", *arguments], catch_exceptions=False)
    return [each["code"] for each in json.loads(done.stdout)["problems"]]


def severities(folder: Path, *arguments: str) -> dict[str, str]:
    done = CliRunner().invoke(check, [str(folder), "--json", *arguments], catch_exceptions=False)
    return {each["code"]: each["severity"] for each in json.loads(done.stdout)["problems"]}


def changed(**config: object) -> Callable[[Path], None]:
    return lambda folder: write(folder, {"config.json": {**CONFIG, **config}}) and None


def without(*names: str, **others: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()
        write(folder, {name.replace("__", "."): content for name, content in others.items()})

    return change


class Dangerous:
    """Its pickle names a function that runs commands."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


WEIGHTS = "model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"
CODE = {
    "model_type": "of-its-own",
    "architectures": ["OwnForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
}
REFUSED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "weights.lfs-pointer": (lambda folder: (folder / WEIGHTS).write_bytes(POINTER), []),
    "weights.unsupported-kind": (without(WEIGHTS, model__gguf=b""), []),
    "config.missing": (without("config.json"), []),
    "config.incomplete": (lambda folder: write(folder, {"config.json": {}}), []),
    "tokenizer.missing": (without("tokenizer_config.json"), []),
    "tokenizer.unreadable": (lambda folder: write(folder, {"tokenizer.json": "{"}), []),
    "weights.shard-missing": (
        lambda folder: write(folder, {f"{WEIGHTS}.index.json": {"weight_map": {"w": "model-2.safetensors"}}}), [],
    ),
    "weights.truncated": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]), []),
    "weights.missing": (without(WEIGHTS), []),
    "weights.pickle-unsafe": (without(WEIGHTS, pytorch_model__bin=pickled({"a": Dangerous()})), []),
    "model.remote-code": (lambda folder: (changed(**CODE)(folder), write(folder, {"modeling_own.py": ""})), []),
    "config.quantize": (
        changed(quantization_config={"quant_method": "awq", "bits": 4}),
        ["-o", "rolling_batch=vllm", "-o", "quantize=gptq", "--devices", "cuda:1"],
    ),
    "model.not-a-language-model": (without("config.json", model_index__json={"_class_name": "Any"}), []),
    "weights.split": (lambda folder: layout("neuron_split", folder), ["--devices", "neuron:2"]),
    "model.compiler-version": (
        lambda folder: layout("neuron_old", folder), ["--devices", "neuron:2", "--target", "neuronx-cc=2.14.1"],
    ),
    "config.tensor-parallel": (
        lambda folder: layout("repository_inner", folder), ["--devices", "cuda:4", "-o", "tensor_parallel_degree=4"],
    ),
}  # fmt: skip
"""Code -> what is done to a good model, and further arguments of the check."""


@pytest.mark.parametrize("row", rows("What is refused"), ids=lambda row: code(row[1])[0])
def test_what_is_refused_is_refused_with_the_code_of_its_row(tmp_path: Path, row: list[str]) -> None:
    [expected] = code(row[1])
    spoil, arguments = REFUSED[expected]
    is_of_its_own = expected in ("weights.split", "model.compiler-version", "config.tensor-parallel")
    folder = tmp_path if is_of_its_own else write_model(tmp_path / "model")
    if not is_of_its_own:
        assert codes(folder) == []
    spoil(folder)
    assert expected in codes(folder, *arguments)


@pytest.mark.parametrize(
    ("backend", "devices", "severity"),
    [
        ("hf", "cpu", "error"),
        ("lmi-dist", "cuda:1", "error"),
        ("deepspeed", "cuda:1", "error"),
        ("neuronx", "neuron:2", "error"),
        ("vllm", "cuda:1", "warning"),
        ("trtllm", "cuda:1", "warning"),
    ],
)
@pytest.mark.parametrize("found", ["weights.index-missing", "weights.odd-name"])
def test_weights_that_an_engine_does_not_find_by_name_stop_it(
    tmp_path: Path, found: str, backend: str, devices: str, severity: str
) -> None:
    if found == "weights.odd-name":
        (write_model(tmp_path) / WEIGHTS).rename(tmp_path / "other.safetensors")
    else:
        (write_model(tmp_path, n_shards=2) / f"{WEIGHTS}.index.json").unlink()
    arguments = ["-o", f"rolling_batch={backend}", "--devices", devices]
    assert severities(tmp_path, *arguments)[found] == severity
    words = section("What is refused")
    assert f"`{found}`" in words
    assert f"`{backend}`" in words


@pytest.mark.parametrize(("trusts", "severity"), [("false", "warning"), ("true", "error")])
def test_code_that_is_not_there_stops_a_model_that_would_run_it(tmp_path: Path, trusts: str, severity: str) -> None:
    folder = write_model(tmp_path)
    changed(auto_map={"AutoConfig": "configuration_x.C"})(folder)
    assert severities(folder, "-o", f"trust_remote_code={trusts}")["model.code-missing"] == severity
    assert "`model.code-missing`" in section("What is refused")


# ----------------------------------------------------------------------------------------------------------- fetched


@pytest.mark.parametrize("row", rows("What is fetched"), ids=lambda row: row[0])
def test_what_is_left_out_is_left_out(tmp_path: Path, row: list[str]) -> None:
    folder = write_model(tmp_path)
    needed = {path.name for path in folder.iterdir()}
    for pattern in code(row[0]):
        write(folder, {pattern.replace("*", "any") + ("file" if pattern.endswith("/") else ""): b"x"})
    assert {path.name for path in folder.iterdir()} > needed
    assert set(wanted_files(detect(folder))) == needed
