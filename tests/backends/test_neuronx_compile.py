# SPDX-License-Identifier: Apache-2.0
"""``lmi compile`` for neuronx, from the command line to a stream of the model it built, on a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lmi.testing import write_tiny
from tests.backends.neuron_standin import COMPILER, recorded, serving, variables
from tests.buckets import Bucket
from tests.limits import limit_s
from tests.servers import ServerProcess

Command = Callable[..., subprocess.CompletedProcess[str]]

SIZES = {"tensor_parallel_degree": 2, "n_positions": 256, "max_rolling_batch_size": 4}
OF_THE_GRAPH = {
    "auto_cast_type": "f16", "batch_size": 4, "checkpoint_id": None, "checkpoint_revision": None,
    "compiler_type": "neuronx-cc", "compiler_version": COMPILER, "continuous_batching": True, "num_cores": 2,
    "sequence_length": 256,
}  # fmt: skip
PROMPTS = ("Once upon a time", "a", "The quick brown fox")


def flags(options: Mapping[str, object]) -> list[str]:
    return [part for name, value in options.items() for part in ("-o", f"{name}={value}")]


@pytest.fixture(scope="module")
def lmi(neuron_machine: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """``lmi("check", folder)``: a command on a machine with four cores."""
    cache = tmp_path_factory.mktemp("cache")
    found = {**os.environ, **variables(STANDIN_NEURON_ROOT=str(neuron_machine), LMI_CACHE_DIR=str(cache))}

    def command(*args: object, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lmi", *map(str, args)],
            env={**found, "HF_HUB_OFFLINE": "1", **environ}, capture_output=True, text=True, check=False,
            timeout=limit_s(120),
        )  # fmt: skip

    return command


@pytest.fixture(scope="module")
def compiled(lmi: Command, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("compiled") / "llama"
    done = lmi("compile", tiny_llama, "-o", "rolling_batch=neuronx", *flags(SIZES), "--output", output)
    assert done.returncode == 0, done.stderr
    return output


def tokens(server: ServerProcess) -> list[list[int]]:
    wanted = {"max_new_tokens": 30, "ignore_eos_token": True}
    return [[line["token"]["id"] for line in server.stream(prompt, **wanted)] for prompt in PROMPTS]


@pytest.fixture(scope="module")
def expected(neuron_machine: Path, tiny_llama: Path) -> list[list[int]]:
    """The tokens of the model that is compiled at the start."""
    with serving(neuron_machine, str(tiny_llama), options={"rolling_batch": "neuronx", **SIZES}) as server:
        return tokens(server)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------- what is written


def test_what_is_written_is_the_layout_of_the_sdk_2_16_with_a_manifest(compiled: Path) -> None:
    found = files(compiled)
    weights = {name for name in found if name.startswith("checkpoint/pytorch_model.bin/")}
    graphs = {name for name in found if name.endswith(".neff")}
    assert found - weights - graphs == {
        "checkpoint/config.json", "compiled/VERSION", "config.json", "generation_config.json", "lmi-manifest.json",
        "serving.properties", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert {Path(name).parent.as_posix() for name in graphs} == {"compiled"}
    listed = json.loads((compiled / "checkpoint/pytorch_model.bin/key_to_filename.json").read_text())
    assert {Path(name).name for name in weights} == {"key_to_filename.json", *listed.values()}
    assert json.loads((compiled / "config.json").read_text())["neuron"] == OF_THE_GRAPH
    assert "neuron" not in json.loads((compiled / "checkpoint" / "config.json").read_text())
    assert (compiled / "compiled" / "VERSION").read_text().strip() == COMPILER


def test_the_manifest_lists_every_file_and_the_options_to_serve_it_with(compiled: Path) -> None:
    manifest = json.loads((compiled / "lmi-manifest.json").read_text())
    assert manifest["files"].keys() == files(compiled) - {"lmi-manifest.json", "serving.properties"}
    built_for = (manifest["backend"], manifest["accelerator"], manifest["tensor_parallel_degree"])
    assert built_for == ("neuronx", "neuron", 2)
    assert {"transformers-neuronx", "torch-neuronx"} <= manifest["versions"].keys()
    lines = (compiled / "serving.properties").read_text().splitlines()
    assert set(lines) == {
        "option.rolling_batch=neuronx",
        *(f"option.{name}={value}" for name, value in SIZES.items()),
    }


def test_the_same_build_is_left_as_it_is(lmi: Command, compiled: Path, tiny_llama: Path) -> None:
    before = {name: (compiled / name).stat().st_mtime_ns for name in files(compiled)}
    again = lmi("compile", tiny_llama, "-o", "rolling_batch=neuronx", *flags(SIZES), "--output", compiled)
    assert (again.returncode, "nothing was done" in again.stdout) == (0, True), again.stderr
    assert {name: (compiled / name).stat().st_mtime_ns for name in files(compiled)} == before


# ----------------------------------------------------------------------------------------------------- how it is served


def test_it_is_served_without_compiling_and_gives_the_same_tokens(
    lmi: Command, compiled: Path, neuron_machine: Path, expected: list[list[int]], tmp_path: Path
) -> None:
    seen = lmi("check", compiled)
    assert (seen.returncode, "would be served by neuronx" in seen.stdout) == (0, True), seen.stdout
    with serving(neuron_machine, str(compiled), STANDIN_NEURON_RECORD=str(tmp_path / "record")) as server:
        assert tokens(server) == expected
    whats = [each["what"] for each in recorded(tmp_path / "record")]
    assert whats.count("load") == whats.count("to_neuron") == 2  # the machine has room for two copies
    assert "compiled" not in whats


OTHERWISE = [
    ({"tensor_parallel_degree": 4}, "num_cores=2, tensor_parallel_degree is 4"),
    ({"n_positions": 512}, "sequence_length=256, n_positions is 512"),
    ({"n_positions": 128}, "sequence_length=256, n_positions is 128"),  # the default, said aloud
    ({"max_rolling_batch_size": 8}, "batch_size=4, max_rolling_batch_size is 8"),
    ({"dtype": "bf16"}, "auto_cast_type=fp16, dtype is bf16"),
]


@pytest.mark.parametrize(("options", "said"), OTHERWISE)
def test_other_sizes_than_it_was_compiled_for_are_refused(
    lmi: Command, compiled: Path, options: dict[str, object], said: str
) -> None:
    seen = lmi("check", compiled, *flags(options))
    assert (seen.returncode, "model.compiled-otherwise" in seen.stdout) == (1, True), seen.stdout
    assert f"the model was compiled with {said}" in seen.stdout


@pytest.mark.long
def test_cores_that_nobody_names_are_as_many_as_it_was_compiled_for_or_it_is_refused(
    lmi: Command, compiled: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(compiled, folder, ignore=shutil.ignore_patterns("serving.properties", "lmi-manifest.json"))
    assert lmi("check", folder).returncode == 0  # the most that goes
    seen = lmi("check", folder, "-o", "engine=Python")  # under which the degree is 1
    assert (seen.returncode, "num_cores=2, tensor_parallel_degree is 1" in seen.stdout) == (1, True), seen.stdout


def test_another_compiler_is_refused_by_check_and_by_serve(
    lmi: Command, compiled: Path, neuron_machine: Path, tmp_path: Path
) -> None:
    seen = lmi("check", compiled, "--target", "neuronx-cc=2.14.1")
    assert (seen.returncode, "model.compiler-version" in seen.stdout) == (1, True), seen.stdout
    assert f"neuronx-cc {COMPILER} compiled the graph (config.json), and the target has 2.14.1" in seen.stdout
    versions = tmp_path / "versions.json"
    versions.write_text('{"neuronx-cc": "2.14.1"}')
    with serving(neuron_machine, str(compiled), is_ready=False, LMI_VERSIONS_FILE=str(versions)) as server:
        server.wait_for_line(r"model\.compiler-version", 60)
        assert server.wait_for_end(60) != 0


@pytest.mark.parametrize("place", [pytest.param("folder", marks=pytest.mark.long), "s3"])
def test_split_weights_are_served_with_a_graph_that_is_elsewhere(
    compiled: Path, neuron_machine: Path, expected: list[list[int]], bucket: Bucket, tmp_path: Path, place: str
) -> None:
    """The layout that LMI calls split model and compiled graph: two folders, or two prefixes."""
    model, graph = tmp_path / "model", tmp_path / "graph"
    shutil.copytree(compiled / "checkpoint", model)
    for path in compiled.glob("tokenizer*"):
        shutil.copyfile(path, model / path.name)
    shutil.copytree(compiled / "compiled", graph)
    urls = {each: str(each) for each in (model, graph)}
    if place == "s3":
        urls = {each: f"s3://bucket/{each.name}/" for each in urls}
        for path in (path for path in [*model.rglob("*"), *graph.rglob("*")] if path.is_file()):
            bucket.put(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    (tmp_path / "served").mkdir()
    options = {
        "engine": "Python", "option.entryPoint": "djl_python.transformers_neuronx", "option.rolling_batch": "auto",
        "option.model_id": urls[model], "option.load_split_model": "true", "option.compiled_graph_path": urls[graph],
        **{f"option.{name}": value for name, value in SIZES.items()},
    }  # fmt: skip
    (tmp_path / "served" / "serving.properties").write_text("".join(f"{key}={options[key]}\n" for key in options))
    environ = {**bucket.environ, "LMI_CACHE_DIR": str(tmp_path / "cache")}
    record = tmp_path / "record"
    with serving(neuron_machine, str(tmp_path / "served"), STANDIN_NEURON_RECORD=str(record), **environ) as server:
        assert tokens(server) == expected
    assert "compiled" not in [each["what"] for each in recorded(record)]


def test_lmi_s_own_command_builds_what_serving_properties_says(lmi: Command, tiny_llama: Path, tmp_path: Path) -> None:
    """``partition`` of LMI's containers, with the configuration beside the weights."""
    model, output = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_llama, model)
    options = {
        "engine": "Python", "option.entryPoint": "djl_python.transformers_neuronx",
        "option.save_mp_checkpoint_path": str(output), **{f"option.{name}": value for name, value in SIZES.items()},
    }  # fmt: skip
    (model / "serving.properties").write_text("".join(f"{key}={options[key]}\n" for key in options))
    done = lmi("partition", "--model-dir", model)
    assert done.returncode == 0, done.stderr
    assert json.loads((output / "config.json").read_text())["neuron"] == OF_THE_GRAPH
    seen = lmi("check", output)
    assert (seen.returncode, "would be served by neuronx" in seen.stdout) == (0, True), seen.stdout


