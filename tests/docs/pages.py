# SPDX-License-Identifier: Apache-2.0
"""A page of docs/, taken apart for its tests."""

from __future__ import annotations

import re
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


def code(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return re.findall(r"`([^`]+)`", cell)
