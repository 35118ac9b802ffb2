"""Formats of names, numbers and times in the report."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from clipseg_kfp.naming import printable

MAX_TEXT = 2_000  # characters shown of any one string; object keys stop at 1,024 bytes


def visible(text: str) -> str:
    r"""Spells out characters that hide or reorder text (``\u202e``) and shortens very long texts."""
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 1] + "…"
    return printable(text, keep="\t\n")


def percent(value: float | None) -> str:
    """Formats a share with one decimal; only exactly 0 and 1 read as 0.0% and 100.0%."""
    if value is None or not math.isfinite(value):
        return "\u2013"  # an en dash
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    return f"{value:.1%}"


def stretch(low: float, high: float) -> str:
    """Formats an interval of shares, with as few digits as tell its ends apart: ``61-90%``."""
    digits = 0 if high - low >= 0.02 else 1
    return f"{100 * low:.{digits}f}\N{EN DASH}{100 * high:.{digits}f}%"


def thousands(value: int) -> str:
    """Formats a count, for example ``1,204``."""
    return f"{value:,}"


def moment(text: str) -> str:
    """Formats an ISO 8601 time for people, in UTC; other text is returned unchanged."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"
