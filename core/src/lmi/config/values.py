# SPDX-License-Identifier: Apache-2.0
"""What a value's text may stand for: a file that holds it, or something that nobody has filled in."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from lmi.api import Problem
from lmi.config.settings import Setting

FILE_MARK = "@/"
"""A value that begins so is the absolute path of a file that holds the value."""

_OPEN_WORDS = "your|my|model|bucket|path|url|uri|id|name|value|number|dir|folder|region"
_LEFT_OPEN = rf"<(?=[^<>]* |(?:[^<>]*[^A-Za-z<>])?(?:{_OPEN_WORDS})[^A-Za-z])[A-Za-z][^<>]*>"
"""``<your model>``, ``<model_id>``; not ``<eos>`` or ``<end_of_turn>``, which are tokens of text."""

_PLACEHOLDER = re.compile(
    rf"\{{\{{[^{{}}%\n]*\}}\}}|{_LEFT_OPEN}|\$\{{?[A-Za-z_][A-Za-z0-9_]*\}}?|\*{{3}}", re.IGNORECASE
)
"""What templates and documents leave for the user to fill in: ``{{s3url}}``, ``<your model>``, ``${MODEL_ID}``; and
the stars that stand for a secret in what LMI prints."""

_URL_WITH_PLACEHOLDER = re.compile(r"[a-z0-9]+://\S*(\{\{[^{}%]*\}\}|<[A-Za-z][^<>]*>|\$\{[^{}]*\})\S*", re.IGNORECASE)

_RELATIVE_FILE = re.compile(r"@[^\s/@][^\s@]*\.[A-Za-z0-9]{1,8}")
"""A value that looks like a file's, whose path is not absolute."""

_LARGEST_VALUE_BYTES = 1 << 20


def _small_text(path: Path) -> str:
    """The text of a file; a pipe or a device would never end.

    Raises:
        OSError, ValueError: it cannot be read, or is no text.
    """
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    if path.stat().st_size > _LARGEST_VALUE_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes, the most is {_LARGEST_VALUE_BYTES}")
    return path.read_text("utf-8").strip()


def is_placeholder(value: str) -> bool:
    """Whether nobody has filled a value in."""
    return any(form.fullmatch(value) for form in (_PLACEHOLDER, _URL_WITH_PLACEHOLDER))


def filled(setting: Setting) -> tuple[Setting, Problem | None]:
    """A value that names a file (``@/path``) with what the file holds, and what is wrong with a value of any key."""
    if setting.value.startswith(FILE_MARK):
        path = Path(setting.value[1:])
        try:
            text = _small_text(path)
        except (OSError, ValueError) as error:  # not text, or no path that could be
            problem = Problem(
                code="config.unreadable",
                message=f"'{setting.key}' is to be read from {path}: {error}",
                hint="Give the absolute path of a text file, or the value itself",
                source=setting.source,
            )
            return setting, problem
        return replace(setting, value=text, source=f"{setting.source} ({path})"), None
    if _RELATIVE_FILE.fullmatch(setting.value):
        problem = Problem(
            code="config.unreadable",
            message=f"'{setting.key}' is {setting.shown!r}; a file that holds a value is named by its absolute path",
            hint=f"Write it like {FILE_MARK}opt/template.jinja",
            source=setting.source,
        )
        return setting, problem
    if is_placeholder(setting.value):
        is_variable = "$" in setting.value
        problem = Problem(
            code="config.placeholder",
            message=f"'{setting.key}' is {setting.shown!r}, which nobody has filled in",
            hint="Put the value there: variables are not looked up"
            if is_variable
            else "Put the value there, or take the line out",
            source=setting.source,
        )
        return setting, problem
    return setting, None
