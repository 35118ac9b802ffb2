"""When recurring runs start: cron expressions, intervals and durations as people write them."""

from __future__ import annotations

import re
from typing import Any

from clipseg_kfp.errors import ParameterError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
#: What Kubeflow's cron knows besides fields.
_DESCRIPTORS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


def seconds(text: str, where: str) -> int:
    """Reads a duration: ``90``, ``90s``, ``15m``, ``6h``, ``1d``, ``2w``, or a combination such as ``1h30m``.

    Args:
        text: the duration.
        where: name of the option, for errors.

    Returns:
        Seconds, at least 1.

    Raises:
        ParameterError: the text is not a duration.
    """
    compact = text.strip().lower().replace(" ", "")
    found = re.findall(r"(\d+)([smhdw])", f"{compact}s" if compact.isdigit() else compact)
    total = sum(int(number) * _UNITS[unit] for number, unit in found)
    if total < 1 or not re.fullmatch(r"\d+|(\d+[smhdw])+", compact):
        raise ParameterError(
            f"{where}: '{text}' is not a duration.",
            "Write 90s, 15m, 6h, 1d or 1h30m.",
            code="duration",
            where=where,
        )
    return total


def duration(seconds: float | None) -> str:
    """Such as ``1:02:03`` or ``0:07``."""
    if seconds is None:
        return ""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def cron(expression: str) -> str:
    """Brings a cron expression into the form of Kubeflow Pipelines: six fields, seconds first.

    Five fields, as in crontab, get second 0. Descriptors such as ``@daily`` stay as they are.

    >>> cron("30 6 * * 1-5")
    '0 30 6 * * 1-5'

    Raises:
        ParameterError: wrong number of fields, or a value that Kubeflow does not take.
    """
    from croniter import croniter  # type: ignore[import-untyped]

    fields = expression.split()
    if len(fields) == 1 and fields[0].lower() in _DESCRIPTORS:
        return fields[0].lower()
    if len(fields) not in (5, 6):
        raise ParameterError(
            f"The cron expression '{expression}' has {len(fields)} fields.",
            "Write five (minute hour day month weekday) or six (second first), or @daily and the like.",
            code="cron_fields",
            where="cron",
        )
    fields = ["0", *fields] if len(fields) == 5 else fields
    try:
        croniter.expand(" ".join(fields), second_at_beginning=True)
        for field, names in zip(
            fields, (*[{}] * 4, croniter.ALPHACONV[3], croniter.ALPHACONV[4]), strict=True
        ):
            _like_kubeflow(field.lower(), names)
        if "7" in re.split(r"[,/-]", fields[5].partition("/")[0]):
            raise ValueError(f"[{expression}] Sunday is 0 or SUN")
    except ValueError as error:  # as croniter's own errors are
        raise ParameterError(
            f"The cron expression '{expression}' cannot be used: {error}.",
            "The fields are second (0-59), minute (0-59), hour (0-23), day of month (1-31), month (1-12) and "
            "day of week (0-6, Sunday is 0).",
            code="cron_value",
            where="cron",
        ) from None
    return " ".join(fields)


def _like_kubeflow(field: str, names: dict[str, Any]) -> None:
    """Refuses what croniter takes and Kubeflow does not: L, #, hashes, and ranges over the end."""
    for item in field.split(","):
        span = re.fullmatch(r"(?:[*?]|(\d+|[a-z]{3})(?:-(\d+|[a-z]{3}))?)(?:/\d+)?", item)
        if not span:
            raise ValueError(f"Kubeflow does not take '{item}'")
        first, last = (int(names.get(bound, bound)) for bound in (str(span[1] or 0), str(span[2] or 0)))
        if span[2] and first > last:
            raise ValueError(f"'{item}' ends before it begins")


def in_words(trigger: Any) -> str:
    """A trigger of the API on one line."""
    if trigger and trigger.cron_schedule and trigger.cron_schedule.cron:
        return f"cron {trigger.cron_schedule.cron}"
    periodic = trigger.periodic_schedule if trigger else None
    every = int(periodic.interval_second or 0) if periodic else 0
    for unit, length in reversed(_UNITS.items()):
        if every and every % length == 0:
            return f"every {every // length}{unit}"
    return "never"
