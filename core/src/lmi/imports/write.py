# SPDX-License-Identifier: Apache-2.0
"""A translation as a serving.properties file, or as a block of variables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from lmi.config import Setting
from lmi.config.names import PREFIX
from lmi.imports.outcome import Fate, Translation, printable

_SHORT_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}
_LOOKS_LIKE_A_COMMENT = re.compile(r"[ \t]#")
_KEEPS_ITS_HASH = ("{", "[", '"', "'", "#")
_CONTROL = ("Cc", "Cf", "Zl", "Zp")
_LARGEST_ESCAPED = 0xFFFF


def as_properties(found: Translation) -> list[str]:
    """Lines of serving.properties; above each key, the variable that it came from."""
    lines = [f"{each.key}={_escaped(each.value)}" for each in found.settings if _fits_a_file(each.value)]
    return list(_page(found, lines, [each for each in found.settings if _fits_a_file(each.value)]))


def as_variables(found: Translation) -> list[str]:
    """The same as ``OPTION_*`` variables, as docker's ``--env-file`` takes them."""
    written = [each for each in found.settings if _fits_a_variable(each.value)]
    return list(_page(found, [f"{variable_of(each.key)}={each.value}" for each in written], written))


def unwritable(found: Translation, *, as_file: bool) -> list[Setting]:
    """Settings whose value one form cannot hold; they have to be set otherwise."""
    fits = _fits_a_file if as_file else _fits_a_variable
    return [each for each in found.settings if not fits(each.value)]


def variable_of(key: str) -> str:
    """The variable that stands for a key: ``OPTION_DTYPE``."""
    return f"OPTION_{key.removeprefix(PREFIX).upper()}"


def _page(found: Translation, lines: list[str], written: list[Setting]) -> Iterator[str]:
    yield f"# Imported from variables of {found.server}"
    shown = {each.variable: each.shown for each in found.outcomes}
    for line, setting in zip(lines, written, strict=True):
        if setting.source in shown:
            yield f"# {printable('', setting.source)}={shown[setting.source]}"
        else:
            yield f"# {printable('', setting.source)}"
        yield line
    for flag in found.flags:
        yield f"# lmi serve {flag}"
    kept = [each.variable for each in found.outcomes if each.fate is Fate.KEPT and each.why and not each.instead]
    if kept:
        yield f"# These stay variables: {printable('', ', '.join(kept))}"


def _escaped(value: str) -> str:
    return "".join(_SHORT_ESCAPES.get(char) or _escaped_control(char) for char in value)


def _escaped_control(char: str) -> str:
    is_control = unicodedata.category(char) in _CONTROL and ord(char) <= _LARGEST_ESCAPED
    return f"\\u{ord(char):04x}" if is_control else char


def _fits_a_file(value: str) -> bool:
    """Whether the reader of serving.properties gives this very value back; it takes a comment off a scalar."""
    keeps = value.startswith(_KEEPS_ITS_HASH) or "{{" in value or "{%" in value
    return _is_text(value) and (keeps or not _LOOKS_LIKE_A_COMMENT.search(value))


def _fits_a_variable(value: str) -> bool:
    return _is_text(value) and not {"\n", "\r", "\0"} & set(value)


def _is_text(value: str) -> bool:
    return not any(unicodedata.category(char) == "Cs" for char in value)
