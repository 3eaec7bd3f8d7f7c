# SPDX-License-Identifier: Apache-2.0
"""The reference of all hooks, from their specifications: signature, docstring and where each runs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lmi.api import hookspecs

FACTS = ("Called", "Runs in", "Answers", "Cost", "Raises")
_FACT = re.compile(rf"(?:^|\s)({'|'.join(FACTS)}):\s")
_BANNER = re.compile(r"^# -{10,} (.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class HookPart:
    """What there is to say of one hook.

    Args:
        name: of the hook.
        chapter: the banner it stands under.
        signature: its source, from ``def`` on.
        summary: the first sentence of its docstring.
        facts: the other parts, each of FACTS that is there.
        is_first: whether the first answer ends the call.
    """

    name: str
    chapter: str
    signature: str
    summary: str
    facts: dict[str, str]
    is_first: bool


def hooks_section() -> str:
    """An overview, then every hook under the chapter it belongs to."""
    hooks = hooks_of(hookspecs)
    lines = ["| hook | runs in | answers |", "|---|---|---|"]
    lines += [f"| [`{hook.name}`](#{hook.name}) | {hook.facts['Runs in']} | {answers(hook)} |" for hook in hooks]
    chapter = ""
    for hook in hooks:
        if hook.chapter != chapter:
            chapter = hook.chapter
            lines += ["", f"## {chapter[0].upper()}{chapter[1:]}"]
        lines += ["", f"### {hook.name}", "", "```python", hook.signature, "```", "", markdown(hook.summary), ""]
        lines += ["| | |", "|---|---|"]
        lines += [f"| {name.lower()} | {markdown(text)} |" for name, text in hook.facts.items()]
    return "\n".join(lines)


def answers(hook: HookPart) -> str:
    return "the first one that is not None" if hook.is_first else "all"


def markdown(text: str) -> str:
    """Docstring text in a cell of a table."""
    return text.replace("``", "`").replace("|", "\\|")


def hooks_of(module: ModuleType) -> list[HookPart]:
    """The hooks that a module specifies, in its order.

    Raises:
        ValueError: a docstring lacks one of the facts every hook states.
    """
    source = inspect.getsource(module)
    chapters = [(source.count("\n", 0, banner.start()) + 1, banner[1]) for banner in _BANNER.finditer(source)]
    found = []
    for node in ast.parse(source).body:
        function = getattr(module, getattr(node, "name", ""), None)
        if isinstance(node, ast.FunctionDef) and function is not None and hasattr(function, "lmi_spec"):
            chapter = [title for line, title in chapters if line < node.lineno][-1]
            found.append(hook_of(function, node, source, chapter))
    return found


def hook_of(function: Callable[..., Any], node: ast.FunctionDef, source: str, chapter: str) -> HookPart:
    summary, _, rest = (inspect.getdoc(function) or "").partition("\n\n")
    pieces = _FACT.split(rest)
    facts = {name: " ".join(text.split()).rstrip(".") for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}
    missing = [name for name in FACTS[:-1] if name not in facts]
    if missing:
        raise ValueError(f"the docstring of {node.name} does not say: {', '.join(missing)}")
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    return HookPart(
        name=node.name,
        chapter=chapter,
        signature="\n".join(lines).rstrip(":"),
        summary=" ".join(summary.split()),
        facts=facts,
        is_first=bool(getattr(function, "lmi_spec")["firstresult"]),  # noqa: B009 - pluggy's mark, unknown to mypy
    )
