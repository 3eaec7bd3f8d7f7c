# SPDX-License-Identifier: Apache-2.0
"""Engines of TensorRT-LLM ahead of time, by the real command lines, on a stand-in: built, read back, served."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmi.testing import write_tiny
from tests.backends.trtllm_standin import VERSION, write_gpus, write_site
from tests.buckets import Bucket, running_bucket
from tests.docs.pages import DOCS, Page, code
from tests.limits import limit_s
from tests.servers import serve

SIZES = ("max_input_len=100", "max_output_len=400", "max_rolling_batch_size=8")
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_site(tmp_path_factory.mktemp("standin") / "site")
    write_gpus(folder, 2)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("llama", tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def environ(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(site), "LMI_CACHE_DIR": str(site.parent / "cache")}


@pytest.fixture(scope="module")
def run(environ: dict[str, str]) -> Command:
    """A module's command line: what it prints and ends with."""

    def command(module: str, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, words)],
            env={**environ, **more}, capture_output=True, text=True, timeout=limit_s(180), check=False,
        )  # fmt: skip

    return command


def flags(*options: str) -> list[str]:
    return [word for option in ("rolling_batch=trtllm", *SIZES, *options) for word in ("-o", option)]


@pytest.fixture(scope="module")
def built(run: Command, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "built"
    done = run("lmi", "compile", model, *flags("quantize=awq", "tensor_parallel_degree=2"), "--output", folder)
    assert done.returncode == 0, done.stderr
    assert "] build engines" in done.stderr
    return folder


def tokens(folder: object, environ: dict[str, str], *options: str) -> tuple[list[int], str]:
    """What a server streams, and what it said."""
    pairs = [word for option in ("heartbeat_interval=0.2", *options) for word in ("-o", option)]
    with serve(str(folder), *pairs, environ=environ) as server:
        lines = list(server.stream("hello", max_new_tokens=12))
        return [line["token"]["id"] for line in lines], server.output


def test_a_build_has_the_layout_of_a_repository_and_streams_what_the_model_does(
    built: Path, model: Path, environ: dict[str, str], run: Command
) -> None:
    files = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    documents = {path.name for path in model.iterdir() if path.suffix in (".json", ".txt", ".model")}
    assert files == {
        "serving.properties", "lmi-manifest.json", "tensorrt_llm/config.pbtxt", "tensorrt_llm/1/config.json",
        "tensorrt_llm/1/model.cache", "tensorrt_llm/1/rank0.engine", "tensorrt_llm/1/rank1.engine",
        *(f"tensorrt_llm/{name}" for name in documents),
    }  # fmt: skip
    seen = run("lmi", "check", built)
    assert seen.returncode == 0, seen.stdout
    assert "model.triton-config" not in seen.stdout
    manifest = json.loads((built / "lmi-manifest.json").read_text())
    assert (manifest["backend"], manifest["tensor_parallel_degree"]) == ("trtllm", 2)
    assert manifest["versions"]["tensorrt-llm"] == VERSION
    assert (manifest["device_name"], manifest["compute_capability"]) == ("NVIDIA A10G", "8.6")
    from_weights, _ = tokens(model, environ, "rolling_batch=trtllm", *SIZES)
    from_engines, said = tokens(built, environ)
    assert from_engines == from_weights
    assert "] build engines" not in said


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("-o", "tensor_parallel_degree=1"), "compile.other-degree"),
        (("--instance", "ml.g6.12xlarge"), "model.gpu-architecture"),
        (("-o", "max_rolling_batch_size=9"), "model.compiled-otherwise"),
        (("--target", "tensorrt-llm=1.1.0"), "model.compiler-version"),
    ],
)
def test_what_differs_from_the_build_is_refused_before_a_start(
    built: Path, run: Command, words: tuple[str, ...], code: str
) -> None:
    seen = run("lmi", "check", built, *words)
    assert (seen.returncode != 0, f"[{code}]" in seen.stdout) == (True, True), seen.stdout


