"""Plots as inline SVG: plain functions, numbers in, markup out.

Nothing but numbers and the words of this file get into the markup, so there is nothing to escape. Lines take
their colors from the page, as ``--ink``; the page's stylesheet does the rest, dark and light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 236
_LEFT, _TOP, _RIGHT, _BOTTOM = 42, 10, 12, 38
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        color: ``#rrggbb``; empty for the text's color.
        points: x and y, each 0 to 1.
        mark: a point to set a dot at.
        dots: set a dot at every point.
    """

    color: str
    points: Sequence[tuple[float, float]]
    mark: tuple[float, float] | None = None
    dots: bool = False


def chart(lines: Sequence[Line], label: str, x: str, y: str, *, diagonal: bool = False) -> Markup:
    """Draws lines over axes from 0 to 1.

    Args:
        lines: at least one point each.
        label: for those who do not see it; HTML is not escaped.
        x: name of the axis.
        y: name of the axis.
        diagonal: with the line on which both are equal.
    """
    parts = []
    for tick in _TICKS:
        left, top = _place((tick, tick))
        parts.append(
            f'<path class="grid" d="M{left:.1f} {_TOP}V{HEIGHT - _BOTTOM}M{_LEFT} {top:.1f}H{WIDTH - _RIGHT}"/>'
            f'<text x="{left:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{tick:g}</text>'
            f'<text x="{_LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{x}</text>'
        f'<text transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">{y}</text>'
    )
    if diagonal:
        parts.append(f'<path class="diagonal" d="{_path([(0, 0), (1, 1)])}"/>')
    for line in lines:
        ink = f' style="--ink: {line.color}"' if line.color else ""
        parts.append(f'<g{ink}><path class="line" d="{_path(line.points)}"/>')
        for point in [*(line.points if line.dots else ()), *([line.mark] if line.mark else ())]:
            left, top = _place(point)
            size = 4.5 if point == line.mark else 2.5
            parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{size}"/>')
        parts.append("</g>")
    return _svg("chart", WIDTH, HEIGHT, label, "".join(parts))


def bars(counts: Sequence[int], label: str) -> Markup:
    """Draws a small histogram over 0 to 1."""
    width, height, most = 96, 26, max(counts)
    step = width / len(counts)
    parts = [f'<path class="base" d="M0 {height - 0.5}H{width}"/>']
    for i, count in enumerate(counts):
        if count:
            tall = max(1.5, (height - 1) * count / most)
            parts.append(
                f'<rect x="{i * step + 0.4:.1f}" y="{height - 1 - tall:.1f}" width="{step - 0.8:.1f}" '
                f'height="{tall:.1f}"/>'
            )
    return _svg("bars", width, height, label, "".join(parts))


def span(value: float, low: float | None, high: float | None, label: str) -> Markup:
    """Draws a value between 0 and 1 with its interval."""
    width, height, pad = 120, 14, 4
    reach = width - 2 * pad
    parts = [f'<path class="base" d="M{pad} 7H{width - pad}"/>']
    if low is not None and high is not None:
        parts.append(f'<path class="range" d="M{pad + reach * low:.1f} 7H{pad + reach * high:.1f}"/>')
    parts.append(f'<circle cx="{pad + reach * value:.1f}" cy="7" r="3.5"/>')
    return _svg("span", width, height, label, "".join(parts))


def _svg(kind: str, width: int, height: int, label: str, content: str) -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{content}</svg>'
    )


def _place(point: tuple[float, float]) -> tuple[float, float]:
    x, y = (min(max(value, 0.0), 1.0) for value in point)
    return _LEFT + x * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - y * (HEIGHT - _TOP - _BOTTOM)


def _path(points: Sequence[tuple[float, float]]) -> str:
    places = [_place(point) for point in points]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
