# SPDX-License-Identifier: Apache-2.0
"""Rules on the source itself: who imports whom, what the core may name, how long a file may be."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "src" / "lmi"
PLUGINS = sorted(path for path in (ROOT / "plugins").glob("*/src/*") if path.is_dir() and path.name.isidentifier())
SCAFFOLDED = [CORE / "scaffold" / kind / "src" / "lmi_acme" for kind in ("engine", "stepper")]
FOLDERS = [CORE, *SCAFFOLDED, *PLUGINS, *(ROOT / name for name in ("tests", "benchmarks", "examples"))]

BACKEND_NAMES = re.compile(
    r"vllm|trt-?llm|tensorrt|deepspeed|neuronx|optimum|\btnx\b|lmi[-_](dist|hf|echo|ray)\b|[\"'`](hf|echo)[\"'`]",
    re.IGNORECASE,
)
BANNED_NAMES = re.compile(r"manager|handler|service|helper|util|common|(^|_)base(_|$)")
MAX_LINES = 400

IMPORTS_TORCH = {"scheduling/sampling.py"}
IMPORTS_TRANSFORMERS = {"serving/convert_tokenizer.py"}
"""Modules of the core that only run in a process of their own; the server imports none of them."""


SCAFFOLD = CORE / "scaffold"
"""What `lmi new` writes: a plugin's code, so a plugin's rules hold for it."""


def sources(folder: Path) -> list[Path]:
    skipped = {"__pycache__"} if folder.is_relative_to(SCAFFOLD) else {"__pycache__", SCAFFOLD.name}
    return sorted(path for path in folder.rglob("*.py") if not skipped & set(path.relative_to(folder).parts))


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules a file imports anywhere in it, those for type checking left out."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def offenders(folder: Path, is_wrong) -> list[str]:
    return [
        f"{path.relative_to(folder)}: {name}"
        for path in sources(folder)
        for name in imports(path)
        if is_wrong(path, name)
    ]


def test_the_core_names_no_backend():
    found = [
        f"{path.relative_to(CORE)}:{number}: {line.strip()}"
        for path in sources(CORE)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if BACKEND_NAMES.search(line)
    ]
    assert found == []


def test_the_core_imports_no_plugin():
    plugin_names = {path.name for path in PLUGINS}
    assert plugin_names, "no plugin was found to look for"
    assert offenders(CORE, lambda path, name: name.partition(".")[0] in plugin_names) == []


@pytest.mark.parametrize(
    ("library", "allowed"), [("torch", IMPORTS_TORCH), ("transformers", IMPORTS_TRANSFORMERS | IMPORTS_TORCH)]
)
def test_the_core_imports_an_engines_libraries_only_where_they_run_apart(library, allowed):
    def is_wrong(path, name):
        return name.partition(".")[0] == library and path.relative_to(CORE).as_posix() not in allowed

    assert offenders(CORE, is_wrong) == []


@pytest.mark.parametrize("plugin", [*PLUGINS, *SCAFFOLDED], ids=lambda path: path.name)
def test_a_plugin_imports_nothing_of_the_core_but_the_contract(plugin):
    def is_wrong(path, name):
        allowed = "lmi.testing" if path.name == "contract.py" else "lmi.api"  # the case of its contract test
        return name.split(".")[0] == "lmi" and ".".join(name.split(".")[:2]) != allowed

    assert offenders(plugin, is_wrong) == []


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_imports_another_one_only_where_it_depends_on_it(plugin):
    declared = (plugin.parents[1] / "pyproject.toml").read_text("utf-8").replace("-", "_")
    others = {path.name for path in PLUGINS if path != plugin and f'"{path.name}' not in declared}
    assert offenders(plugin, lambda path, name: name.partition(".")[0] in others) == []


def test_the_contract_imports_nothing_of_the_rest_of_the_core():
    def is_wrong(path, name):
        return name.split(".")[0] == "lmi" and name.split(".")[:2] != ["lmi", "api"]

    assert offenders(CORE / "api", is_wrong) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_no_file_is_too_long_or_lacks_its_licence_line(folder):
    wrong = []
    for path in sources(folder):
        lines = path.read_text("utf-8").splitlines()
        if len(lines) > MAX_LINES:
            wrong.append(f"{path.relative_to(ROOT)}: {len(lines)} lines of {MAX_LINES}")
        if lines and lines[0] != "# SPDX-License-Identifier: Apache-2.0":
            wrong.append(f"{path.relative_to(ROOT)}: no licence line")
    assert wrong == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_names_of_files_say_what_is_in_them(folder):
    own = [path for path in sources(folder) if "standins" not in path.parts]  # those have the names of another library
    assert [str(path.relative_to(ROOT)) for path in own if BANNED_NAMES.search(path.stem)] == []
