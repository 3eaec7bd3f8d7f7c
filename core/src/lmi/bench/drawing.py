# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG, so that a report needs no library and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 30, 44
_N_LINES = 4
_COLOURS = ("#1f6feb", "#d97706", "#b91c1c", "#15803d")


def line_plot(title: str, levels: Sequence[int], series: Mapping[str, Sequence[float | None]]) -> str:
    """A plot over the number of clients, whose steps are as wide as each other.

    Args:
        title: with the unit.
        levels: numbers of clients.
        series: name -> a value for each level; None leaves a gap.
    """
    values = [value for line in series.values() for value in line if value is not None]
    top = max(values, default=0.0) or 1.0
    xs = [_LEFT + (_WIDTH - _LEFT - _RIGHT) * (index + 0.5) / len(levels) for index in range(len(levels))]
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<text x="{_LEFT}" y="16" class="title">{escape(title)}</text>',
        *_grid(top),
        *(_label(x, _HEIGHT - _BOTTOM + 16, str(level)) for x, level in zip(xs, levels, strict=True)),
        _label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "at once"),
    ]
    for index, (name, line) in enumerate(series.items()):
        parts += _line(name, line, xs, top, _COLOURS[index % len(_COLOURS)])
        if len(series) > 1:
            x = _WIDTH - _RIGHT - 46 * (len(series) - index)
            parts.append(f'<text x="{x}" y="16" fill="{_COLOURS[index % len(_COLOURS)]}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top


def _grid(top: float) -> list[str]:
    parts = []
    for index in range(_N_LINES + 1):
        value = top * index / _N_LINES
        y = _y(value, top)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    return parts


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'


def _line(name: str, line: Sequence[float | None], xs: Sequence[float], top: float, colour: str) -> list[str]:
    points = [(x, _y(value, top), value) for x, value in zip(xs, line, strict=True) if value is not None]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{escape(name)}: {value:.4g}</title></circle>'
        for x, y, value in points
    ]
    return [f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]