@pytest.mark.long
def test_a_build_in_s3_is_served_from_there(
    lmi: Command, tiny_llama: Path, neuron_machine: Path, expected: list[list[int]], bucket: Bucket, tmp_path: Path
) -> None:
    url = "s3://bucket/compiled/llama"
    options = ["-o", "rolling_batch=neuronx", *flags(SIZES)]
    done = lmi("compile", tiny_llama, *options, "--output", url, **bucket.environ)
    assert (done.returncode, f"lmi serve {url}" in done.stdout) == (0, True), done.stderr
    assert {"compiled/llama/config.json", "compiled/llama/compiled/VERSION"} <= bucket.times("compiled/").keys()
    environ = {**bucket.environ, "LMI_CACHE_DIR": str(tmp_path / "cache")}
    seen = lmi("check", url, **environ)
    assert seen.returncode == 0, seen.stdout
    with serving(neuron_machine, url, STANDIN_NEURON_RECORD=str(tmp_path / "record"), **environ) as server:
        assert tokens(server) == expected
    assert "compiled" not in [each["what"] for each in recorded(tmp_path / "record")]


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("memory", "engine.out-of-memory"),
        pytest.param("compile", "engine.load-failed: transformers-neuronx", marks=pytest.mark.long),
    ],
)
def test_a_build_that_fails_leaves_nothing(lmi: Command, tiny_llama: Path, tmp_path: Path, how: str, code: str) -> None:
    options = ["-o", "rolling_batch=neuronx", *flags(SIZES)]
    done = lmi("compile", tiny_llama, *options, "--output", tmp_path / "out", STANDIN_NEURON_FAIL=how)
    assert (done.returncode != 0, code in done.stderr) == (True, True), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A model whose config.json says something else than its weights."""

    def model(family: str, **config: object) -> Path:
        folder = write_tiny(family, tmp_path / "model")
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**written, **config}))
        return folder

    return model


REFUSED = [
    ("llama", {"architectures": ["FalconForCausalLM"], "model_type": "falcon"}, "FalconForCausalLM is not compiled by"),
    ("gpt_bigcode", {"activation_function": "relu"}, "served as GPT-2, and activation_function is relu"),
]


@pytest.mark.parametrize(("family", "config", "said"), REFUSED)
def test_an_architecture_that_no_class_computes_is_refused_before_anything_is_built(
    lmi: Command, changed: Callable[..., Path], tmp_path: Path, family: str, config: dict[str, object], said: str
) -> None:
    done = lmi("compile", changed(family, **config), "-o", "rolling_batch=neuronx", "--output", tmp_path / "out",
               STANDIN_NEURON_RECORD=str(tmp_path / "record"))  # fmt: skip
    assert (done.returncode, "model.architecture-not-served" in done.stderr) == (2, True), done.stderr
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("place", "options", "said"),
    [
        (".", {}, "model.already-built: {model} is a model that is compiled already"),
        ("checkpoint", {"load_split_model": "true"}, "model.already-built: {model} is a model that is split"),
        ("weights", {"compiled_graph_path": "{compiled}"}, "model.already-built: compiled_graph_path="),
        ("weights", {"partition_schema": "compile_only"}, "compile.graph-alone: partition_schema=compile_only"),
    ],
)
def test_what_is_compiled_already_or_no_model_is_not_built(
    lmi: Command, compiled: Path, tiny_llama: Path, tmp_path: Path, place: str, options: dict[str, str], said: str
) -> None:
    model = tiny_llama if place == "weights" else tmp_path / "model"
    if place != "weights":
        shutil.copytree(compiled / place, model)
        for path in compiled.glob("tokenizer*"):
            shutil.copyfile(path, model / path.name)
    given = {name: value.format(compiled=compiled / "compiled") for name, value in options.items()}
    done = lmi(
        "compile", model, "-o", "rolling_batch=neuronx", *flags({**SIZES, **given}), "--output", tmp_path / "out"
    )
    assert (done.returncode != 0, said.format(model=model) in done.stderr) == (True, True), done.stderr
    assert not (tmp_path / "out").exists()
