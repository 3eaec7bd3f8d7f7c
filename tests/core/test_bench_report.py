# SPDX-License-Identifier: Apache-2.0
"""The report of lmi bench: its page says what its JSON says."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lmi.bench.advice import Advice
from lmi.bench.drawing import line_plot
from lmi.bench.report import COLUMNS, PLOTS, as_json, row_line, shown, value_of, write
from tests.core.test_bench import level

VOID = {"meta"}
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """A page taken apart; fails where an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.values: list[tuple[str, str | None]] = []
        self.sources: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.sources += [str(found[key]) for key in ("src", "href") if key in found]
        if tag == "data":
            self.values.append((str(found["class"]), found.get("value")))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """It opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


LEVELS = [
    level(1, 12.345678, errors={"a<b>": 2}, messages={"a<b>": '<script>"&'}),
    level(8, 99.9, gap_s={"p50": None, "p90": None, "p99": None}),
]


def written(folder: Path) -> tuple[dict[str, Any], str]:
    found = as_json({"url": "http://x/<y>"}, LEVELS, Advice(option="job_queue_size", sentence="1 < 2: raise it"))
    write(folder, found)
    return json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()


def test_the_page_has_the_numbers_of_the_json(tmp_path: Path) -> None:
    report, text = written(tmp_path)
    assert report["levels"] == [asdict(each) for each in LEVELS]
    cells = iter(Page(text).values)
    for each in report["levels"]:
        for path in COLUMNS:
            name, value = next(cells)
            assert name == path
            assert (None if value is None else json.loads(value)) == value_of(each, path)
    assert next(cells, None) is None


def test_the_page_asks_nothing_of_the_network_and_keeps_what_servers_say_as_text(tmp_path: Path) -> None:
    _, text = written(tmp_path)
    assert Page(text).sources == []
    assert "<script" not in text
    assert "&lt;script&gt;&quot;&amp;" in text
    assert "1 &lt; 2: raise it" in text


def test_every_plot_is_well_formed_and_draws_each_value_once(tmp_path: Path) -> None:
    _, text = written(tmp_path)
    plots = [ElementTree.fromstring(plot) for plot in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    assert [plot.findtext("title") for plot in plots] == [title for title, _ in PLOTS.values()]
    assert [len(plot.findall("circle")) for plot in plots] == [2, 6, 3]  # one level has no gaps


def test_a_plot_is_higher_where_the_value_is_greater_and_zero_is_its_floor() -> None:
    plot = ElementTree.fromstring(line_plot("t", [1, 2, 3], {"a": [0, 5, 10]}))
    heights = [float(circle.attrib["cy"]) for circle in plot.findall("circle")]
    assert heights[0] > heights[1] > heights[2]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2])


def test_a_row_for_the_terminal_has_every_column() -> None:
    assert row_line(LEVELS[1]).split() == [shown(asdict(LEVELS[1]), path) for path in COLUMNS]
    assert row_line(LEVELS[1]).split() == ["8", "100", "0", "1.0", "99.9", "100.0", "100.0", "100.0", "-", "-", "-"]


def test_without_matplotlib_there_are_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmi.bench.report.find_spec", lambda name: None)
    written(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_with_matplotlib_each_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written(tmp_path)
    assert {file.stem for file in tmp_path.glob("*.png")} == set(PLOTS)
    assert all(file.read_bytes().startswith(PNG) for file in tmp_path.glob("*.png"))
    assert "matplotlib.pyplot" not in sys.modules
