# SPDX-License-Identifier: Apache-2.0
"""What was measured, for people and for programs: a table, JSON, a page, pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmi import __version__
from lmi.api.errors import LmiError
from lmi.bench.advice import Advice
from lmi.bench.drawing import line_plot
from lmi.bench.levels import Level

_QUANTILES = ("p50", "p90", "p99")

COLUMNS: dict[str, tuple[str, float]] = {
    "n_at_once": ("at once", 1),
    "n_requests": ("requests", 1),
    "n_errors": ("errors", 1),
    "requests_per_s": ("requests/s", 1),
    "tokens_per_s": ("tokens/s", 1),
    **{f"first_token_s.{share}": (f"first token {share}, ms", 1000) for share in _QUANTILES},
    **{f"gap_s.{share}": (f"between tokens {share}, ms", 1000) for share in _QUANTILES},
}
"""Path in a level of report.json -> its column, and what its value is multiplied with to be shown."""

PLOTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "throughput": ("tokens/s", ("tokens_per_s",)),
    "first-token": ("time to first token, ms", tuple(f"first_token_s.{share}" for share in _QUANTILES)),
    "between-tokens": ("time between tokens, ms", tuple(f"gap_s.{share}" for share in _QUANTILES)),
}
"""Name of a picture -> its title, and the columns that it draws."""


def value_of(level: Mapping[str, Any], path: str) -> Any:
    """A value of a level by its path, as ``gap_s.p50``."""
    found: Any = level
    for key in path.split("."):
        found = found[key]
    return found


def shown(level: Mapping[str, Any], path: str) -> str:
    """The same as people read it."""
    value = value_of(level, path)
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value * COLUMNS[path][1]:.1f}"


def head_lines() -> list[str]:
    """The two lines above a table for a terminal."""
    above = f"{'':>8} {'':>8} {'':>6} {'':>10} {'':>9}  {'first token, ms':^26}  {'between tokens, ms':^26}"
    names = " ".join(f"{share:>8}" for share in _QUANTILES)
    return [above.rstrip(), f"{'at once':>8} {'requests':>8} {'errors':>6} {'requests/s':>10} {'tokens/s':>9}  "
            f"{names}  {names}"]  # fmt: skip


def row_line(level: Level) -> str:
    """One level for a terminal."""
    cells = [shown(asdict(level), path) for path in COLUMNS]
    widths = (8, 8, 6, 10, 9)
    fixed = " ".join(f"{cell:>{width}}" for cell, width in zip(cells[:5], widths, strict=True))
    first, gaps = (" ".join(f"{cell:>8}" for cell in part) for part in (cells[5:8], cells[8:]))
    return f"{fixed}  {first}  {gaps}"


def as_json(asked: Mapping[str, Any], levels: Sequence[Level], advice: Advice) -> dict[str, Any]:
    """The report for programs.

    Args:
        asked: what was asked for: URL, schema, tokens and so on.
        levels: what was measured.
        advice: what to do next.
    """
    return {
        "lmi_version": __version__,
        "asked": dict(asked),
        "levels": [asdict(level) for level in levels],
        "advice": asdict(advice),
    }


def made(folder: Path) -> None:
    """Make the folder of a report, so that an hour is not measured for nothing.

    Raises:
        LmiError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if not os.access(folder, os.W_OK):
        raise _unwritable(folder, PermissionError(None, "it may not be written"))


def _unwritable(folder: Path, error: OSError) -> LmiError:
    return LmiError("bench.cannot-write", f"{folder}: {error.strerror}", "Name another --report")


def write(folder: Path, report: Mapping[str, Any]) -> list[str]:
    """Write report.json, report.html and, where matplotlib is installed, a picture of each plot.

    Args:
        folder: of ``made``.
        report: of ``as_json``.
    Returns:
        the names of the files.
    Raises:
        LmiError: they cannot be written.
    """
    pages = {"report.json": json.dumps(report, indent=2) + "\n", "report.html": page(report)}
    try:
        for name, text in pages.items():
            beside = folder / f".{name}.{os.getpid()}"
            beside.write_text(text, encoding="utf-8")
            beside.replace(folder / name)
        return [*pages, *_pictures(folder, report["levels"])]
    except OSError as error:
        raise _unwritable(folder, error) from error


def _pictures(folder: Path, levels: Sequence[Mapping[str, Any]]) -> list[str]:
    if find_spec("matplotlib") is None:
        return []
    from lmi.bench.pictures import save

    names = []
    for name, (title, paths) in PLOTS.items():
        save(folder / f"{name}.png", title, *_series(levels, paths))
        names.append(f"{name}.png")
    return names


def _series(
    levels: Sequence[Mapping[str, Any]], paths: Sequence[str]
) -> tuple[list[int], dict[str, list[float | None]]]:
    """Numbers of clients, and for each path its values as they are shown."""
    ordered = sorted(levels, key=lambda level: int(level["n_at_once"]))
    lines: dict[str, list[float | None]] = {}
    for path in paths:
        values = [value_of(level, path) for level in ordered]
        scale = COLUMNS[path][1]
        lines[path.rpartition(".")[2]] = [None if value is None else value * scale for value in values]
    return [int(level["n_at_once"]) for level in ordered], lines


def page(report: Mapping[str, Any]) -> str:
    """The report as one page of HTML that asks nothing of the network."""
    levels = report["levels"]
    asked = "".join(f"<tr><th>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>"
                    for key, value in report["asked"].items())  # fmt: skip
    head = "".join(f"<th>{escape(title)}</th>" for title, _ in COLUMNS.values())
    rows = "".join("<tr>" + "".join(_cell(level, path) for path in COLUMNS) + "</tr>\n" for level in levels)
    plots = "\n".join(line_plot(title, *_series(levels, paths)) for title, paths in PLOTS.values())
    option = f"<code>{escape(report['advice']['option'])}</code>: " if report["advice"]["option"] else ""
    return _PAGE.format(
        advice=option + escape(report["advice"]["sentence"]), head=head, rows=rows, plots=plots, asked=asked,
        errors=_errors(levels),
    )  # fmt: skip


def _cell(level: Mapping[str, Any], path: str) -> str:
    value = value_of(level, path)
    exact = "" if value is None else f' value="{value!r}"'
    return f'<td><data class="{path}"{exact}>{shown(level, path)}</data></td>'


def _errors(levels: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        f"<tr><td>{level['n_at_once']}</td><td>{escape(code)}</td><td>{n}</td>"
        f"<td>{escape(level['messages'].get(code, ''))}</td></tr>"
        for level in levels
        for code, n in level["errors"].items()
    ]
    head = "<tr><th>at once</th><th>code</th><th>requests</th><th>for example</th></tr>"
    return f"<h2>Errors</h2><table>{head}{''.join(rows)}</table>" if rows else ""


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>lmi bench</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em; color: #222; }}
table {{ border-collapse: collapse; margin: 1em 0; }}
th, td {{ padding: 3px 10px; border-bottom: 1px solid #ddd; text-align: right; font-variant-numeric: tabular-nums; }}
svg text {{ font: 11px system-ui, sans-serif; }}
svg .title {{ font-weight: 600; font-size: 12px; }}
svg .grid {{ stroke: #e5e5e5; }}
</style></head><body>
<h1>lmi bench</h1>
<p id="advice">Next: {advice}</p>
<table id="levels"><thead><tr>{head}</tr></thead><tbody>
{rows}</tbody></table>
{plots}
{errors}
<h2>Asked</h2>
<table>{asked}</table>
</body></html>
"""
