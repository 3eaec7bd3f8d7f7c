# SPDX-License-Identifier: Apache-2.0
"""docs/artifacts.md, taken apart for its tests."""

from __future__ import annotations

import re
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = (_DOCS / "artifacts.md").read_text(encoding="utf-8")
ERRORS = (_DOCS / "errors.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"# {title}\n")[2].partition("\n#")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    assert len(lines) > 2, f"no table under {title}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def console(title: str) -> list[tuple[str, list[str]]]:
    """The commands of a section, each with the lines that it is said to print."""
    [listing] = re.findall(r"^```console\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL)
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", listing, re.MULTILINE)
    return [(command, shown.splitlines()) for command, shown in found]


def tree(title: str) -> dict[str, str]:
    """The files of a section's tree, below the folder that heads it, with what is said of each."""
    [listing] = re.findall(r"^```\n(\S+/(?: .*)?\n[├└].*?)^```$", section(title), re.MULTILINE | re.DOTALL)
    found, at = {}, []
    for line in listing.splitlines()[1:]:
        match = re.fullmatch(r"((?:│   |    )*)[├└]── (\S+)\s*(.*)", line)
        assert match, line
        depth = len(match[1]) // 4
        at[depth:] = [match[2].rstrip("/")]
        if not match[2].endswith("/"):
            found["/".join(at)] = match[3]
    return found
