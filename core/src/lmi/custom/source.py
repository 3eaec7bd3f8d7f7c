# SPDX-License-Identifier: Apache-2.0
"""What a Python file defines at its top, found without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lmi.api import Problem, hookspecs
from lmi.config.names import did_you_mean

FILE_NAME = "model.py"
"""The file that counts where nothing names another."""

_PREFIX = f"{hookspecs.PROJECT}_"
SERVER_HOOKS = frozenset({
    "lmi_validate_artifacts", "lmi_filter_request", "lmi_filter_text", "lmi_parse_request", "lmi_format_response",
    "lmi_register_routes",
})  # fmt: skip
WORKER_HOOKS = frozenset({"lmi_load_engine", "lmi_generate_batch"})
GENERATION_HOOKS = frozenset({
    "lmi_filter_request", "lmi_filter_text", "lmi_parse_request", "lmi_format_response", "lmi_generate_batch",
})  # fmt: skip
"""Hooks that are called for text that is generated, and for no other request."""
PACKAGE_HOOKS = frozenset(name for name in vars(hookspecs) if name.startswith(_PREFIX)) - SERVER_HOOKS - WORKER_HOOKS
"""Hooks that only make sense in an installed package: they are called before a model is known."""


@dataclass
class Source:
    """Names that a file binds at its top, and what they are marked as.

    Args:
        names: every name that may be called: functions, classes, imports, assignments; with its line.
        hooks: hook -> line.
        formatters: functions marked as output formatter.
        problems: what is wrong without looking further.
    """

    path: Path
    names: dict[str, int] = field(default_factory=dict)
    hooks: dict[str, int] = field(default_factory=dict)
    formatters: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, code: str, message: str, hint: str, line: int = 0) -> None:
        source = f"{self.path.name}:{line}" if line else ""
        self.problems.append(Problem(code=code, message=message, hint=hint, path=str(self.path), source=source))


def read_source(path: Path) -> Source:
    """Look at a Python file; one that cannot be read or compiled gives a problem and nothing else."""
    source = Source(path)
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        line = error.lineno or 0
        source.problem("script.syntax", f"{path.name} is not Python: {error.msg}", "Correct the line", line)
    except (OSError, ValueError) as error:
        source.problem("script.syntax", f"{path.name} cannot be read: {error}", "Save it as UTF-8 Python source")
    else:
        for statement in _top_level(tree.body):
            _take(source, statement)
        _judge_hooks(source)
    return source


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run on import, those inside ``if``, ``try`` and ``with`` included."""
    for statement in body:
        yield statement
        for inner in ("body", "orelse", "finalbody"):
            if isinstance(statement, (ast.If, ast.Try, ast.With)):
                yield from _top_level(getattr(statement, inner, []))
        if isinstance(statement, ast.Try):
            for clause in statement.handlers:
                yield from _top_level(clause.body)


def _take(source: Source, statement: ast.stmt) -> None:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        source.names[statement.name] = statement.lineno
        _take_marks(source, statement)
    elif isinstance(statement, ast.ClassDef):
        source.names[statement.name] = statement.lineno
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            name = alias.asname or alias.name.partition(".")[0]
            source.names[name] = statement.lineno
            if isinstance(statement, ast.ImportFrom) and name.startswith(_PREFIX):
                source.hooks[name] = statement.lineno
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            for node in ast.walk(target):
                if isinstance(node, ast.Name):
                    source.names[node.id] = statement.lineno


def _take_marks(source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    name, line = function.name, function.lineno
    marks = {_last_name(each): each for each in function.decorator_list}
    if "output_formatter" in marks:
        source.formatters.append(name)
    if "input_formatter" in marks:
        source.problem(
            "script.unsupported", f"{name} is an input formatter, which is not offered",
            "Write the hook lmi_parse_request instead; docs/model-py.md shows one", line,
        )  # fmt: skip
    if "hookimpl" in marks:
        source.hooks[_specified(marks["hookimpl"]) or name] = line
    elif name.startswith(_PREFIX):
        source.hooks[name] = line
        source.problem(
            "plugin.bad-hooks", f"{name} lacks its @hookimpl, so it would not be called",
            "Write @hookimpl above it (from lmi.api import hookimpl)", line,
        )  # fmt: skip


def _last_name(decorator: ast.expr) -> str:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _specified(decorator: ast.expr) -> str:
    """The hook that ``@hookimpl(specname=...)`` names."""
    for word in decorator.keywords if isinstance(decorator, ast.Call) else []:
        if word.arg == "specname" and isinstance(word.value, ast.Constant):
            return str(word.value.value)
    return ""


def _judge_hooks(source: Source) -> None:
    known = sorted(SERVER_HOOKS | WORKER_HOOKS)
    for hook, line in source.hooks.items():
        if hook in PACKAGE_HOOKS:
            source.problem(
                "plugin.bad-hooks", f"{hook} is called before a model is known, so a model cannot bring it",
                "Put it into an installed package", line,
            )  # fmt: skip
        elif hook not in known:
            hint = did_you_mean(hook, known, f"Hooks of a model: {', '.join(known)}")
            source.problem("plugin.bad-hooks", f"there is no hook '{hook}'", hint, line)
