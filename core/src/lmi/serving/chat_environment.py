# SPDX-License-Identifier: Apache-2.0
"""Jinja as chat templates have it: what transformers offers them, in a sandbox, with limits.

Source: transformers' chat template utilities; ours are the limits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmi.serving.chat_wants import Wants, wants_of

MAX_CHARS = 1 << 26
"""Longest text that a template may make: as many characters as a request has bytes at most, by default."""

MAX_STEPS = 1_000_000
"""Most turns of loops and calls of macros in one rendering."""

STEP = "_lmi_step"
"""The name under which a template's loops and macros find what counts them; no template writes such a name."""

_MAX_POWER_BITS = 4096
_FILE = "<chat template>"


class RaisedError(jinja2.TemplateError):
    """What a template says by ``raise_exception``."""


class LimitError(jinja2.TemplateError):
    """A template does more than it may."""


class BrokenTemplateError(Exception):
    """A text is no template; the text of the error says why, and ``line`` where: 0 where that is unknown."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class CompiledTemplate:
    """A template that is ready to be rendered.

    Args:
        template: of Jinja.
        wants: what it wants of messages.
    """

    template: jinja2.Template
    wants: Wants

    def render(self, values: dict[str, Any]) -> str:
        """The text that it makes.

        Args:
            values: what it finds by name.
        Raises:
            RaisedError: what it says by raise_exception.
            LimitError: it does more than it may.
            Exception: whatever else goes wrong in it.
        """
        pieces, n_chars = [], 0
        for piece in self.template.generate({**values, STEP: _StepCounter()}):
            n_chars += len(piece)
            if n_chars > MAX_CHARS:
                raise LimitError(f"it writes more than {MAX_CHARS} characters")
            pieces.append(piece)
        return "".join(pieces)


@lru_cache(maxsize=64)
def compiled(text: str) -> CompiledTemplate:
    """Compile a template; the last few are kept.

    Raises:
        BrokenTemplateError: it cannot be compiled.
    """
    environment = _environment()
    try:
        tree = environment.parse(text)
        wants = wants_of(tree)
        code = environment.compile(_counted(tree), filename=_FILE)
        template = environment.template_class.from_code(environment, code, environment.make_globals(None), None)
    except jinja2.TemplateSyntaxError as error:
        raise BrokenTemplateError(error.message or "it cannot be parsed", error.lineno) from error
    except (SyntaxError, RecursionError, MemoryError, ValueError, jinja2.TemplateError) as error:
        # What Jinja takes and Python's own compiler does not, such as too many nested blocks.
        raise BrokenTemplateError(f"{type(error).__name__}: {error}", 0) from error
    return CompiledTemplate(template, wants)


def line_of(error: BaseException) -> int:
    """The line of the template where an error of rendering was raised; 0 where it was not raised in one."""
    line, traceback = 0, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILE:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


# ------------------------------------------------------------------------------------------------------- environment


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, which looks at the size of what operators make before they make it."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            if _length(left) + _length(right) <= MAX_CHARS:
                return left + right
        elif operator == "*":
            if _length(left) * _times(right) + _length(right) * _times(left) <= MAX_CHARS:
                return left * right
        elif _bits(left) * _times(right) <= _MAX_POWER_BITS:
            return left**right
        raise LimitError(f"the result of an operator {operator} is too large")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0  # a union takes twice the time


def _times(value: Any) -> int:
    return max(value, 0) if isinstance(value, int) else 0


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


class _Generation(Extension):
    """``{% generation %}``, which marks what a model is to learn; here it is what stands inside."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _StepCounter:
    """Counts the steps of one rendering."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


def _count(counter: _StepCounter) -> None:
    counter.n += 1
    if counter.n > MAX_STEPS:
        raise LimitError(f"its loops and macros make more than {MAX_STEPS} steps")


def _counted(tree: nodes.Template) -> nodes.Template:
    """The tree with a step counted in every loop and macro; by a filter, which the sandbox calls without a detour."""
    blocks: list[nodes.For | nodes.Macro | nodes.CallBlock]
    blocks = [*tree.find_all(nodes.For), *tree.find_all(nodes.Macro), *tree.find_all(nodes.CallBlock)]
    for block in blocks:
        step = nodes.ExprStmt(nodes.Filter(nodes.Name(STEP, "load"), STEP, [], [], None, None))
        block.body.insert(0, step.set_lineno(block.lineno).set_environment(_environment()))
    return tree


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    made = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters[STEP] = _count
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    return made


def _to_json(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is; Jinja's own filter writes it for HTML."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise RaisedError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
