# SPDX-License-Identifier: Apache-2.0
"""What a constraint means, in the words of llguidance: read in the server to judge it, in workers to obey it.

Source: llguidance's documentation of its JSON schemas, of its Lark dialect and of its converter for GBNF.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from lmi.api.requests import Constraint

KINDS = ("json_schema", "regex", "choice", "grammar")

STACK_BYTES = 256 * 2**20
"""Of a thread that reads a constraint. The library goes as deep as rules or references are chained: 3000 of them end a
process whose thread has the usual 8 MiB. Only what is used of it is memory."""

MOST_REASON_CHARS = 300

_OF_OTHERS = ("regex", "grammar")
"""Kinds whose dialects differ from library to library."""

_LIMITS = re.compile(r"regex|not supported|unsupported|limit|too (large|many|complex|deep)")
"""Reasons against a schema that lie in llguidance: its dialect of patterns, its bounds."""

_WHITESPACE = r"[ \n\r\t]{1,32}"
"""Between the parts of a JSON text. Without a bound, a model may write blanks until its tokens run out."""

_PIECES = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\\n])*")|(?P<class>\[(?:\\.|[^\]\\\n])*\])|(?P<comment>(?:\#|//)[^\n]*)|(?P<break>\s*\n\s*(?=\|))""",
    re.VERBOSE,
)
_CODED = re.compile(r"\\(?:\\|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")


def grammar_of(constraint: Constraint, *, is_lenient: bool = False) -> str:
    """A constraint as llguidance takes it; whether it does, ``reason_against`` says.

    Args:
        constraint: of any kind. A grammar may be written in Lark or, with ``::=``, in GBNF.
        is_lenient: keywords of a schema that llguidance does not know are left out.
    Raises:
        ValueError: what is wrong, where that shows before llguidance reads it.
    """
    from llguidance import LLMatcher

    kind, source = constraint.kind, constraint.source
    try:
        source.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair") from None
    if kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(
            source, defaults={"whitespace_pattern": _WHITESPACE, "lenient": is_lenient}
        )
    if kind == "regex":
        return LLMatcher.grammar_from_regex(source)
    if kind == "choice":
        return LLMatcher.grammar_from_lark(_choice(json.loads(source)))
    if kind == "grammar":
        return LLMatcher.grammar_from_lark(_from_gbnf(source) if is_gbnf(source) else source)
    raise ValueError(f"the kind {kind!r} is not known; known are {', '.join(KINDS)}")


@lru_cache(maxsize=128)
def reason_against(constraint: Constraint, *, is_lenient: bool = False) -> str:
    """Why the core cannot obey a constraint, in one line; empty where it can.

    No tokenizer is needed. It may take a while: call it in a thread with a stack of ``STACK_BYTES``.

    Args:
        constraint: of any kind.
        is_lenient: only what is wrong in itself counts, not what another library might take.
    """
    from llguidance import LLMatcher

    if is_lenient and constraint.kind in _OF_OTHERS:
        return ""
    try:
        grammar = grammar_of(constraint, is_lenient=is_lenient)
    except (ValueError, TypeError) as error:
        return in_one_line(str(error))
    is_wrong, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if not is_wrong or not messages or (is_lenient and _LIMITS.search(messages[0])):
        return ""
    return in_one_line(messages[0])


def is_gbnf(grammar: str) -> bool:
    """Whether a grammar is written with ``::=``, outside of texts and comments; else it is Lark."""
    return "::=" in _PIECES.sub(" ", grammar)


def in_one_line(message: str) -> str:
    """A message of llguidance, without the listing that some end with, cut where it is long."""
    lines = [line.strip() for line in message.split("\n   1 |", maxsplit=1)[0].splitlines()]
    text = " ".join(line for line in lines if line.strip("^ "))
    return text if len(text) <= MOST_REASON_CHARS else text[: MOST_REASON_CHARS - 3] + "..."


def _choice(texts: Any) -> str:
    """One terminal: the longest of texts that begin alike is not lost behind a shorter one."""
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) and each for each in texts):
        raise ValueError("a choice is a list of texts, at least one, none of them empty")
    return "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(each, ensure_ascii=False) for each in texts)


# ------------------------------------------------------------------------------------------------------------- GBNF


def _from_gbnf(grammar: str) -> str:
    """A grammar in GBNF as one in Lark.

    The converter knows neither rules that go on in the next line nor all escapes; other readers of GBNF do.

    Raises:
        ValueError: it is no GBNF.
    """
    from llguidance.gbnf_to_lark import gbnf_to_lark

    plain = _PIECES.sub(_plain, grammar)
    try:
        return gbnf_to_lark(plain)
    except RecursionError:
        raise ValueError("the grammar is nested too deep") from None
    except Exception as error:  # the converter raises nothing more special
        raise ValueError(f"as GBNF: {error}") from error


def _plain(match: re.Match[str]) -> str:
    piece = match.group()
    if match["comment"] is not None:
        return ""
    if match["break"] is not None:
        return " "
    return _CODED.sub(lambda code: _character(code, is_class=match["class"] is not None), piece)


def _character(code: re.Match[str], *, is_class: bool) -> str:
    """The character that an escape stands for, escaped itself where it would mean something."""
    digits = code[1] or code[2] or code[3]
    if digits is None or int(digits, 16) > 0x10FFFF or 0xD800 <= int(digits, 16) <= 0xDFFF:
        return code.group()
    character = chr(int(digits, 16))
    special = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    if character in special:
        return special[character]
    return f"\\{character}" if character in ('\\]["^-' if is_class else '\\"') else character