def test_the_page_shows_the_layout_and_the_scripts_arguments(built: Path, run: Command) -> None:
    page = Page("compile-trtllm.md")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page.text, re.MULTILINE | re.DOTALL)
    [tree] = [each for each in blocks if "rank0" in each]
    shown = {line.split("── ")[1] for line in tree.splitlines()[1:]}
    assert shown - {"..."} == {path.name for path in built.rglob("*")} - {"rank1.engine"}
    said = run("lmi_trtllm.partition", "--help").stdout
    assert [code(name)[0] for name, _ in page.rows("LMI's script")] == re.findall(r"^  (--\w+)", said, re.MULTILINE)
    codes = set(code(page.section("What goes wrong") + page.section("Serve")))
    assert {each for each in codes if re.fullmatch(r"(compile|model|engine)\.[a-z-]+", each)} <= set(
        code((DOCS / "errors.md").read_text("utf-8"))
    )


def test_a_build_that_runs_out_of_memory_leaves_nothing(run: Command, model: Path, tmp_path: Path) -> None:
    done = run("lmi", "compile", model, *flags(), "--output", tmp_path / "built", LMI_STANDIN_OUT_OF_MEMORY="1")
    assert (done.returncode != 0, "engine.out-of-memory" in done.stderr) == (True, True), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_without_a_build_is_refused_before_it_begins(run: Command, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unknown"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = {
        **json.loads((model / "config.json").read_text()),
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
    }
    (folder / "config.json").write_text(json.dumps(config))
    done = run("lmi", "compile", folder, *flags(), "--output", tmp_path / "built")
    assert (done.returncode, "convert it manually" in done.stderr.lower()) == (2, True), done.stderr
    assert not (tmp_path / "built").exists()


def test_the_tutorials_command_line_builds_what_its_variables_say(
    run: Command, model: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    """The folder of properties is of another machine, and the repository a folder that is there already."""
    variables = {
        "OPTION_MODEL_ID": str(model), "OPTION_TENSOR_PARALLEL_DEGREE": "2", "OPTION_MAX_ROLLING_BATCH_SIZE": "128",
        "OPTION_DTYPE": "fp16",
    }  # fmt: skip
    output = tmp_path / "trtllm"
    output.mkdir()
    arguments = ("--properties_dir", "/home/ubuntu/work", "--trt_llm_model_repo", output)
    done = run("lmi_trtllm.partition", *arguments, "--tensor_parallel_degree", "2", **variables)
    assert done.returncode == 0, done.stderr
    assert "config.overruled" not in done.stderr
    limits = json.loads((output / "tensorrt_llm" / "1" / "config.json").read_text())["build_config"]
    assert limits["max_batch_size"] == 128
    ids, said = tokens(tmp_path / "nothing", {**environ, **variables, "OPTION_MODEL_ID": str(output)})
    assert len(ids) == 12
    assert "] build engines" not in said


def test_the_scripts_flag_wins_over_the_file_and_says_so(run: Command, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "properties"
    folder.mkdir()
    (folder / "serving.properties").write_text(
        "option.model_id=s3://nowhere/model\noption.tensor_parallel_degree=2\noption.max_rolling_batch_size=4\n"
    )
    arguments = ("--properties_dir", folder, "--trt_llm_model_repo", tmp_path / "out", "--model_path", model)
    done = run("lmi_trtllm.partition", *arguments, "--tensor_parallel_degree", 1, OPTION_MAX_ROLLING_BATCH_SIZE="32")
    assert done.returncode == 0, done.stderr
    assert "--tensor-parallel-degree 1 holds, and option.tensor_parallel_degree=2 does not" in done.stderr
    repository = tmp_path / "out" / "tensorrt_llm" / "1"
    assert [path.name for path in repository.glob("*.engine")] == ["rank0.engine"]
    limits = json.loads((repository / "config.json").read_text())["build_config"]
    assert limits["max_batch_size"] == 4, "the file wins over the variable"


def test_the_script_lists_what_it_was_not_given(run: Command) -> None:
    done = run("lmi_trtllm.partition", "--properties_dir", ".")
    assert done.returncode == 2
    assert "--trt_llm_model_repo, --tensor_parallel_degree" in done.stderr


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with running_bucket() as running:
        yield running


@pytest.mark.long
def test_a_build_in_s3_is_served_from_there(run: Command, model: Path, environ: dict[str, str], bucket: Bucket) -> None:
    url = "s3://bucket/llama/"
    done = run("lmi", "compile", model, *flags(), "--output", url, **bucket.environ)
    assert done.returncode == 0, done.stderr
    ids, _ = tokens(url, {**environ, **bucket.environ})
    assert len(ids) == 12
