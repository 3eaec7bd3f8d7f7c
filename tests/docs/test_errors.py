# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md lists every error code there is, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NO_CODES = {"chat.completion"}
"""Kinds of objects in OpenAI's API."""


def codes(tree: ast.AST) -> Iterator[str]:
    """First arguments, or ``code=``, of whatever builds an error or a problem."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = [*node.args[:2], *(word.value for word in node.keywords if word.arg == "code")]
            for value in given:
                if isinstance(value, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", str(value.value)):
                    yield value.value


def test_every_error_code_is_documented_and_every_documented_code_exists() -> None:
    names = re.compile(r"^\| `([a-z-]+\.[a-z-]+)` \|", re.MULTILINE)
    documented = set(names.findall((ROOT / "docs" / "errors.md").read_text()))
    areas = {code.partition(".")[0] for code in documented}
    files = [*(ROOT / "core" / "src").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    used = {code for file in files for code in codes(ast.parse(file.read_text()))}
    used = {
        code
        for code in used
        if code.partition(".")[0] in areas
        and code not in NO_CODES
        and not code.endswith((".json", ".pbtxt", ".safetensors"))
    }
    assert documented - used == set(), "documented, but nowhere in the code"
    assert used - documented == set(), "in the code, but not documented"
