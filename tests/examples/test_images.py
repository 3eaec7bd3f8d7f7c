# SPDX-License-Identifier: Apache-2.0
"""examples/sagemaker: what can be said of the images without making them; test_built_images.py makes them."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import Page
from tests.examples.dockerfiles import ROOT, Dockerfile
from tests.limits import limit_s

FOLDER = ROOT / "examples" / "sagemaker"
IMAGES = ("hf", "neuron", "tensorrt-llm")


def of(image: str) -> Dockerfile:
    return Dockerfile(FOLDER / image / "Dockerfile")


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> Dockerfile:
    return of(request.param)


def test_the_linter_has_nothing_to_say(image: Dockerfile) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, image.path], capture_output=True, text=True, timeout=limit_s(60), check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_sagemaker_finds_what_it_looks_for(image: Dockerfile) -> None:
    labels = image.pairs("LABEL")
    for capability in ("accept-bind-to-port", "multi-models"):
        assert labels[f"com.amazonaws.sagemaker.capabilities.{capability}"] == "true"
    assert {"org.opencontainers.image.title", "org.opencontainers.image.licenses"} <= set(labels)
    assert image.words("ENTRYPOINT") == ["/opt/lmi/entrypoint.sh"]
    assert image.words("CMD") == ["serve"]
    assert image.values("EXPOSE") == ["8080"]
    assert image.values("USER") == []  # root, as SageMaker wants it


def test_caches_are_where_a_container_may_write(image: Dockerfile) -> None:
    environ = image.pairs("ENV")
    caches = {value for name, value in environ.items() if name.endswith(("_HOME", "_DIR"))}
    assert len(caches) > 1
    assert all(each.startswith("/tmp/") for each in caches)


def test_what_is_copied_is_there_and_not_left_out_of_the_context(image: Dockerfile) -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    for sources, _ in image.copies():
        for source in sources:
            assert (ROOT / source).exists()
            assert any(fnmatch.fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in kept), source


def test_the_script_of_the_tutorial_is_where_its_command_line_calls_it() -> None:
    into = [target for sources, target in of("tensorrt-llm").copies() if sources[-1].endswith("/trt_llm_partition.py")]
    assert into == ["/opt/djl/partition/"]
    script = [sys.executable, str(FOLDER / "trt_llm_partition.py"), "--help"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=limit_s(60), check=True)
    assert all(flag in done.stdout for flag in ("--properties_dir", "--trt_llm_model_repo", "--tensor_parallel_degree"))


@pytest.mark.parametrize(
    ("words", "called"),
    [
        ([], "lmi serve"),
        (["serve"], "lmi serve"),
        (["train"], "lmi train"),
        (["partition", "--model-id", "a b"], "lmi partition --model-id a b"),
        (["echo", "python", "x.py"], "python x.py"),
    ],
)
def test_the_first_word_says_what_a_container_does(tmp_path: Path, words: list[str], called: str) -> None:
    lmi = tmp_path / "lmi"
    lmi.write_text('#!/bin/sh\necho lmi "$@"\n')
    lmi.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([FOLDER / "entrypoint.sh", *words], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == called


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib; the image's Python is 3.11")
def test_engines_are_asked_for_as_the_packages_ask_for_them() -> None:
    script = [sys.executable, FOLDER / "requirements_of.py", "lmi-hf[dist,peft]", "lmi-deepspeed[quantize]"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True)
    names = [line.partition(">")[0] for line in done.stdout.splitlines()]
    assert names == ["torch", "transformers", "accelerate", "mpi4py", "peft", "torchao"]


def test_every_command_that_builds_an_image_names_a_file_and_arguments_of_it() -> None:
    readme = (FOLDER / "README.md").read_text("utf-8")
    lines = [line.split() for line in readme.splitlines() if line.startswith("docker build")]
    assert {words[words.index("-f") + 1] for words in lines} == {
        f"examples/sagemaker/{each}/Dockerfile" for each in IMAGES
    }
    for words in lines:
        given = [words[place + 1].split("=", 1) for place, word in enumerate(words) if word == "--build-arg"]
        Dockerfile(ROOT / words[words.index("-f") + 1], dict(given))  # an argument that it does not have is refused
        assert words[-1] == "."


def test_the_template_is_one_that_cloudformation_takes() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    words = [linter, FOLDER / "endpoint.yaml"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s(120), check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_pages_know_the_same_images() -> None:
    rows = "".join(cell for row in Page("deploy/2-backend.md").rows("2. Backend") for cell in row)
    assert all(f"`lmi-{image}`" in rows for image in IMAGES)
