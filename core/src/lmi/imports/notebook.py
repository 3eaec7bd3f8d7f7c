# SPDX-License-Identifier: Apache-2.0
"""Dicts as they stand in a notebook. The text is parsed and never run: what is no constant is named, not computed."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lmi.api import Problem
from lmi.config.names import is_secret

_MAGIC = re.compile(r"^[ \t]*[!%].*$", re.MULTILINE)
"""Lines of a notebook that are for its shell."""

_CALLS: dict[str, Callable[[Any], Any]] = {
    "json.dumps": json.dumps, "dumps": json.dumps, "str": str, "repr": repr, "int": int, "float": float, "bool": bool,
}  # fmt: skip
_HIDDEN = "***"
"""Value of a variable that holds a secret: it is kept as a variable, whatever it is."""

_DEEPEST = 3
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Open:
    """A value that only running the notebook would give.

    Args:
        text: of the expression, with the texts in it left out, since they may be secrets.
        line: where it stands, from 1.
    """

    text: str
    line: int


def dicts_in(text: str) -> list[Any]:
    """The outermost dicts and lists of a text of Python, with ``Open`` for each value that is no constant.

    Constants are literals, names that were given one further up, and ``json.dumps``, ``str``, ``int``, ``float``,
    ``repr`` or ``bool`` of one. ``name["KEY"] = value`` adds to the dict of that name.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it is no Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubtful escapes in somebody else's text
        module = ast.parse(_MAGIC.sub("", text))
    reader = _Reader()
    for statement in module.body:
        reader.read(statement)
    return reader.found


def open_problems(variables: dict[str, Any], source: str) -> list[Problem]:
    """A problem for each value that is no constant; those of secrets are replaced, since nobody needs them."""
    problems = []
    for name, value in variables.items():
        if not isinstance(value, Open):
            continue
        if is_secret(name):
            variables[name] = _HIDDEN
            continue
        problems.append(
            Problem(
                code="config.bad-line",
                message=f"the value of '{name}' is computed: {value.text}",
                hint="Put the value itself there",
                source=f"{source}:{value.line}",
            )
        )
    return problems


class _Reader:
    """Statements in their order, with what the names stand for so far."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self._names: dict[str, Any] = {}

    def read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            self._assign(statement.targets[0], statement.value)
        else:
            self._search(statement)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._names[target.id] = self.value(value)
            if _is_structure(value):
                self.found.append(self._names[target.id])
                return
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            owner, key = self._names.get(target.value.id), self.value(target.slice)
            if isinstance(owner, dict) and isinstance(key, str):
                owner[key] = self.value(value)
                return
        self._search(value)

    def _search(self, node: ast.AST) -> None:
        """Take the outermost structures below a node."""
        if _is_structure(node):
            self.found.append(self.value(node))
            return
        for child in ast.iter_child_nodes(node):
            self._search(child)

    def value(self, node: ast.AST) -> Any:  # noqa: PLR0911 - a case a kind of expression
        """What an expression stands for; ``Open`` where that is not known without running it."""
        match node:
            case ast.Constant(value=None | str() | int() | float() as value):
                return value
            case ast.Dict():
                return dict(self._items(node))
            case ast.List(elts=parts):
                return [self.value(each) for each in parts]
            case ast.Name(id=name) if name in self._names:
                return self._names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand) if isinstance(self.value(operand), (int, float)):
                return -self.value(operand)
            case ast.Call():
                return self._called(node)
            case _:
                return _open(node)

    def _items(self, node: ast.Dict) -> Iterator[tuple[Any, Any]]:
        for key, value in zip(node.keys, node.values, strict=True):
            name = None if key is None else self.value(key)
            merged = self.value(value) if key is None else None
            if isinstance(merged, dict):  # **other
                yield from merged.items()
            elif key is None or isinstance(name, (Open, dict, list)):
                yield _shown(key or value), _open(value)
            else:
                yield name, self.value(value)

    def _called(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        if name == "dict" and not node.args and all(each.arg for each in node.keywords):
            return {each.arg: self.value(each.value) for each in node.keywords}
        given = [self.value(each) for each in node.args]
        if name not in _CALLS or len(given) != 1 or node.keywords or not _is_plain(given[0]):
            return _open(node)
        try:
            return _CALLS[name](given[0])
        except (TypeError, ValueError, OverflowError, RecursionError):
            return _open(node)


def _is_structure(node: ast.AST) -> bool:
    is_dict_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"
    return is_dict_call or isinstance(node, (ast.Dict, ast.List))


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is known through and through, and small: nobody nests deeper what goes into a variable."""
    if not isinstance(value, (dict, list)):
        return not isinstance(value, Open)
    inner = value.values() if isinstance(value, dict) else value
    return depth < _DEEPEST and all(_is_plain(each, depth + 1) for each in inner)


def _open(node: ast.AST) -> Open:
    return Open(_shown(node), getattr(node, "lineno", 0))


class _WithoutTexts(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("...") if isinstance(node.value, (str, bytes)) else node


def _shown(node: ast.AST) -> str:
    """The expression on one line, without its texts."""
    copy = ast.parse(ast.unparse(node), mode="eval") if isinstance(node, ast.expr) else node
    text = " ".join(ast.unparse(_WithoutTexts().visit(copy)).split())
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "\N{HORIZONTAL ELLIPSIS}"
