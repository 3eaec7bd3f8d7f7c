# SPDX-License-Identifier: Apache-2.0
"""Write the parts of the pages that are made from code, so that pages and code cannot diverge.

    python docs/generate.py            writes what is stale and names it
    python docs/generate.py --check    changes nothing; names what is stale and exits with 1

A page says what it wants between two marks, each a line of its own; what stands between them is replaced:

    <!-- include: examples/extensions/guardrail.py#lmi_filter_text -->    a listing, see listings.py
    <!-- generated: options:echo -->          what the function of SECTIONS of that name makes of what follows the colon
    ...
    <!-- end -->
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from config_sections import foreign_variables, overriding_variables, server_keys
from conformance_section import conformance_section
from contract_section import rules_section
from hooks_section import hooks_section
from listings import StaleSourceError, listing, nearest

from lmi.config.options import ModelOptions
from lmi.config.server import ServerOptions
from lmi.config.tables import options_table, unsupported_table
from lmi.plugins import Plugins

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "core/*.md", "plugins/*/*.md", "examples/**/*.md", "docs/**/*.md")

_MARK = re.compile(r"<!-- (include|generated): (\S+) -->")
_LIKE_A_MARK = re.compile(r"<!-- *(include|generated|end)\b")
_END = "<!-- end -->"
_FENCE = re.compile(r" {0,3}```")


def filled(text: str, root: Path) -> str:
    """A page with its marked parts made anew; marks that are shown inside a listing are left alone.

    Args:
        text: of the page.
        root: what the paths of includes begin at.
    Raises:
        StaleSourceError: a mark is wrong, or names what does not exist.
    """
    lines = iter(text.splitlines())
    written: list[str] = []
    is_listing = False
    for line in lines:
        written.append(line)
        is_listing ^= _FENCE.match(line) is not None
        if is_listing or not _LIKE_A_MARK.match(line):
            continue
        mark = _MARK.fullmatch(line)
        if mark is None:
            raise StaleSourceError(f"{line!r} opens no part. Write <!-- include: path#name --> or remove it")
        skip_to_end(lines, line)
        written += [*made(mark[1], mark[2], root).splitlines(), _END]
    return "\n".join(written) + "\n" if written else text


def made(kind: str, name: str, root: Path) -> str:
    """The text that belongs between a mark and its end."""
    if kind == "include":
        return listing(name, root)
    section, _, argument = name.partition(":")
    if section not in SECTIONS:
        raise StaleSourceError(f"there is no section {section!r}. {nearest(section, list(SECTIONS))}")
    return f"\n{SECTIONS[section](argument).strip()}\n\n"


def options_section(backend: str) -> str:
    """The table of a backend's options."""
    plugins = Plugins.discover({"LMI_EXTENSIONS": ""})
    if backend not in plugins.backends:
        raise StaleSourceError(str(plugins.unusable(backend)))
    return options_table(plugins.config_type(backend))


SECTIONS: dict[str, Callable[[str], str]] = {
    "conformance-rules": lambda _: conformance_section(),
    "contract-rules": lambda _: rules_section(),
    "foreign-variables": lambda _: foreign_variables(),
    "hooks": lambda _: hooks_section(),
    "keys-that-are-none": lambda _: unsupported_table(),
    "keys-that-are-none-of-server": lambda _: server_keys(),
    "options": options_section,
    "options-of-models": lambda _: options_table(ModelOptions),
    "options-of-server": lambda _: options_table(ServerOptions),
    "overriding-variables": lambda _: overriding_variables(),
}
"""Name in a mark -> what makes the text. A new section is a function and an entry here."""


def skip_to_end(lines: Iterator[str], mark: str) -> None:
    """Drop the lines of a part; another mark before its end means that the end is missing."""
    is_listing = False
    for line in lines:
        is_listing ^= _FENCE.match(line) is not None
        if is_listing:
            continue
        if line == _END:
            return
        if _MARK.fullmatch(line):
            break
    raise StaleSourceError(f"{mark!r} opens a part that no {_END!r} ends")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or check, every page.

    Returns:
        0; 1 where a page asks for what does not exist or, with --check, is stale.
    """
    parser = argparse.ArgumentParser(description="Write the parts of the pages that are made from code.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is stale")
    is_check = parser.parse_args(arguments).check
    is_wrong = False
    for page in sorted({page for pattern in PAGES for page in ROOT.glob(pattern)}):
        name, old = page.relative_to(ROOT), page.read_text(encoding="utf-8")
        if not any(map(_LIKE_A_MARK.match, old.splitlines())):
            continue
        try:
            new = filled(old, ROOT)
        except StaleSourceError as error:
            print(f"{name}: {error}", file=sys.stderr)
            is_wrong = True
            continue
        if new != old and is_check:
            print(f"{name} is stale; `make docs` writes it", file=sys.stderr)
            is_wrong = True
        elif new != old:
            page.write_text(new, encoding="utf-8")
            print(f"{name} written")
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
