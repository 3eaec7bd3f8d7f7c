# SPDX-License-Identifier: Apache-2.0
"""docs/capabilities.md has every cell of LMI's feature matrix, and each one a test that exists or what it waits for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lmi.api import Launch
from lmi.plugins import Plugins
from tests.docs.pages import DOCS, Page

ROOT = DOCS.parent
PAGE = Page("capabilities.md")
BACKENDS = ("hf", "lmi-dist", "deepspeed", "trtllm", "neuronx", "vllm")
ROWS = (
    "Image", "Default handler", "Quantization", "AWS machines", "Execution mode", "Weights over several accelerators",
    "Tensor parallel", "Continuous batching, streaming", "Needs to compile", "SageMaker inference component",
    "Log probabilities",
)  # fmt: skip
INFOS = Plugins.discover({"LMI_EXTENSIONS": ""}).backends
"""What the backends say of themselves."""


def cells(row: str) -> dict[str, str]:
    """A row of the matrix: backend -> what stands there."""
    found = PAGE.rows("Capabilities")
    [values] = [each[1:] for each in found if each[0].lower().startswith(f"[{row.lower()}]")]
    return dict(zip(BACKENDS, values, strict=True))


def names_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def test_every_row_is_there_with_a_section_of_its_own():
    assert [re.findall(r"\[(.*)\]", each[0])[0] for each in PAGE.rows("Capabilities")] == [
        row[0].lower() + row[1:] if row not in ("AWS machines", "SageMaker inference component") else row
        for row in ROWS
    ]
    assert all(PAGE.section(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_each_cell_is_known_by_a_test_that_exists_or_says_what_it_waits_for(row):
    told = []
    for backends, known_by in PAGE.rows(row):
        told += BACKENDS if backends == "all" else backends.split(", ")
        cited = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", known_by)
        assert cited or re.search(r"\bwaits? for\b", known_by), (backends, known_by)
        assert all(name in names_in(ROOT / path) for path, name in cited), known_by
    assert set(told) == set(BACKENDS)


def test_the_matrix_says_what_the_backends_say_of_themselves():
    images = {"deepspeed": "DeepSpeed", "tensorrtllm": "TensorRT-LLM", "neuronx": "Neuron"}
    for name in BACKENDS:
        info = INFOS[name]
        assert cells("Image")[name] == f"LMI's {images[info.image]}"
        assert f"djl_python.{cells('Default handler')[name]}" == info.entry_points[0]
        is_ranked = info.launch is Launch.CORE_MPI or "MPI" in info.modes
        assert cells("Execution mode")[name] == ("MPI" if is_ranked else "Python")
        known = {each.lower().replace("bitsandbytes4", "bitsandbytes") for each in info.quantizations}
        named = [each.strip().lower() for each in re.split(r", | and ", cells("Quantization")[name])]
        short = {"dynamic int8": "dynamic_int8", "int8": "static_int8"}
        assert all(short.get(each, each) in known for each in named if "others" not in each), (named, known)
        letters = {family[:2].upper() for family in info.instances if family[0] != "i"}
        assert all(each.strip().upper() in letters | {"INF2", "TRN1"} for each in _machines(name)), (name, letters)


def _machines(name: str) -> list[str]:
    said = cells("AWS machines")[name].replace("G4 to G6", "G4, G5, G6")
    return said.split(", ")
