"""Progress of long work: a bar on a terminal, plain lines with rate and time left in a pod's log.

A step that the local runner starts writes to a pipe. With ``CLIPSEG_KFP_PROGRESS=events`` in its
environment it writes one JSON line a change instead, from which the parent draws the bars
(``clipseg_kfp.local.runner``).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clipseg_kfp.naming import printable

T = TypeVar("T")

LINE_SECONDS = 5.0  # plain lines come no faster than this
EVENT_SECONDS = 0.2
EVENT_PREFIX = "::progress "
EVENT_VARIABLE = "CLIPSEG_KFP_PROGRESS"


def say(step: str, text: str) -> None:
    """Prints one plain line of a step's log at once; what is not printable is spelled out."""
    print(f"[{step}] {printable(text)}", flush=True)


def track(step: str, items: Iterable[T], total: int, unit: str = "images") -> Iterator[T]:
    """Passes items through and reports on them.

    Args:
        step: what is running.
        items: the work.
        total: how many there are.
        unit: what is counted.
    """
    if os.environ.get(EVENT_VARIABLE) == "events":
        yield from _events(step, items, total, unit)
    elif sys.stdout.isatty():
        yield from _bar(step, items, total, unit)
    else:
        yield from _lines(step, items, total, unit)


def _bar(step: str, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console()) as progress:
        task = progress.add_task(step, total=total, rate="")
        start = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            rate = done / max(time.monotonic() - start, 1e-9)
            progress.update(task, advance=1, rate=f"{rate:.1f} {unit}/s")


def _events(step: str, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    def tell(done: int) -> None:
        event = {"step": step, "process": os.getpid(), "done": done, "total": total, "unit": unit}
        print(EVENT_PREFIX + json.dumps(event), flush=True)

    tell(0)
    done, told = 0, 0.0
    for item in items:
        yield item
        done += 1
        if time.monotonic() - told >= EVENT_SECONDS:
            told = time.monotonic()
            tell(done)
    tell(done)


def _lines(step: str, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_SECONDS and done < total:
            last = now
            rate = done / (now - start)
            left = (total - done) / rate
            say(step, f"{done:,}/{total:,} {unit}, {rate:.1f} {unit}/s, {_duration(left)} left")
    if done:
        seconds = max(time.monotonic() - start, 1e-9)
        say(step, f"{done:,}/{total:,} {unit} in {_duration(seconds)} ({done / seconds:.1f} {unit}/s)")


def _duration(seconds: float) -> str:
    if round(seconds) < 60:
        return f"{seconds:.0f} s" if round(seconds, 1) >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
