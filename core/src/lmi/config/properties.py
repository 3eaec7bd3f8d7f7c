# SPDX-License-Identifier: Apache-2.0
"""Java's properties files (serving.properties, config.properties), with the line of every value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jproperties

from lmi.api import Problem, Severity

FILE_NAME = "serving.properties"
_INLINE_COMMENT = re.compile(r"[ \t]+#.*\Z", re.DOTALL)


@dataclass(frozen=True)
class Line:
    """One key and its value, with the number of the line it starts on (from 1), as ``serving.properties:4`` too."""

    key: str
    value: str
    number: int
    source: str


@dataclass
class PropertiesFile:
    """What a properties file holds, in its order, and what is wrong with it."""

    lines: list[Line] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_properties(path: Path) -> PropertiesFile:
    """Read a properties file; a line that cannot be read becomes a problem and the others are still read.

    Args:
        path: the file; it must exist.
    Source: java.util.Properties.load, parsed line by line so that each value knows where it stands.
    """
    try:
        return parse_properties(path.read_bytes(), str(path))
    except OSError as error:
        return PropertiesFile(problems=[_unreadable(str(path), error)])


def parse_properties(content: bytes, path: str) -> PropertiesFile:
    """The same for a file that was read already.

    Args:
        content: the file's bytes, UTF-8.
        path: where it is; its last part names it.
    """
    file = PropertiesFile()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return PropertiesFile(problems=[_unreadable(path, error)])
    for number, logical_line in _logical_lines(text):
        _read_line(logical_line, number, file, path)
    return file


def _unreadable(path: str, error: Exception) -> Problem:
    return Problem(
        code="config.unreadable",
        message=f"{_name(path)} cannot be read: {error}",
        hint="Save it as UTF-8 text that this user may read",
        path=path,
    )


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Join continued lines; leave out blank lines and comments, which are never continued."""
    pending: list[str] = []
    start = 0
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not pending:
            stripped = line.lstrip(" \t\f")
            if not stripped or stripped[0] in "#!":
                continue
            start = number
        pending.append(line)
        n_backslashes = len(line) - len(line.rstrip("\\"))
        if n_backslashes % 2 == 0:
            yield start, "\n".join(pending)
            pending = []
    if pending:
        yield start, "\n".join(pending)


def _read_line(logical_line: str, number: int, content: PropertiesFile, path: str) -> None:
    parsed = jproperties.Properties()
    source = f"{_name(path)}:{number}"
    try:
        parsed.load(logical_line)
    except (jproperties.ParseError, UnicodeDecodeError) as error:
        reason = error.message if isinstance(error, jproperties.ParseError) else str(error)
        content.problems.append(_bad_line(logical_line, f"a bad escape: {reason}", source, path))
        return
    for key, value in parsed.properties.items():
        if not key:
            content.problems.append(_bad_line(logical_line, "no key before the value", source, path))
            continue
        if not value and not any(sign in logical_line for sign in "=:"):
            content.problems.append(_without_value(key, source, path))
        kept = _without_comment(logical_line, key, value)
        if kept != value.strip():
            content.problems.append(
                Problem(
                    code="config.inline-comment",
                    message=f"the comment after the value of '{key}' is left out; Java would keep it",
                    hint="Put comments on lines of their own",
                    path=path,
                    source=source,
                    severity=Severity.WARNING,
                )
            )
        content.lines.append(Line(key, kept, number, source))


def _without_comment(logical_line: str, key: str, value: str) -> str:
    """Strip `` # comment`` from a scalar; JSON, chat templates and ``\\#`` keep every character."""
    stripped = value.strip()
    if stripped.startswith(("{", "[", '"', "'", "#")) or "{{" in stripped or "{%" in stripped:
        return stripped
    parsed = jproperties.Properties()
    parsed.load(_INLINE_COMMENT.sub("", logical_line))
    return str(parsed.properties.get(key, value)).strip()


def _without_value(key: str, source: str, path: str) -> Problem:
    return Problem(
        code="config.no-value",
        message=f"the line is the name '{key}' alone, and counts for nothing",
        hint=f"Write {key}=VALUE, or take the line out",
        path=path,
        source=source,
        severity=Severity.WARNING,
    )


def _bad_line(logical_line: str, reason: str, source: str, path: str) -> Problem:
    # Only the key is shown: the value may be a secret.
    written = re.split(r"[=:\s]", logical_line.strip(), maxsplit=1)[0]
    return Problem(
        code="config.bad-line",
        message=f"the line of '{written}' has {reason}",
        hint="A line reads key=value; write a backslash as \\\\",
        path=path,
        source=source,
    )
