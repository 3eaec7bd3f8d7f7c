# SPDX-License-Identifier: Apache-2.0
"""A page of docs/, taken apart for its tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


class Page:
    """One page.

    Args:
        name: of the file in docs/.
    """

    def __init__(self, name: str) -> None:
        self.text = (DOCS / name).read_text(encoding="utf-8")

    def section(self, title: str) -> str:
        """What stands under a heading, up to the next one."""
        return self.text.partition(f"# {title}\n")[2].partition("\n#")[0]

    def rows(self, title: str) -> list[list[str]]:
        """The cells of a section's table, without its head."""
        lines = [line for line in self.section(title).splitlines() if line.startswith("|")]
        assert len(lines) > 2, f"no table under {title}"
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]

    def listings(self, title: str, language: str = "") -> list[str]:
        """A section's listings of a language, without their fences."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.section(title), re.MULTILINE | re.DOTALL)

    def trees(self, title: str) -> list[dict[str, str]]:
        """The files of each tree in a section, below the folder that heads it, with what is said of each."""
        listed = [text for text in self.listings(title) if re.match(r"\S+/(?: .*)?\n[├└]", text)]
        return [dict(_files(text)) for text in listed]


def _files(listing: str) -> Iterator[tuple[str, str]]:
    at: list[str] = []
    for line in listing.splitlines()[1:]:
        match = re.fullmatch(r"((?:│   |    )*)[├└]── (\S+)\s*(.*)", line)
        assert match, line
        at[len(match[1]) // 4 :] = [match[2].rstrip("/")]
        if not match[2].endswith("/"):
            yield "/".join(at), match[3]


def code(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return re.findall(r"`([^`]+)`", cell)
