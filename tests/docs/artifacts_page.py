# SPDX-License-Identifier: Apache-2.0
"""docs/artifacts.md, taken apart for its tests."""

from __future__ import annotations

import re

from tests.docs.pages import Page

_PAGE = Page("artifacts.md")
PAGE = _PAGE.text
ERRORS = Page("errors.md").text
section, rows = _PAGE.section, _PAGE.rows


def console(title: str) -> list[tuple[str, list[str]]]:
    """The commands of a section, each with the lines that it is said to print."""
    [listing] = re.findall(r"^```console\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL)
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", listing, re.MULTILINE)
    return [(command, shown.splitlines()) for command, shown in found]


def tree(title: str) -> dict[str, str]:
    """The files of a section's tree, below the folder that heads it, with what is said of each."""
    [found] = _PAGE.trees(title)
    return found
