"""When recurring runs start: cron expressions, intervals and durations as people write them."""

from __future__ import annotations

import re
from typing import Any

from clipseg_kfp.errors import ParameterError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
#: Name, least and greatest value, and names of values of each of the six fields.
_FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("second", 0, 59, []),
    ("minute", 0, 59, []),
    ("hour", 0, 23, []),
    ("day of month", 1, 31, []),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)
_DESCRIPTORS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


def seconds(text: str, what: str) -> int:
    """Reads a duration: ``90``, ``90s``, ``15m``, ``6h``, ``1d``, ``2w``, or parts together such as ``1h30m``.

    Args:
        text: the duration.
        what: its name in messages.

    Returns:
        Seconds, one at least.

    Raises:
        ParameterError: no duration.
    """
    compact = text.strip().lower().replace(" ", "")
    parts = re.findall(r"(\d+)([smhdw])", compact)
    if compact.isdigit():
        total = int(compact)
    elif parts and "".join(number + unit for number, unit in parts) == compact:
        total = sum(int(number) * _UNITS[unit] for number, unit in parts)
    else:
        total = 0
    if total < 1:
        raise ParameterError(f"{what}: '{text}' is no duration.", "Write 90s, 15m, 6h, 1d or 1h30m.")
    return total


def duration(seconds: float | None) -> str:
    """Such as ``1:02:03`` or ``0:07``."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def cron(expression: str) -> str:
    """Brings a cron expression into the form of Kubeflow Pipelines: six fields, seconds first.

    Five fields, as crontab has them, get second 0. Descriptors such as ``@daily`` stay as they are.

    >>> cron("30 6 * * 1-5")
    '0 30 6 * * 1-5'

    Raises:
        ParameterError: a wrong number of fields, or a value that a field cannot have.
    """
    fields = expression.split()
    if len(fields) == 1 and fields[0].lower() in _DESCRIPTORS:
        return fields[0].lower()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ParameterError(
            f"The cron expression '{expression}' has {len(fields)} fields.",
            "Write five (minute hour day month weekday) or six (second first), or @daily and the like.",
        )
    for text, (name, least, most, names) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            _check(part, name, least, most, names, expression)
    return " ".join(fields)


def _check(part: str, name: str, least: int, most: int, names: list[str], expression: str) -> None:
    span, slash, step = part.partition("/")
    bounds = span.split("-") if span not in ("*", "?") else []
    values = [_value(bound, least, names) for bound in bounds]
    fine = (
        (not slash or (step.isdigit() and int(step) > 0))
        and len(values) <= 2
        and all(value is not None and least <= value <= most for value in values)
        and (len(values) < 2 or (values[0] or 0) <= (values[1] or 0))
        and (span != "?" or name.startswith("day"))
    )
    if not fine:
        hint = " Sunday is 0 or SUN." if name == "day of week" else ""
        raise ParameterError(
            f"The cron expression '{expression}' has '{part}' as its {name}.",
            f"It goes from {least} to {most}.{hint}",
        )


def _value(text: str, least: int, names: list[str]) -> int | None:
    if text.isdigit():
        return int(text)
    upper = text.upper()
    return names.index(upper) + least if upper in names else None


def in_words(trigger: Any) -> str:
    """A trigger of the API on one line."""
    if trigger is None:
        return "never"
    if trigger.cron_schedule and trigger.cron_schedule.cron:
        return f"cron {trigger.cron_schedule.cron}"
    every = int(trigger.periodic_schedule.interval_second or 0) if trigger.periodic_schedule else 0
    for unit in ("w", "d", "h", "m"):
        if every and every % _UNITS[unit] == 0:
            return f"every {every // _UNITS[unit]}{unit}"
    return f"every {every}s" if every else "never"
