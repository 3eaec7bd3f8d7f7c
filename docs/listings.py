# SPDX-License-Identifier: Apache-2.0
"""Listings of pages, cut out of files that tests run.

``path`` is the whole file without its licence line. ``path#name`` is the function, class or variable of that name in a
Python file (``Class.method`` for a method), or in any file what stands between the lines ``# region name`` and
``# endregion``. ``path#a,b`` joins several.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".sh": "sh", ".properties": "properties"}
_LICENCE = "# SPDX-License-Identifier: Apache-2.0"
_REGION = re.compile(r"\s*# region (\S+)\s*")
_END = re.compile(r"\s*# endregion\s*")


class StaleSourceError(Exception):
    """A page asks for what does not exist."""


def listing(wanted: str, root: Path) -> str:
    """The fenced listing that a page asks for.

    Args:
        wanted: ``path``, ``path#name`` or ``path#name,name``.
        root: what the path begins at.
    Raises:
        StaleSourceError: the file or the name does not exist; the nearest name is given.
    """
    path, _, names = wanted.partition("#")
    file = root / path
    if not file.is_file():
        raise StaleSourceError(f"there is no file {path}")
    text = file.read_text(encoding="utf-8")
    if names:
        known = dict(parts(text, is_python=file.suffix == ".py"))
        for name in names.split(","):
            if name not in known:
                raise StaleSourceError(f"{path} has no {name!r}. {nearest(name, list(known))}")
        body = joined([known[name] for name in names.split(",")])
    else:
        body = "\n".join(shown(text.splitlines()))
    return f"```{_LANGUAGES.get(file.suffix, '')}\n{body}\n```"


def joined(bodies: Sequence[str]) -> str:
    """Parts under each other, as a formatter would put them: two blank lines around what has a body."""
    text = bodies[0]
    for previous, body in itertools.pairwise(bodies):
        is_short = "\n" not in previous and "\n" not in body
        text += ("\n" if is_short else "\n\n\n") + body
    return text


def parts(text: str, *, is_python: bool) -> Iterator[tuple[str, str]]:
    """Every name a listing can have, with its text."""
    lines = text.splitlines()
    if is_python:
        for name, first, last in definitions(ast.parse(text).body):
            yield name, cut(lines[first:last])
    opened: list[tuple[str, int]] = []
    for number, line in enumerate(lines):
        if region := _REGION.fullmatch(line):
            opened.append((region[1], number + 1))
        elif _END.fullmatch(line) and opened:
            name, first = opened.pop()
            yield name, cut(lines[first:number])


def definitions(statements: Sequence[ast.stmt], prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """Names with their first line, decorators included, and the line after their last."""
    for node in statements:
        last = node.end_lineno or node.lineno
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            yield prefix + node.name, first, last
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield prefix + target.id, node.lineno - 1, last


def cut(lines: Sequence[str]) -> str:
    return textwrap.dedent("\n".join(shown(lines)))


def shown(lines: Sequence[str]) -> list[str]:
    """Lines without the licence and the marks of regions, and without blank lines around them."""
    kept = [line for line in lines if line != _LICENCE and not _REGION.fullmatch(line) and not _END.fullmatch(line)]
    return "\n".join(kept).strip("\n").splitlines()


def nearest(name: str, known: Sequence[str]) -> str:
    """What to try instead of a name that does not exist."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"There is: {', '.join(known) or 'nothing'}"
