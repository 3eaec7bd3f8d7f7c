# SPDX-License-Identifier: Apache-2.0
"""A translation as a serving.properties file, or as a block of variables."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.config.writing import Form, Line, lines_of
from lmi.imports.outcome import Fate, Translation, printable


def as_properties(found: Translation) -> list[str]:
    """Lines of serving.properties; above each key, the variable that it came from."""
    return list(_page(found, Form.FILE))


def as_variables(found: Translation) -> list[str]:
    """The same as ``OPTION_*`` and ``SERVING_*`` variables, as docker's ``--env-file`` takes them."""
    return list(_page(found, Form.VARIABLES))


def unwritable(found: Translation, *, as_file: bool) -> list[Line]:
    """Settings that one form cannot hold; they have to be set otherwise."""
    lines = lines_of(found.settings, Form.FILE if as_file else Form.VARIABLES)
    return [line for line in lines if not line.text]


def _page(found: Translation, form: Form) -> Iterator[str]:
    yield f"# Imported from variables of {found.server}"
    shown = {each.variable: each.shown for each in found.outcomes}
    for line in lines_of(found.settings, form):
        if not line.text:
            continue
        source = line.setting.source
        value = f"={shown[source]}" if source in shown else ""
        yield f"# {printable('', source)}{value}"
        yield line.text
    for flag in found.flags:
        yield f"# lmi serve {flag}"
    kept = [each.variable for each in found.outcomes if each.fate is Fate.KEPT and each.why and not each.instead]
    if kept:
        yield f"# These stay variables: {printable('', ', '.join(kept))}"
