# SPDX-License-Identifier: Apache-2.0
"""The pages that are made from code: the reference of the hooks, and listings."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from lmi.api import hookspecs
from tests.limits import limit_s

DOCS = Path(__file__).parents[2] / "docs"
NAMES = sorted(name for name, value in vars(hookspecs).items() if hasattr(value, "lmi_spec"))
HOOKS = (DOCS / "hooks.md").read_text(encoding="utf-8")

CODE = '''# SPDX-License-Identifier: Apache-2.0
"""Code."""

LIMIT = 7
NAMES = (
    "a",
)


@decorated
def one() -> int:
    # region inside
    text = "x"
    # endregion
    return LIMIT


class Two:
    def three(self) -> None:
        """Nothing."""
'''


class Done(NamedTuple):
    """How a run of the generator ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Tree:
    """A repository of two files, which the generator takes for its own."""

    def __init__(self, root: Path, generator: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        self._generator, self._capsys = generator, capsys
        self.page = root / "docs" / "page.md"
        self.page.parent.mkdir()
        (root / "code.py").write_text(CODE)
        (root / "options.toml").write_text("a = 1\n# region b\nb = 2\n# endregion\n")

    def run(self, *flags: str) -> Done:
        self._capsys.readouterr()
        code = self._generator.main(flags)
        return Done(code, *self._capsys.readouterr())

    def made(self, mark: str) -> str:
        """What the generator puts between a mark and its end."""
        self.page.write_text(f"before\n{mark}\nold\n<!-- end -->\nafter\n")
        done = self.run()
        assert (done.returncode, done.stdout) == (0, "docs/page.md written\n"), done.stderr
        made = re.fullmatch(f"before\n{re.escape(mark)}\n(.*)\n<!-- end -->\nafter\n", self.page.read_text(), re.DOTALL)
        assert made is not None
        return made[1]

    def complaint(self, text: str) -> str:
        """What the generator says of a page it cannot make, which stays as it is."""
        self.page.write_text(text)
        done = self.run()
        assert (done.returncode, done.stdout, self.page.read_text()) == (1, "", text)
        return done.stderr


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tree:
    monkeypatch.syspath_prepend(str(DOCS))
    generator = importlib.import_module("generate")
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    return Tree(tmp_path, generator, capsys)


# ---------------------------------------------------------------------------------------------------- this repository


def test_no_page_of_this_repository_is_stale() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s(30), check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_reference_has_every_hook_with_signature_and_facts() -> None:
    parts = re.split(r"^### ", HOOKS, flags=re.MULTILINE)[1:]
    assert sorted(part.partition("\n")[0] for part in parts) == NAMES
    for part in parts:
        name = part.partition("\n")[0]
        assert f"\ndef {name}(" in part
        facts = re.findall(r"^\| ([a-z ]+) \| \S", part, re.MULTILINE)
        assert facts[:4] == ["called", "runs in", "answers", "cost"], name


def test_the_reference_says_first_where_the_specification_does() -> None:
    rows = dict(re.findall(r"^\| \[`(lmi_\w+)`\]\(#\w+\) \| .+ \| (.+) \|$", HOOKS, re.MULTILINE))
    assert sorted(rows) == NAMES
    for name, answers in rows.items():
        is_first = getattr(hookspecs, name).lmi_spec["firstresult"]
        assert answers == ("the first one that is not None" if is_first else "all"), name
        detail = re.search(rf"^### {name}$.*?^\| answers \| (\w+)", HOOKS, re.MULTILINE | re.DOTALL)
        assert detail is not None
        assert (detail[1] == "first") == is_first, name


# ------------------------------------------------------------------------------------------------------- the generator


@pytest.mark.parametrize(
    ("wanted", "language", "text"),
    [
        ("code.py#LIMIT", "python", "LIMIT = 7"),
        ("code.py#NAMES", "python", 'NAMES = (\n    "a",\n)'),
        ("code.py#one", "python", '@decorated\ndef one() -> int:\n    text = "x"\n    return LIMIT'),
        ("code.py#inside", "python", 'text = "x"'),
        ("code.py#Two.three", "python", 'def three(self) -> None:\n    """Nothing."""'),
        ("code.py#LIMIT,Two.three", "python", 'LIMIT = 7\n\n\ndef three(self) -> None:\n    """Nothing."""'),
        ("options.toml#b", "toml", "b = 2"),
        ("options.toml", "toml", "a = 1\nb = 2"),
    ],
)
def test_a_listing_is_cut_out_of_its_file(tree: Tree, wanted: str, language: str, text: str) -> None:
    assert tree.made(f"<!-- include: {wanted} -->") == f"```{language}\n{text}\n```"


def test_a_whole_file_is_listed_without_its_licence_line(tree: Tree) -> None:
    assert tree.made("<!-- include: code.py -->").startswith('```python\n"""Code."""\n\nLIMIT = 7\n')


def test_a_backend_has_a_table_of_its_options(tree: Tree) -> None:
    made = tree.made("<!-- generated: options:echo -->")
    assert "\n| `option.max_model_len` | tokens | `8192` | Longest prompt plus output. |\n" in made


def test_what_is_made_twice_is_the_same(tree: Tree) -> None:
    tree.page.write_text("<!-- include: code.py#one -->\n<!-- end -->\n\n<!-- generated: hooks -->\n<!-- end -->\n")
    assert tree.run().stdout == "docs/page.md written\n"
    assert (tree.run("--check").returncode, tree.run().stdout) == (0, "")


def test_check_names_the_stale_page_and_changes_nothing(tree: Tree) -> None:
    tree.made("<!-- include: code.py#LIMIT -->")
    fresh = tree.page.read_text()
    assert tree.run("--check").returncode == 0
    (tree.page.parents[1] / "code.py").write_text(CODE.replace("LIMIT = 7", "LIMIT = 8"))
    done = tree.run("--check")
    assert (done.returncode, done.stderr) == (1, "docs/page.md is stale; `make docs` writes it\n")
    assert tree.page.read_text() == fresh


def test_marks_inside_a_listing_are_text(tree: Tree) -> None:
    text = "```\n<!-- include: nothing.py -->\n<!-- end -->\n```\n<!-- a remark -->\n"
    tree.page.write_text(text)
    assert (tree.run().returncode, tree.page.read_text()) == (0, text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- include: cod.py -->\n<!-- end -->\n", "there is no file cod.py"),
        ("<!-- include: code.py#ome -->\n<!-- end -->\n", "code.py has no 'ome'. Did you mean 'one'?"),
        ("<!-- generated: hoks -->\n<!-- end -->\n", "there is no section 'hoks'. Did you mean 'hooks'?"),
        ("<!-- generated: options:eco -->\n<!-- end -->\n", "backend 'eco' is not installed"),
        ("<!-- include: code.py -->\nold\n", "opens a part that no '<!-- end -->' ends"),
        ("<!-- include: code.py -->\n<!-- include: code.py -->\n<!-- end -->\n", "opens a part that no"),
        ("<!-- end -->\n", "'<!-- end -->' opens no part"),
        ("<!-- include code.py -->\n<!-- end -->\n", "opens no part. Write <!-- include: path#name -->"),
    ],
)
def test_a_page_that_asks_for_what_does_not_exist_is_left_alone_and_named(
    tree: Tree, text: str, complaint: str
) -> None:
    told = tree.complaint(text)
    assert told.startswith("docs/page.md: ")
    assert complaint in told
