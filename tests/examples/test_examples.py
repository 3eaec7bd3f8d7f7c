# SPDX-License-Identifier: Apache-2.0
"""The folders of examples/: the commands of their pages run, or are judged where they need a container engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi.testing import write_tiny_adapter
from tests.backends.neuron_standin import variables as of_neuron, write_machine
from tests.backends.trtllm_standin import write_gpus, write_site
from tests.examples.dockerfiles import ROOT
from tests.examples.world import World, commands, judge, variables, world
from tests.sagemaker.emulators import QUICK, emulator

FOLDER = ROOT / "examples"
PAGES = sorted(each.parent.name for each in FOLDER.glob("*/README.md") if each.parent.name != "sagemaker")


def of(name: str) -> list[str]:
    return commands((FOLDER / name / "README.md").read_text("utf-8"))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as found:
        for adapter in ("de", "fr"):
            write_tiny_adapter(found.folder / adapter, found.folder / "model")
        found.run("aws s3 cp model s3://my-bucket/llama/ --recursive")
        yield found


@pytest.mark.parametrize("name", ["from_variables", "serving_properties", "model_in_s3", "lora_adapters"])
def test_a_model_is_checked_for_its_machine(here: World, name: str) -> None:
    told = here.run_all(of(name))
    checked = [text for line, text in told.items() if "lmi check" in line]
    assert checked
    assert all("model: would be served by vllm" in text for text in checked)


@pytest.mark.long
def test_engines_are_built_uploaded_and_checked(here: World, tmp_path: Path) -> None:
    building, *lines = (line for line in of("compiled_trtllm") if line != "mkdir -p engines")
    judge(building)
    site = write_site(tmp_path / "site")
    write_gpus(site, 4)
    engines = here.folder / "engines"
    inside = "python" + building.partition(" python")[2].replace("/tmp/trtllm", str(engines))
    script = inside.replace("/opt/djl/partition", str(FOLDER / "sagemaker"))
    environ = {**variables(FOLDER / "compiled_trtllm" / "build.env"), "PYTHONPATH": str(site)}
    here.run(script, **environ)
    here.environ["PYTHONPATH"] = str(site)
    try:
        told = here.run_all(lines)
    finally:
        del here.environ["PYTHONPATH"]
    [checked] = [text for line, text in told.items() if "lmi check" in line]
    assert "would be served by trtllm" in checked


@pytest.mark.long
def test_graphs_are_compiled_uploaded_and_checked(here: World, tmp_path: Path) -> None:
    building, *lines = (line for line in of("compiled_neuron") if line != "mkdir -p compiled")
    judge(building)
    compiled = here.folder / "compiled"
    (tmp_path / "nothing").mkdir()
    words = building.partition(" lmi-neuron ")[2].replace("/tmp/compiled", str(compiled))
    inside = f"lmi {words}".replace("--model-dir /tmp ", f"--model-dir {tmp_path / 'nothing'} ")
    standin = of_neuron(STANDIN_NEURON_ROOT=str(write_machine(tmp_path / "machine")))
    here.run(inside, **variables(FOLDER / "compiled_neuron" / "build.env"), **standin)
    assert list(compiled.glob("compiled/*.neff"))
    told = here.run_all(lines)
    [checked] = [text for line, text in told.items() if "lmi check" in line]
    assert "would be served by neuronx" in checked


def test_models_come_when_they_are_called(here: World) -> None:
    *packing, starting, asking = of("multi_model")
    here.run_all(packing)
    for language in ("de", "fr"):
        here.run(f"aws s3 cp model s3://my-bucket/llama-{language}/ --recursive")
    judge(starting)
    words = [*starting.split()[2:], "-o", "rolling_batch=echo", *QUICK]
    aws = {key: value for key, value in here.environ.items() if key.startswith(("AWS_", "LMI_", "HF_"))}
    with emulator(*words, environ=aws, cwd=here.folder, is_ready=False) as local:
        local.in_service("my-endpoint")
        told = here.run(asking.replace("http://127.0.0.1:8081", local.url))
        assert told.startswith("Guten TagGuten Tag")


def test_every_folder_is_in_the_list_and_has_a_test(here: World) -> None:
    listed = re.findall(r"^\| \[(\w+)\]\(\1\) \|", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(
        each.name for each in FOLDER.iterdir() if each.is_dir() and each.name != "__pycache__"
    )
    own = Path(__file__).read_text("utf-8")
    assert [name for name in PAGES if f'"{name}"' not in own] == []


@pytest.mark.parametrize("name", [*PAGES, "sagemaker", ""])
def test_every_link_leads_somewhere(name: str) -> None:
    text = (FOLDER / name / "README.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text):
        assert (FOLDER / name / target).exists(), target
