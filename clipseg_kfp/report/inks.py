"""Line colors with enough contrast to the page, in its light and its dark scheme."""

from __future__ import annotations

#: The backgrounds of theme.css.j2 with the least contrast: --page of the light scheme, --card of the dark one.
GROUNDS = ("#f5f6f8", "#171b21")
LEAST = 3.0  # WCAG 2.2, success criterion 1.4.11: graphics needed to understand the page
_STEPS = 50


def inks(color: str) -> tuple[str, str]:
    """The nearest colors with enough contrast to a light and to a dark background.

    Args:
        color: ``#rrggbb``.

    Returns:
        The color for the light scheme, darker where needed, and that for the dark one, lighter where needed.
    """
    return _away(color, GROUNDS[0], 0), _away(color, GROUNDS[1], 255)


def contrast(first: str, second: str) -> float:
    """The ratio of two colors' luminances, 1 to 21. Source: WCAG 2.2, "contrast ratio"."""
    low, high = sorted(map(_luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def _away(color: str, ground: str, end: int) -> str:
    parts = _parts(color)
    for step in range(_STEPS + 1):
        mixed = [round(part + (end - part) * step / _STEPS) for part in parts]
        candidate = "#" + "".join(f"{part:02x}" for part in mixed)
        if contrast(candidate, ground) >= LEAST:
            return candidate
    raise AssertionError(f"no color between {color} and {end} stands out from {ground}")


def _luminance(color: str) -> float:
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (part / 255 for part in _parts(color))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _parts(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
