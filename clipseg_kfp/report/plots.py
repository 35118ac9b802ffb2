"""Plots as inline SVG: plain functions, numbers in, markup out.

Only numbers and the words of this file get into the markup, so there is nothing to escape. A line carries its colors
for both schemes; plots.css.j2 does the rest. Lines differ by dash and marker as well as by color.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from clipseg_kfp.report.inks import inks

WIDTH, HEIGHT = 360, 236
_LEFT, _TOP, _RIGHT, _BOTTOM = 42, 10, 12, 38
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_STRIP = 0.16  # of the height: bars of counts
_DASHES = ("", "8 4", "2 3", "10 3 2 3")
#: Circle, square, triangle and diamond of about the same area, around 0 0.
_MARKERS = (
    "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0Z",
    "M-2.7-2.7H2.7V2.7H-2.7Z",
    "M0-3.8L3.6 2.7H-3.6Z",
    "M0-3.9L3.9 0L0 3.9L-3.9 0Z",
)
STYLES = len(_DASHES) * len(_MARKERS)
_DOTS = 5  # markers along a line
_BEST = 1.75  # scale of the marker at a line's best point


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        color: ``#rrggbb``; empty for the page's accent.
        points: x and y, each 0 to 1.
        mark: a point for a large marker.
        style: number of its dash and marker, below ``STYLES``.
        dots: a marker at every point, not only at some.
    """

    color: str
    points: Sequence[tuple[float, float]]
    mark: tuple[float, float] | None = None
    style: int = 0
    dots: bool = False


def chart(
    lines: Sequence[Line], label: str, x: str, y: str, *, diagonal: bool = False, strip: Sequence[int] = ()
) -> Markup:
    """Draws lines over axes from 0 to 1.

    Args:
        lines: at least one point each.
        label: for screen readers; HTML is not escaped.
        x: name of the axis.
        y: name of the axis.
        diagonal: draw the line x = y, too.
        strip: counts along the x axis, drawn as low bars with a logarithmic height.
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
    for i, count in enumerate(strip):
        if count:
            tall = _STRIP * math.log1p(count) / math.log1p(max(strip))
            (left, top), (right, bottom) = _place((i / len(strip), tall)), _place(((i + 1) / len(strip), 0))
            parts.append(
                f'<rect class="count" x="{left + 0.5:.1f}" y="{top:.1f}" width="{right - left - 1:.1f}" '
                f'height="{bottom - top:.1f}"/>'
            )
    if diagonal:
        parts.append(f'<path class="diagonal" d="{_path([(0, 0), (1, 1)])}"/>')
    for line in lines:
        step = 1 if line.dots else max(1, len(line.points) // _DOTS)
        first = 0 if line.dots else line.style * step // STYLES  # not where other lines have theirs
        parts.append(f"<g{_ink(line.color)}>{_stroke(line.style, _path(line.points))}")
        parts += [_marker(line.style, _place(point)) for point in line.points[first::step]]
        if line.mark:
            parts.append(_marker(line.style, _place(line.mark), "best", _BEST))
        parts.append("</g>")
    return _svg("chart", WIDTH, HEIGHT, f'role="img" aria-label="{label}"', "".join(parts))


def key(line: Line) -> Markup:
    """A sample of a line for the legend."""
    stroke = _stroke(line.style, "M1 7H37")
    parts = f"<g{_ink(line.color)}>{stroke}{_marker(line.style, (19.0, 7.0))}</g>"
    return _svg("key", 38, 14, 'aria-hidden="true"', parts)


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
    return _svg("bars", width, height, f'role="img" aria-label="{label}"', "".join(parts))


def span(value: float, low: float | None, high: float | None) -> Markup:
    """Draws a value between 0 and 1 with its interval."""
    width, height, pad = 120, 14, 4
    reach = width - 2 * pad
    parts = [f'<path class="base" d="M{pad} 7H{width - pad}"/>']
    if low is not None and high is not None:
        parts.append(f'<path class="range" d="M{pad + reach * low:.1f} 7H{pad + reach * high:.1f}"/>')
    parts.append(f'<circle cx="{pad + reach * value:.1f}" cy="7" r="3.5"/>')
    return _svg("span", width, height, 'aria-hidden="true"', "".join(parts))


def _svg(kind: str, width: int, height: int, attributes: str, content: str) -> Markup:
    return Markup(f'<svg class="{kind}" viewBox="0 0 {width} {height}" {attributes}>{content}</svg>')


def _ink(color: str) -> str:
    if not color:
        return ' class="ink"'
    light, dark = inks(color)
    return f' class="ink" style="--light: {light}; --dark: {dark}"'


def _stroke(style: int, path: str) -> str:
    dash = _DASHES[style % len(_DASHES)]
    return f'<path class="line"{f" stroke-dasharray={chr(34)}{dash}{chr(34)}" if dash else ""} d="{path}"/>'


def _marker(style: int, place: tuple[float, float], kind: str = "dot", scale: float = 1.0) -> str:
    shape = _MARKERS[(style + style // len(_DASHES)) % len(_MARKERS)]
    grown = f" scale({scale:g})" if scale != 1 else ""
    return f'<path class="{kind}" transform="translate({place[0]:.1f} {place[1]:.1f}){grown}" d="{shape}"/>'


def _place(point: tuple[float, float]) -> tuple[float, float]:
    x, y = (min(max(value, 0.0), 1.0) for value in point)
    return _LEFT + x * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - y * (HEIGHT - _TOP - _BOTTOM)


def _path(points: Sequence[tuple[float, float]]) -> str:
    places = [_place(point) for point in points]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
