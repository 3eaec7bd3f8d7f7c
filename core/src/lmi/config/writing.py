# SPDX-License-Identifier: Apache-2.0
"""Settings as they are written: lines of serving.properties, or variables; and what a form cannot hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from lmi.api.errors import sentences
from lmi.config import names
from lmi.config.settings import Setting

_SHORT_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}
_CONTROL = ("Cc", "Cf", "Zl", "Zp")
_LARGEST_ESCAPED = 0xFFFF
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class Form(str, Enum):
    """FILE: serving.properties. VARIABLES: ``NAME=value`` lines, as docker's ``--env-file`` takes them."""

    FILE = "file"
    VARIABLES = "variables"


@dataclass(frozen=True)
class Line:
    """One setting in one form.

    Args:
        setting: what is written.
        text: the line; empty where the form cannot hold it.
        why: the reason for that.
        instead: what to do then.
        is_secret: the reason is that the value must be written nowhere.
    """

    setting: Setting
    text: str = ""
    why: str = ""
    instead: str = ""
    is_secret: bool = False

    def __str__(self) -> str:
        if self.text:
            return self.text
        source = _one_line(self.setting.source)
        return "not written: " + sentences(f"{_one_line(self.setting.key)} ({source}): {self.why}", self.instead)


def lines_of(settings: Iterable[Setting], form: Form) -> list[Line]:
    """Every setting in a form, in the order of the settings; each line reads back as the very same setting."""
    return [_line(each, form) for each in settings]


def variable_of(key: str) -> str:
    """The variable that stands for a canonical key, or "" where none can.

    ``OPTION_DTYPE``, ``SERVING_JOB_QUEUE_SIZE``; ``engine`` is ``OPTION_ENGINE``. Source: the LMI configuration
    reference.
    """
    prefix = "OPTION_" if key.startswith(names.PREFIX) or key == "engine" else "SERVING_"
    name = key.removeprefix(names.PREFIX)
    for spelling in (name.replace(".", "_").upper(), name):
        if spelling and _NAME.fullmatch(prefix + spelling) and names.from_variable(spelling) == key:
            return prefix + spelling
    return ""


def holds_secret(key: str, value: str) -> bool:
    """Whether a value must be written nowhere."""
    return names.is_secret(key) or names.shown(key, value) != value


def _line(setting: Setting, form: Form) -> Line:
    key, value, variable = setting.key, setting.value, variable_of(setting.key)
    if holds_secret(key, value):
        instead = f"Set {variable} where the server starts" if variable else "Set it where the server starts"
        return Line(setting, why="it holds a secret, which is written nowhere", instead=instead, is_secret=True)
    faults = _faults_of_a_file(key, value) if form is Form.FILE else _faults_of_a_variable(variable, value)
    fault = next((fault for is_so, fault in faults if is_so), None)
    if fault is not None:
        return Line(setting, why=fault[0], instead=fault[1])
    return Line(setting, f"{key}={_escaped(value)}" if form is Form.FILE else f"{variable}={value}")


_Faults = list[tuple[bool, tuple[str, str]]]
"""Whether something is so, and then why it cannot be written and what to do."""


def _faults_of_any(value: str) -> _Faults:
    return [
        (not value, ("an empty value counts as unset wherever it is written", "Take the key out")),
        (any(unicodedata.category(char) == "Cs" for char in value), ("it is no text of UTF-8", "Correct the value")),
    ]


def _faults_of_a_file(key: str, value: str) -> _Faults:
    return [*_faults_of_any(value), (not _NAME.fullmatch(key), ("no option has such a name", "Correct the name"))]


def _faults_of_a_variable(variable: str, value: str) -> _Faults:
    by_file = f"Put the value into a file, and set {variable}=@/absolute/path/of/it"
    return [
        *_faults_of_any(value),
        (not variable, ("no variable has such a name", "Write it into serving.properties")),
        (not {"\n", "\r"}.isdisjoint(value), ("a variable holds one line, and the value has several", by_file)),
        ("\0" in value, ("no variable holds a zero byte", by_file)),
    ]


def _escaped(value: str) -> str:
    """A value as a properties file has it; a ``#`` behind a blank would begin a comment."""
    return "".join(_SHORT_ESCAPES.get(char) or _escaped_control(char) for char in value).replace(" #", " \\#")


def _escaped_control(char: str) -> str:
    is_control = unicodedata.category(char) in _CONTROL and ord(char) <= _LARGEST_ESCAPED
    return f"\\u{ord(char):04x}" if is_control else char


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
