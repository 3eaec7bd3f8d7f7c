# SPDX-License-Identifier: Apache-2.0
"""Plots as PNG, by matplotlib; imported only where that is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def save(file: Path, title: str, levels: Sequence[int], series: Mapping[str, Sequence[float | None]]) -> None:
    """Draw what ``line_plot`` draws; without a display, and without matplotlib's global state.

    Args:
        file: where to.
        title, levels, series: as there.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, line in series.items():
        values = [float("nan") if value is None else value for value in line]
        axes.plot(range(len(levels)), values, marker="o", label=name)
    axes.set_xticks(range(len(levels)), [str(level) for level in levels])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("at once")
    axes.set_title(title)
    axes.grid(visible=True, axis="y", alpha=0.3)
    if len(series) > 1:
        axes.legend()
    figure.savefig(file, dpi=120)
