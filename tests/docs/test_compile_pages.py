# SPDX-License-Identifier: Apache-2.0
"""docs/compile-neuron.md and docs/convert-manually.md: their trees are read as they say, and what can be run is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lmi.api import ArtifactFormat, Problem
from lmi.artifacts import detect
from lmi.config.properties import read_properties
from lmi.plugins import Plugins
from lmi.testing import write_tiny
from lmi.testing.tiny_tokenizer import write_tokenizer
from lmi_trtllm.built import read_built
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.triton import check_triton
from tests.backends.neuron_standin import COMPILER, variables, write_machine
from tests.core.layouts import pickled, write
from tests.core.model_folders import CONFIG
from tests.docs.pages import DOCS, Page, code
from tests.limits import limit_s

NEURON, BY_HAND = Page("compile-neuron.md"), Page("convert-manually.md")
PAGES = {"compile-neuron.md": NEURON, "convert-manually.md": BY_HAND}
ROOT = DOCS.parent

NEW = {**CONFIG, "architectures": ["NewForCausalLM"], "model_type": "new"}
"""Of an architecture that no backend builds."""

ENGINES = {
    "version": "1.2.0",
    "pretrained_config": {"architecture": "NewForCausalLM", "mapping": {"tp_size": 4}, "dtype": "float16"},
    "build_config": {"max_batch_size": 64, "max_input_len": 1024, "max_seq_len": 1536},
}
CONFIGS = {
    "": CONFIG,
    "of the model before": CONFIG,
    "of the model": NEW,
    "of the engines": ENGINES,
    'with a section "neuron"': {**CONFIG, "neuron": {"num_cores": 4, "compiler_version": COMPILER}},
}
"""What the page says of a config.json -> what it holds."""

[PBTXT] = [text for text in BY_HAND.listings("Lay it out") if text.startswith("name:")]


def laid_out(folder: Path, tree: Mapping[str, str]) -> Path:
    """The files of a tree, with contents."""
    for name, said in tree.items():
        content: object = b"content"
        if name.endswith("config.json") and not name.endswith(("tokenizer_config.json", "generation_config.json")):
            content = next(value for key, value in CONFIGS.items() if said.startswith(key) and (key or not said))
        elif name.endswith(".pbtxt"):
            content = PBTXT
        elif name.endswith(".weight"):
            content = pickled()
        elif name.endswith("VERSION"):
            content = COMPILER
        elif name.endswith(".json"):
            content = {}
        write(folder, {name: content})
        if name.endswith("tokenizer.json"):
            write_tokenizer((folder / name).parent)
    return folder


def run(command: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command ``lmi`` of a page."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "lmi"
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1", **environ},
        capture_output=True, text=True, timeout=limit_s(120), check=False,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- layouts

TREES = [
    (NEURON.trees("What comes out")[0], "", ArtifactFormat.NEURON),
    (NEURON.trees("What is read")[0], "", ArtifactFormat.NEURON_SPLIT),
    (BY_HAND.trees("Lay it out")[0], "", ArtifactFormat.TRITON_REPOSITORY),
    (BY_HAND.trees("Lay it out")[0], "tensorrt_llm", ArtifactFormat.TRITON_REPOSITORY),
    (BY_HAND.trees("Or leave it as it is")[0], "", ArtifactFormat.ENGINES),
]


@pytest.mark.parametrize(("tree", "inner", "expected"), TREES)
def test_each_tree_is_the_layout_that_the_page_says(
    tree: dict[str, str], inner: str, expected: ArtifactFormat, tmp_path: Path
) -> None:
    assert detect(laid_out(tmp_path, tree) / inner).format is expected


def test_config_pbtxt_is_read_with_the_values_of_the_page(tmp_path: Path) -> None:
    artifacts = detect(laid_out(tmp_path, BY_HAND.trees("Lay it out")[0]))
    engines = read_built(artifacts)
    assert engines.parameters == {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": "/repository/tensorrt_llm/1",
        "batch_scheduler_policy": "max_utilization",
        "kv_cache_free_gpu_mem_fraction": "0.95",
        "max_num_sequences": "64",
        "max_beam_width": "1",
        "exclude_input_in_output": "true",
    }
    assert (engines.ranks, engines.tensor_parallel, engines.folder) == ((0, 1, 2, 3), 4, "tensorrt_llm/1")

    def found(**options: Any) -> list[Problem]:
        return [*check_triton(artifacts, engines, TrtllmConfig(**options))]

    assert found(max_rolling_batch_size=64) == []
    assert [each.fields for each in found()] == [("max_num_sequences",)]  # what the page says to set


def test_engines_of_an_architecture_that_is_not_built_are_served_at_either_level(tmp_path: Path) -> None:
    laid_out(tmp_path / "repository", BY_HAND.trees("Lay it out")[0])
    [listing] = BY_HAND.listings("Serve it", "bash")
    [command] = [line for line in listing.splitlines() if line.startswith("lmi")]
    for place in ("./repository", "./repository/tensorrt_llm"):
        done = run(command.replace("./repository", place) + " --devices cuda:4", tmp_path)
        assert (done.returncode, "would be served by trtllm" in done.stdout) == (0, True), done.stdout
        other = run(
            command.replace("./repository", place).replace("degree=4", "degree=2") + " --devices cuda:4", tmp_path
        )
        assert (other.returncode, "[config.tensor-parallel]" in other.stdout) == (1, True), other.stdout


# ------------------------------------------------------------------------------------------------------------ commands


def test_the_command_of_the_page_compiles_into_the_tree_of_the_page(tmp_path: Path) -> None:
    machine, model = write_machine(tmp_path / "machine"), write_tiny("mistral", tmp_path / "tiny")
    [listing] = [text for text in NEURON.listings("Compile") if text.startswith("lmi compile")]
    command, _, serving = listing.rstrip().rpartition("\n")
    assert serving == "lmi serve /models/mistral"
    here = {"n_positions=2048": "n_positions=256", "/models/": f"{tmp_path}/", "mistralai/Mistral-7B-v0.1": str(model)}
    for written, meant in here.items():
        command = command.replace(written, meant)
    done = run(command, tmp_path, **variables(STANDIN_NEURON_ROOT=str(machine)))
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path / "mistral").as_posix() for path in (tmp_path / "mistral").rglob("*.*")}
    built |= {"compiled/VERSION"} if (tmp_path / "mistral" / "compiled" / "VERSION").is_file() else set()

    def kinds(names: set[str]) -> set[str]:
        return {re.sub(r"[^/]*\.(neff|weight)$", r"any.\1", name) for name in names}

    assert kinds(built) - {"checkpoint/pytorch_model.bin"} == kinds(set(NEURON.trees("What comes out")[0]))


@pytest.mark.parametrize("name", PAGES)
def test_the_options_of_a_listing_are_options(name: str, tmp_path: Path) -> None:
    config_type = Plugins.discover({"LMI_EXTENSIONS": ""}).config_type("neuronx")
    title = {"compile-neuron.md": "What is read", "convert-manually.md": "Neuron"}[name]
    [listing] = [text for text in PAGES[name].listings(title) if text.startswith("option.")]
    (tmp_path / "serving.properties").write_text(listing)
    lines = {line.key: line.value for line in read_properties(tmp_path / "serving.properties").lines}
    options = {key.removeprefix("option."): value for key, value in lines.items()}
    options.pop("model_id", None)
    config = config_type.model_validate(options)
    assert getattr(config, "load_split_model", False) is True
    assert set(options) <= set(config_type.model_fields)


# ------------------------------------------------------------------------------------------------------ codes, pages


@pytest.mark.parametrize("name", PAGES)
def test_every_code_of_a_page_is_a_code(name: str) -> None:
    known = set(re.findall(r"^\| `([a-z-]+\.[a-z-]+)` \|", Page("errors.md").text, re.MULTILINE))
    areas = {each.partition(".")[0] for each in known}
    prose = re.sub(r"^```.*?^```$", "", PAGES[name].text, flags=re.MULTILINE | re.DOTALL)
    told = {each for each in code(prose) if re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", each)}
    codes = {each for each in told if each.partition(".")[0] in areas and not each.endswith((".json", ".pt", ".pbtxt"))}
    assert "model.architecture-not-served" in codes
    assert codes - known == set()


def test_every_page_that_a_message_names_is_there() -> None:
    files = [*(ROOT / "core" / "src").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    named = {name for file in files for name in re.findall(r"docs/([\w-]+\.md)", file.read_text("utf-8"))}
    assert {"compile-neuron.md", "convert-manually.md"} <= named
    assert [name for name in sorted(named) if not (DOCS / name).is_file()] == []
